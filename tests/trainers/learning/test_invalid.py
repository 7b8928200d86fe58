"""An answer that is no action must not pay: what it costs in every environment, and how training says that it does."""

from __future__ import annotations

import random

import pytest

from lamer_envs import make
from lamer_trainers.learning.batch import read_batch
from lamer_trainers.learning.charges import penalty_of
from lamer_trainers.learning.invalid import WINDOW, InvalidWatch, invalid_metrics
from lamer_trainers.learning.samples import Credit, Limits, samples_of
from lamer_trainers.presets import PRESETS
from log_samples import a_trial, a_turn
from training import config

SPECS = ["minesweeper:4x4-3", "minesweeper:6x6-3", "sokoban:6x6-2", "sokoban:6x6-1-pits=1", "alfworld", "webshop:100"]
UNDOING = 1.0
"""Sokoban takes back what a box on its target had earned: that is a move's result, not what playing costs."""


def rewards_of_turns(spec, tasks=30):
    """Rewards of the legal turns of random and weak play that did not end the episode, and of invalid answers."""
    env, rng = make(spec), random.Random(0)
    legal, invalid = [], []
    for seed in range(tasks):
        for player in ("random", "weak"):
            state = env.reset(seed)
            for _ in range(env.max_turns):
                invalid.append(env.step(state, "nonsense").reward)
                action = env.weak(state, rng) if player == "weak" else rng.choice(env.admissible(state))
                step = env.step(state, action)
                lost = UNDOING * (spec.startswith("sokoban") and step.reward <= -UNDOING)
                legal.append(step.reward + lost)
                state = step.state
                if step.done:
                    break
    return legal, invalid


@pytest.mark.parametrize("spec", SPECS)
def test_with_what_the_trainer_charges_an_invalid_turn_costs_more_than_the_dearest_legal_one(spec):
    legal, invalid = rewards_of_turns(spec)
    charged = [reward - penalty_of(spec, Credit().invalid_penalty) for reward in invalid]
    assert max(charged) < min(legal)


@pytest.mark.parametrize("spec", SPECS)
def test_an_environment_says_of_itself_whether_its_own_charge_is_enough(spec):
    legal, invalid = rewards_of_turns(spec)
    env = make(spec)
    assert env.penalises_invalid == (max(invalid) < 0)
    assert env.invalid_is_cheap == (env.penalises_invalid and max(invalid) >= min(legal))


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_trains_without_a_charge_for_invalid_turns(name):
    assert PRESETS[name]["optimise"].get("invalid_penalty", Credit().invalid_penalty) >= 0.5


# -- metrics ----------------------------------------------------------------------------------------------------------


def trial(index, turns):
    """One episode of (reward, valid) turns."""
    made = a_trial(index=index)
    played = [{**a_turn(reward=reward), "valid": valid} for reward, valid in turns]
    made["episodes"] = [{**made["episodes"][0], "turns": played}]
    return {**made, "reflections": []}


def test_invalid_turns_are_compared_with_valid_ones_of_the_same_place():
    trials = [
        trial(0, [(-1.0, False), (5.0, True)]),  # returns with gamma 0.5: 1.5, 5
        trial(1, [(1.0, True), (2.0, True)]),  # 2, 2
        trial(2, [(3.0, True), (0.0, False)]),  # 3, 0
        trial(3, [(0.0, True), (0.0, True), (7.0, False)]),  # 1.75, 3.5, 7: no valid third turn
    ]
    got = invalid_metrics(samples_of(trials, Credit(gamma_step=0.5, invalid_penalty=0.5)))
    first = 1.5 - (2.0 + 3.0 + 1.75) / 3
    second = 0.0 - (5.0 + 2.0 + 3.5) / 3
    assert got == {"invalid/return_gap": pytest.approx((first + second) / 2), "invalid/compared": pytest.approx(2 / 3)}


def test_a_batch_without_invalid_turns_compares_nothing(tmp_path):
    metrics = read_batch([trial(n, [(float(n), True)]) for n in range(2)], config(tmp_path), Limits(), 0).metrics
    assert not [name for name in metrics if name.startswith("invalid/")]


def test_invalid_turns_that_grow_and_pay_are_warned_of_once_until_they_have_grown_again():
    watch = InvalidWatch()
    shares = [0.0] * WINDOW + [0.02 * n for n in range(1, 21)]
    said = [(n, text) for n, share in enumerate(shares) if (text := watch.warning(n, share, 0.3)) is not None]
    assert said[0][1] == (
        "update 9: invalid actions rose from 0% to 6% of turns and return 0.30 more than valid ones at the same place: "
        "saying nothing sensible pays; raise optimise.invalid_penalty"
    )
    assert 2 <= len(said) <= 6


@pytest.mark.parametrize(("shares", "gap"), [([0.0] * 5 + [0.5] * 10, -0.2), ([0.4] * 20, 1.0), ([0.0] * 20, None)])
def test_invalid_turns_that_cost_or_do_not_grow_are_not_warned_of(shares, gap):
    watch = InvalidWatch()
    assert [watch.warning(n, share, gap) for n, share in enumerate(shares)] == [None] * len(shares)
