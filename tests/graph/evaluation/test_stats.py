"""Statistics agree with independent computations and know what they do not know."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import entropy as scipy_entropy

from lamer_graph.errors import ConfigError
from lamer_graph.evaluation.stats import (
    bootstrap,
    entropy,
    invalid_rate,
    paired_difference,
    paired_test,
    pass_at_k,
    summarise,
    task_success,
    trajectory_diversity,
    turns_per_episode,
    wilson,
)


def a_trial(task, *episodes, error=None, index=0):
    """A trial whose episodes are (success, [action or None ...]); None is an invalid turn."""
    made = [
        {"success": success, "turns": [{"action": action, "valid": action is not None} for action in actions]}
        for success, actions in episodes
    ]
    return {"task": {"id": task}, "trial": index, "episodes": made, "error": error}


pairs = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.one_of(st.none(), st.integers(0, 4))), min_size=1)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(counts):
    successes, n = counts
    theirs = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_one_trial_per_task_gives_the_wilson_interval():
    estimates = pass_at_k([(f"t{i}", 0 if i < 30 else (1 if i < 50 else None)) for i in range(100)], 3)
    assert [e.value for e in estimates] == [0.3, 0.5, 0.5]
    theirs = binomtest(30, 100).proportion_ci(0.95, method="wilson")
    assert (estimates[0].low, estimates[0].high) == pytest.approx((theirs.low, theirs.high))


def test_several_trials_per_task_are_a_mean_over_tasks_with_a_bootstrap_over_tasks():
    rng = random.Random(1)
    trials, shares = [], []
    for i in range(60):
        skill = rng.random()
        outcomes = [rng.random() < skill for _ in range(1 + i % 7)]  # unequal groups: a task counts once
        shares.append(np.mean(outcomes))
        trials += [(f"t{i:02}", 0 if won else None) for won in outcomes]
    estimate = pass_at_k(trials, 1)[0]
    theirs = scipy_bootstrap((shares,), np.mean, method="percentile", n_resamples=20_000, rng=3).confidence_interval
    assert estimate.value == pytest.approx(np.mean(shares))
    assert (estimate.low, estimate.high) == pytest.approx((theirs.low, theirs.high), abs=0.012)
    assert estimate.tasks == 60


def test_trials_of_one_task_do_not_count_as_independent():
    narrow = pass_at_k([(f"t{i}", 0 if i % 2 else None) for i in range(400)], 1)[0]
    wide = pass_at_k([(f"t{i % 10}", 0 if i % 2 else None) for i in range(400)], 1)[0]
    assert narrow.value == wide.value == 0.5
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)


def test_unanimous_tasks_still_leave_doubt():
    for first, bound in ((0, 0.8), (None, 0.2)):
        estimate = pass_at_k([(f"t{i // 8}", first) for i in range(80)], 1)[0]
        assert (estimate.low, estimate.high) == pytest.approx(wilson(10 * estimate.value, 10))
        assert abs((estimate.low if first == 0 else estimate.high) - bound) < 0.1


@settings(max_examples=60)
@given(pairs, st.randoms(use_true_random=False))
def test_pass_at_k_grows_with_k_lies_in_its_interval_and_ignores_order(trials, rng):
    estimates = pass_at_k(trials, 5)
    for low, high in pairwise(estimates):
        assert low.value <= high.value
    for estimate in estimates:
        assert 0 <= estimate.low <= estimate.high <= 1
    shuffled = rng.sample(trials, len(trials))
    assert pass_at_k(shuffled, 5) == estimates


def test_pass_at_k_reads_trials_as_well_as_pairs():
    trials = [
        a_trial("a", (False, ["x"]), (True, ["y"])),
        a_trial("b", (True, ["x"])),
        a_trial("c", (False, ["x"]), (False, ["y"]), (False, ["z"])),
    ]
    assert pass_at_k(trials, 3) == pass_at_k([("a", 1), ("b", 0), ("c", None)], 3)
    assert [e.value for e in pass_at_k(trials, 3)] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert task_success(trials, 1) == {"a": 0, "b": 1, "c": 0}


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = random.Random(7)
    hits = 0
    for _ in range(200):
        sample = [(rng.gauss(2.0, 1.0), 1.0) for _ in range(40)]
        low, high = bootstrap(sample, 400)
        hits += low <= 2.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_turns_and_invalid_rate_are_ratios_over_all_episodes():
    trials = [
        a_trial("a", (False, ["x", None, "y"]), (True, ["x"])),
        a_trial("a", (True, ["x", "y"])),
        a_trial("b", (True, [None, None, None, "x"])),
    ]
    assert turns_per_episode(trials).value == pytest.approx(10 / 4)
    assert invalid_rate(trials).value == pytest.approx(4 / 10)
    assert turns_per_episode(trials).low == pytest.approx(6 / 3)  # two tasks: the extremes are the tasks alone
    assert turns_per_episode(trials).high == pytest.approx(4)


def test_diversity_is_the_mean_entropy_of_first_episodes():
    trials = (
        [a_trial("a", (False, ["x", "y"]), (False, [str(i)])) for i in range(4)]  # always the same first episode
        + [a_trial("b", (False, [str(i)])) for i in range(4)]  # never
        + [a_trial("c", (False, [action])) for action in "xxxy"]
    )
    three_to_one = scipy_entropy([3, 1])
    assert trajectory_diversity(trials).value == pytest.approx((0 + np.log(4) + three_to_one) / 3)


@given(st.lists(st.integers(1, 50), min_size=1))
def test_entropy_agrees_with_scipy(counts):
    assert entropy(counts) == pytest.approx(scipy_entropy(counts), abs=1e-12)


def test_a_paired_difference_takes_out_the_difficulty_of_tasks():
    rng = random.Random(0)
    hard = {f"t{i}": rng.random() for i in range(50)}
    gains = {task: 0.1 + rng.gauss(0, 0.02) for task in hard}
    ours = {task: hard[task] + gains[task] for task in hard} | {"only ours": 1.0}
    estimate = paired_difference(ours, hard | {"only theirs": 0.0})
    values = list(gains.values())
    theirs = scipy_bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=3).confidence_interval
    assert estimate.value == pytest.approx(np.mean(values))
    assert (estimate.low, estimate.high) == pytest.approx((theirs.low, theirs.high), abs=0.001)
    assert estimate.tasks == 50
    assert estimate.low > 0


def test_a_summary_leaves_out_trials_that_an_error_ended_and_says_so():
    good = [a_trial("a", (True, ["x"])), a_trial("b", (False, ["x", None]))]
    lost = a_trial("c", (False, ["x"]), error={"type": "PolicyConnectionError"})
    summary = summarise([*good, lost], 2)
    assert (summary.trials, summary.tasks, summary.failed_trials) == (2, 2, 1)
    assert summary.pass_at == pass_at_k(good, 2)
    assert summary.to_json()["invalid_rate"]["value"] == pytest.approx(1 / 3)
    assert summary.to_json()["pass_at"][1]["tasks"] == 2


def test_a_failed_trial_that_was_played_again_is_no_longer_missing():
    lost = a_trial("a", (False, ["x"]), error={"type": "PolicyConnectionError"})
    summary = summarise([lost, a_trial("b", (True, ["x"])), a_trial("a", (True, ["x"]))], 1)
    assert (summary.trials, summary.failed_trials) == (2, 0)


def test_asking_about_nothing_is_an_error_with_a_reason():
    with pytest.raises(ConfigError, match="no finished trials"):
        pass_at_k([], 3)
    with pytest.raises(ConfigError, match="no finished trials"):
        summarise([a_trial("c", (False, ["x"]), error={"type": "X"})], 2)
    with pytest.raises(ConfigError, match="n=0"):
        pass_at_k([("a", 0)], 0)
    with pytest.raises(ConfigError, match="no task in common"):
        paired_difference({"a": 1.0}, {"b": 1.0})


# -- instances behind tasks -------------------------------------------------------------------------------------------


def test_tasks_of_one_instance_count_once_in_the_interval_and_each_in_the_value():
    firsts = [(f"t{i}", 0 if i % 4 == 0 else None) for i in range(80)]
    alike = {f"t{i}": f"layout {i // 20}" for i in range(80)}
    own = pass_at_k(firsts, 1)[0]
    same = pass_at_k(firsts, 1, alike)[0]
    assert own.value == same.value == 0.25
    assert (own.tasks, same.tasks) == (80, 80)
    # Every layout holds the same share, so that layouts alone say nothing of chance within them ..
    assert same.low == same.high == 0.25
    # .. and where they differ the interval is as wide as four observations make it.
    uneven = [(f"t{i}", 0 if i < 20 else None) for i in range(80)]
    wide = pass_at_k(uneven, 1, alike)[0]
    assert (wide.low, wide.high) == (0.0, 0.75)


def test_an_instance_for_each_task_changes_nothing():
    firsts = [(f"t{i}", i % 3) for i in range(30)]
    each = {f"t{i}": f"i{i:02}" for i in range(30)}
    assert pass_at_k(firsts, 3) == pass_at_k(firsts, 3, each)


def test_paired_tests_are_over_instances():
    ours, theirs = {f"t{i}": float(i < 8) for i in range(16)}, {f"t{i}": 0.0 for i in range(16)}
    assert paired_test(ours, theirs).p < 0.01
    assert paired_test(ours, theirs, {f"t{i}": str(i // 8) for i in range(16)}).p > 0.1
