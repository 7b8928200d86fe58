"""Preference pairs: who is compared with whom, what is left out, and that the returns say which of two is chosen."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_trainers.learning.preferences import PairRules, pairs_of, row_of
from lamer_trainers.learning.samples import Sample, samples_of
from training import make_trials

PLAIN = PairRules(gap=0.0, per_group=10_000)


def sample(trial: str, prompt: list[int], answer: list[int], value: float, **fields: Any) -> Sample:
    told = {"kind": "turn", "episode": 0, "turn": 0, "group": "task", **fields}
    return Sample(
        trial=trial, anchor="o", text="", prompt_token_ids=prompt, token_ids=answer, logprobs=[-0.5] * len(answer),
        policy_version="v", valid=True, reward=0.0, step_return=value, episode_return=value,
        episode_reward=0.0, discount=0.0, **told,
    )  # fmt: skip


@st.composite
def groups(draw: st.DrawFn) -> list[Sample]:
    """Trials of two tasks whose prompts and answers coincide often."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        task = draw(st.sampled_from("ab"))
        held = draw(st.booleans())
        for turn in range(draw(st.integers(1, 4))):
            prompt, answer = [draw(st.integers(1, 2)) for _ in range(2)], [draw(st.integers(3, 4))]
            kind = draw(st.sampled_from(["turn", "reflection"])) if turn else "turn"
            value = draw(st.sampled_from([-1.0, 0.0, 0.5, 3.0, 10.0]))
            found.append(sample(f"{task}{number}", prompt, answer, value, kind=kind, turn=turn, group=task, held=held))
    return found


@given(groups(), st.sampled_from(["turn", "trial", "both"]), st.sampled_from([0.0, 0.5, 4.0]), st.integers(1, 20))
def test_the_chosen_side_earned_more_by_the_gap_and_no_task_has_more_pairs_than_asked_for(samples, which, gap, most):
    pairs = pairs_of(samples, PairRules(which, gap, most))
    for pair in pairs:
        assert pair.chosen_return > pair.rejected_return
        assert pair.chosen_return - pair.rejected_return >= gap
        assert {call.group for call in (*pair.chosen, *pair.rejected)} == {pair.group}
    assert all(count <= most for count in Counter(pair.group for pair in pairs).values())


@given(groups())
def test_pairs_of_turns_have_one_prompt_and_two_answers_and_are_worth_the_mean_of_their_calls(samples):
    for pair in pairs_of(samples, PLAIN):
        (chosen,), (rejected,) = pair.chosen, pair.rejected
        assert chosen.prompt_token_ids == rejected.prompt_token_ids
        assert chosen.token_ids != rejected.token_ids
        assert chosen.kind == rejected.kind == pair.kind
        for side, value in ((chosen, pair.chosen_return), (rejected, pair.rejected_return)):
            alike = [
                one.step_return
                for one in samples
                if (one.group, one.kind, one.prompt_token_ids, one.token_ids)
                == (side.group, side.kind, side.prompt_token_ids, side.token_ids)
            ]
            assert value == pytest.approx(sum(alike) / len(alike))


@given(groups())
def test_every_difference_between_two_answers_to_a_prompt_is_found(samples):
    answers: dict[Any, dict[Any, list[float]]] = {}
    for one in samples:
        place = answers.setdefault((one.group, one.kind, tuple(one.prompt_token_ids)), {})
        place.setdefault(tuple(one.token_ids), []).append(one.step_return)
    means = [[sum(values) / len(values) for values in place.values()] for place in answers.values()]
    wanted = sum(a != b for place in means for at, a in enumerate(place) for b in place[at + 1 :])
    assert len(pairs_of(samples, PLAIN)) == wanted


@given(groups(), st.randoms(use_true_random=False))
def test_the_order_of_the_log_makes_no_difference(samples, rng):
    shuffled = list(samples)
    rng.shuffle(shuffled)
    rules = PairRules("both", 0.0, 3)
    assert Counter(map(repr, pairs_of(shuffled, rules, 1))) == Counter(map(repr, pairs_of(samples, rules, 1)))


@given(groups())
def test_sides_of_trials_share_no_call_and_with_what_they_share_are_the_whole_trials(samples):
    def calls(side: Any) -> Counter[Any]:
        return Counter((tuple(one.prompt_token_ids), tuple(one.token_ids)) for one in side)

    for pair in pairs_of(samples, PairRules("trial", 0.0, 10_000)):
        left, right = calls(pair.chosen), calls(pair.rejected)
        assert not left & right
        wholes = [calls(one for one in samples if one.trial == side[0].trial) for side in (pair.chosen, pair.rejected)]
        shared = wholes[0] & wholes[1]
        assert [left + shared, right + shared] == wholes
        assert pair.chosen[0].held == pair.rejected[0].held


def test_reflections_are_compared_only_if_asked_for_and_with_reflections_alone():
    alike = [
        sample("a", [1], [3], 5.0, kind="reflection", turn=1),
        sample("b", [1], [4], 1.0, kind="reflection", turn=1),
    ]
    alike += [sample("a", [1], [3], 9.0), sample("b", [1], [3], 0.0)]
    (pair,) = pairs_of(alike, PLAIN)
    assert (pair.kind, pair.chosen[0].trial, pair.chosen_return) == ("reflection", "a", 5.0)
    assert pairs_of(alike, replace(PLAIN, reflections=False)) == []


def test_trials_are_compared_by_what_their_first_turn_came_to():
    trials = make_trials(24, seed=3)
    samples = samples_of(trials)
    first = {one.trial: one.step_return for one in samples if (one.episode, one.turn) == (0, 0)}
    pairs = pairs_of(samples, PairRules("trial", 0.0, 10_000))
    assert pairs
    for pair in pairs:
        assert pair.chosen_return == first[pair.chosen[0].trial]
        assert pair.rejected_return == first[pair.rejected[0].trial]


def test_which_pairs_are_kept_follows_from_the_seed():
    samples = [sample(f"t{n}", [1], [n + 3], float(n)) for n in range(8)]
    kept = [
        [pair.chosen_return for pair in pairs_of(samples, PairRules(gap=0.0, per_group=5), seed)] for seed in (0, 0, 1)
    ]
    assert kept[0] == kept[1] != kept[2]


def test_a_row_has_the_logged_tokens_and_the_sum_of_their_logprobs():
    rng = random.Random(0)
    samples = [
        replace(sample(name, [1, 2], [3, 4], value), token_ids=[3, end], logprobs=[-rng.random(), -rng.random()])
        for name, end, value in (("a", 4, 2.0), ("b", 5, 0.0))
    ]
    row = row_of(pairs_of(samples, PLAIN)[0])
    assert (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) == ([1, 2], [3, 4], [3, 5])
    assert row["logged_chosen_logps"] == pytest.approx(sum(samples[0].logprobs))
    assert row["logged_rejected_logps"] == pytest.approx(sum(samples[1].logprobs))
