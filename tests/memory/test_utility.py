"""Values of records: from who saw them and what became of it, to what is shown next."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_memory import MemoryConfigError, MemoryRecord, ScoredRecord
from lamer_memory.utility import (
    LEAST_SPREAD,
    PRIOR_VARIANCE,
    PRIOR_WEIGHT,
    RETRY,
    SPREAD,
    WINDOW,
    Arm,
    Seen,
    Value,
    check_share,
    discounted,
    held_back,
    of_group,
    prior_of,
    ranked,
    value_of,
    valued,
)

outcomes = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def record(key: str, value: Value | None = None) -> MemoryRecord:
    made = MemoryRecord(key, f"task of {key}", 0, "reflection", f"text of {key}", False)
    return made if value is None else valued(made, value)


def scored(*records: MemoryRecord, scores: tuple[float, ...] | None = None) -> list[ScoredRecord]:
    return [ScoredRecord(one, 0.5 if scores is None else scores[i]) for i, one in enumerate(records)]


# -- counting ---------------------------------------------------------------------------------------------------------


@given(outcomes, outcomes)
def test_an_arm_has_the_mean_and_deviations_of_all_that_was_added_in_whatever_order(
    first: list[float], second: list[float]
) -> None:
    arm = Arm().add(*first).add(*second)
    every = first + second
    assert arm.n == len(every)
    assert arm.mean == pytest.approx(statistics.fmean(every))
    assert arm.m2 == pytest.approx(statistics.pvariance(every) * len(every), abs=1e-9)
    assert Arm().add(*reversed(every)) == Arm().add(*every)


def test_old_observations_give_way_to_new_ones() -> None:
    old = Arm().add(*[0.0] * 1000)
    assert old.n == WINDOW
    half = old.add(*[1.0] * int(WINDOW / 2))
    assert (half.n, half.mean) == (WINDOW, pytest.approx(0.5))
    assert half.add(*[1.0] * 1000).mean == pytest.approx(1.0)


@pytest.mark.parametrize("outcome", [math.nan, math.inf, -math.inf])
def test_an_outcome_that_is_no_number_is_refused(outcome: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number"):
        Arm().add(0.5, outcome)
    with pytest.raises(ValueError, match="must be a finite number"):
        of_group([Seen(("a",), (), outcome)])


@given(outcomes, outcomes)
def test_metadata_hold_a_value_exactly(shown: list[float], held: list[float]) -> None:
    value = Value().with_outcomes(shown, held)
    assert value_of(record("a", value)) == value


@pytest.mark.parametrize("broken", ["1", None, math.nan, -1.0, math.inf, 1e300])
def test_metadata_that_are_no_numbers_say_nothing(broken: object) -> None:
    found = record("a", Value().with_outcomes([1.0], [0.0]))
    metadata = {**found.metadata, "utility_shown_n": broken}
    assert not value_of(MemoryRecord("a", "t", 0, "reflection", "x", False, metadata)).known  # type: ignore[arg-type]


def test_a_value_is_the_difference_of_both_sides_with_the_error_of_a_difference() -> None:
    value = Value().with_outcomes([1.0, 0.5, 0.0, 1.0], [0.0, 0.5])
    variances = [(one + PRIOR_WEIGHT * PRIOR_VARIANCE) / (n + PRIOR_WEIGHT) / n for one, n in ((0.6875, 4), (0.125, 2))]
    assert value.mean == pytest.approx(0.625 - 0.25)
    assert value.error == pytest.approx(math.sqrt(sum(variances)))
    assert value.controlled
    assert not Value().with_outcomes([1.0]).controlled
    assert (Value().mean, Value().error, Value().known) == (0.0, math.inf, False)


# -- groups and the control -------------------------------------------------------------------------------------------


def test_a_group_compares_those_that_saw_a_record_with_those_it_was_held_back_from() -> None:
    group = [Seen(("a", "b"), (), 1.0), Seen(("a", "b"), (), 0.6), Seen((), ("a",), 0.2), Seen((), ("a",), 0.0)]
    found = of_group(group)
    assert set(found) == {"a"}, "what nobody was without cannot be compared"
    shown, held = found["a"]
    assert statistics.fmean(shown) - statistics.fmean(held) == pytest.approx(0.8 - 0.1)
    assert statistics.fmean(shown) == pytest.approx(-statistics.fmean(held))


def test_the_mean_over_unequal_groups_is_unbiased_where_tasks_differ_in_difficulty() -> None:
    """The truth is known: a record adds .2 whatever the task, and is shown to easy tasks more often than to hard ones.

    What is compared within groups finds it; the plain mean of who saw it is off by the tasks that it was shown to.
    """
    rng = random.Random(5)
    value, naive = Value(), []
    for task in range(600):
        easy = rng.random() < 0.5
        level, trials = (0.6, 8) if easy else (0.1, 4)
        group = []
        for trial in range(trials):
            held = held_back(0.5, 7, f"t{task}", trial)
            won = float(rng.random() < level + (0.0 if held else 0.2))
            group.append(Seen((), ("r",), won) if held else Seen(("r",), (), won))
        shown, away = of_group(group)["r"]
        naive += [one.outcome for one in group if one.shown]
        value = Value(Arm(*_plain(value.shown, shown)), Arm(*_plain(value.held, away)))
    assert value.mean == pytest.approx(0.2, abs=0.04)
    assert statistics.fmean(naive) - 0.35 > 0.28, "against the mean of all tasks it looks half as good again"


def _plain(arm: Arm, more: list[float]) -> tuple[float, float, float]:
    """All observations alike, for a value that is to be compared with the truth: no window."""
    n = arm.n + len(more)
    mean = (arm.n * arm.mean + sum(more)) / n
    return n, mean, arm.m2 + sum((one - mean) ** 2 for one in more)


@given(st.integers(0, 2**60), st.text(max_size=20), st.sampled_from([0.5, 0.25, 0.75, 0.1]))
def test_the_share_held_back_is_exact_in_every_block_and_drawn_from_the_seed(
    seed: int, task: str, share: float
) -> None:
    block = {0.5: 2, 0.25: 4, 0.75: 4, 0.1: 10}[share]
    drawn = [held_back(share, seed, task, trial) for trial in range(4 * block)]
    for first in range(0, len(drawn), block):
        assert sum(drawn[first : first + block]) == round(share * block)
    assert drawn == [held_back(share, seed, task, trial) for trial in range(4 * block)]


def test_who_is_held_back_depends_on_seed_and_task() -> None:
    first = [held_back(0.5, 1, f"t{task}", 0) for task in range(400)]
    assert 150 < sum(first) < 250
    assert first != [held_back(0.5, 2, f"t{task}", 0) for task in range(400)]
    assert not any(held_back(0.0, 1, f"t{task}", 0) for task in range(50))


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, "half", True, math.nan, math.inf, 0.99, 0.01])
def test_a_share_that_holds_all_or_nothing_sensible_back_is_refused(share: object) -> None:
    with pytest.raises(MemoryConfigError, match="control must be 0, or a share of trials from 1/16 to 15/16"):
        check_share(share)


def test_a_trial_is_worth_less_the_later_it_is_won() -> None:
    assert [discounted(episode) for episode in (0, 1, 2, None)] == [1.0, 0.6, pytest.approx(0.36), 0.0]


# -- choosing ---------------------------------------------------------------------------------------------------------

GOOD = Value().with_outcomes([0.6] * 50, [0.2] * 50)
BAD = Value().with_outcomes([0.1] * 50, [0.4] * 50)


def test_similar_leaves_everything_as_it_was_found() -> None:
    found = scored(record("bad", BAD), record("good", GOOD))
    assert ranked(found, "similar") == found


@pytest.mark.parametrize("select", ["value", "ucb"])
def test_what_helps_comes_first_and_what_harms_is_not_shown(select: str) -> None:
    found = scored(record("bad", BAD), record("new"), record("good", GOOD))
    task = next(f"t{i}" for i in range(100) if len(ranked(found, select, f"t{i}")) < 3)  # type: ignore[arg-type]
    keys = [entry.record.key for entry in ranked(found, select, task)]  # type: ignore[arg-type]
    assert keys == (["good", "new"] if select == "value" else ["new", "good"])


def test_one_task_in_twenty_is_shown_what_harms_so_that_a_changed_world_is_noticed() -> None:
    found = scored(record("bad", BAD))
    shown = sum(bool(ranked(found, "value", f"t{task}")) for task in range(4000))
    assert shown / 4000 == pytest.approx(RETRY, abs=0.015)


def test_ucb_weighs_likeness_value_and_what_is_little_known() -> None:
    known = scored(record("a", GOOD), record("b", GOOD), scores=(0.2, 0.9))
    assert [entry.record.key for entry in ranked(known, "ucb", "t")] == ["b", "a"]
    new = scored(record("a", GOOD), record("b"), scores=(0.5, 0.5))
    assert [entry.record.key for entry in ranked(new, "ucb", "t")] == ["b", "a"]
    assert [entry.record.key for entry in ranked(new, "value", "t")] == ["a", "b"]


def test_equal_records_stay_in_their_order() -> None:
    found = scored(*(record(f"r{i}") for i in range(9)))
    for select in ("value", "ucb"):
        assert ranked(found, select, "t") == found  # type: ignore[arg-type]


def test_many_records_that_each_cost_a_little_are_found_out_together() -> None:
    """None of them is known well enough by itself; a new one among them is not shown either."""
    rng = random.Random(1)
    values = []
    for _ in range(48):
        shown = [float(rng.random() < 0.30) for _ in range(8)]
        held = [float(rng.random() < 0.55) for _ in range(8)]
        values.append(Value().with_outcomes(shown, held))
    assert sum(value.harms for value in values) < 15
    prior = prior_of(values)
    assert prior.mean == pytest.approx(-0.22, abs=0.06)
    assert prior.harms(Value())
    assert sum(map(prior.harms, values)) > 40


def test_what_the_memory_as_a_whole_is_worth_decides_where_nothing_else_is_known() -> None:
    costs = Value().with_outcomes([-0.2] * 200, [0.2] * 200)
    new = [Value()] * 20
    assert prior_of(new, costs).mean == pytest.approx(-0.4)
    assert prior_of(new, costs).harms(Value())
    assert not prior_of([GOOD] * 20, costs).harms(Value()), "here it is known to be otherwise"
    found = scored(*(record(f"r{i}") for i in range(5)))
    shown = [len(ranked(found, "value", f"t{task}", costs)) for task in range(200)]
    assert set(shown) == {0, 5}
    assert shown.count(5) < 25


def test_value_shows_nothing_that_is_expected_to_cost_and_ucb_what_may_yet_be_good() -> None:
    doubtful = record("r", Value().with_outcomes([0.0] * 3, [0.3] * 3))
    task = next(f"t{i}" for i in range(100) if not ranked(scored(record("bad", BAD)), "ucb", f"t{i}"))
    assert ranked(scored(doubtful), "value", task) == []
    assert ranked(scored(doubtful), "ucb", task) == scored(doubtful)


def test_records_that_differ_count_each_for_itself() -> None:
    prior = prior_of([GOOD] * 5 + [BAD] * 5)
    assert math.sqrt(prior.variance) > 0.25
    assert not prior.harms(Value())
    assert prior.harms(BAD)
    assert not prior.harms(GOOD)


def test_of_nothing_nothing_is_concluded() -> None:
    assert prior_of([Value(), Value()]).mean == 0.0


def test_the_prior_is_the_moment_estimator_of_random_effects_around_what_is_known_of_all() -> None:
    """Computed by hand from the formulas of DerSimonian and Laird for three groups of equal size and one that is not,
    and from the normal posterior of a mean."""
    arms = ((20, 0.4), (20, -0.2), (40, 0.1), (9, 0.0))
    values = [Value(Arm(n, mean, n * 0.1), Arm(n, 0.0, n * 0.1)) for n, mean in arms]
    overall = Value(Arm(100, 0.05, 10.0), Arm(100, -0.05, 10.0))
    w = [1 / one.error**2 for one in values]
    y = [one.mean for one in values]
    mean = sum(a * b for a, b in zip(w, y, strict=True)) / sum(w)
    q = sum(a * (b - mean) ** 2 for a, b in zip(w, y, strict=True))
    tau2 = max(LEAST_SPREAD**2, (q - 3) / (sum(w) - sum(a * a for a in w) / sum(w)))
    around = 1 / (SPREAD**2 + overall.error**2)
    expected = (sum(w) * mean + around * 0.1) / (sum(w) + around)
    assert prior_of(values, overall) == (pytest.approx(expected), pytest.approx(tau2 + 1 / (sum(w) + around)))
