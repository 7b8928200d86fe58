"""Progress of every environment: a share that is whole exactly when the task is won, whoever plays and however."""

from __future__ import annotations

import copy
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_envs import make
from lamer_envs.alfworld.progress import share
from lamer_envs.base import Env, State

SPECS = [
    "minesweeper:4x4-3",
    "sokoban:6x6-2",
    "sokoban:6x6-2-pits=1",
    "webshop:100",
    *(f"alfworld:{kind}" for kind in ("pick", "look", "clean", "heat", "cool", "pick2")),
]
ENVS = {spec: make(spec) for spec in SPECS}


def states(env: Env, seed: int, rng: random.Random, skill: float) -> list[tuple[State, bool]]:
    """The states of one episode, and whether each is won; with `skill` the expert's plan is followed."""
    state = env.reset(seed)
    seen = [(state, False)]
    for _ in range(env.max_turns + 20):
        plan = env.solve(state)
        action = plan[0] if plan and rng.random() < skill else rng.choice(env.admissible(state))
        step = env.step(state, action)
        state = step.state
        seen.append((state, step.success))
        if step.done:
            break
    return seen


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("spec", SPECS)
@given(seed=st.integers(0, 400), luck=st.integers(0, 2**32), skill=st.sampled_from([0.0, 0.7, 1.0]))
def test_progress_is_a_share_that_is_whole_exactly_when_it_is_won(
    spec: str, seed: int, luck: int, skill: float
) -> None:
    env = ENVS[spec]
    for state, won in states(env, seed, random.Random(luck), skill):
        told = env.progress(state)
        assert told is not None
        assert 0 <= told <= 1
        assert (told == 1) == won
        kept = copy.deepcopy(state)
        assert env.progress(json.loads(json.dumps(state))) == told
        assert state == kept


@pytest.mark.parametrize("spec", SPECS)
def test_an_experts_progress_ends_at_the_whole_and_grows_on_the_way(spec: str) -> None:
    env, steps = ENVS[spec], []
    for seed in range(12):
        told = [env.progress(state) or 0.0 for state, _ in states(env, seed, random.Random(0), 1.0)]
        assert told[0] < 1.0
        assert told[-1] == 1.0
        steps.append(len(set(told)))
    assert max(steps) >= 3


def test_progress_in_minesweeper_is_the_share_of_safe_cells_that_are_open() -> None:
    env = ENVS["minesweeper:4x4-3"]
    state = env.load({"size": 3, "mines": [[1, 1]], "opened": [[1, 2], [2, 2]]})
    assert env.progress(state) == 2 / 8
    assert env.progress(env.step(state, "(1, 1)").state) == 2 / 8


def test_progress_in_sokoban_is_the_share_of_boxes_that_are_home() -> None:
    env = ENVS["sokoban:6x6-2"]
    state = env.load({"xsb": ["#######", "#@$.-*#", "#######"]})
    assert env.progress(state) == 0.5
    assert env.progress(env.step(state, "right").state) == 1.0


def test_progress_in_webshop_is_half_the_score_of_what_is_open_and_all_of_what_was_bought() -> None:
    env = make("webshop:100")
    state = env.reset(3)
    assert env.progress(state) == 0.0
    for action in env.solve(state) or []:
        before, state = state, env.step(state, action).state
    assert env.progress(before) == 0.5
    assert env.progress(state) == 1.0


@pytest.mark.parametrize(
    ("condition", "part"),
    [
        (["and", ["at", 3], ["held", 7], ["hands"]], 1 / 3),
        (["or", ["and", ["at", 3], ["held", 7]], ["and", ["at", 4], ["held", 7]]], 0.5),
        (["not", ["held", 7]], 1.0),
        (["and"], 1.0),
        (["or"], 0.0),
        (True, 1.0),
        (["hot", 2], 1.0),
    ],
)
def test_of_a_condition_the_parts_that_hold_count(condition: object, part: float) -> None:
    state = {"at": 3, "held": None, "hot": [2]}
    assert share(condition, state) == pytest.approx(part)  # type: ignore[arg-type]


def test_an_environment_that_states_no_progress_says_none() -> None:
    class Bare(type(ENVS["minesweeper:4x4-3"])):  # type: ignore[misc]
        progress = Env.progress

    env = Bare(size=4, mines=3)
    assert env.progress(env.reset(0)) is None
    assert not env.offers("progress")
