"""Pits: hidden cells that swallow boxes, the same in every attempt at a task, which leave a level solvable."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_envs import EnvParameterError, InstanceError, check_env
from lamer_envs.sokoban.levels import level
from lamer_envs.sokoban.search import shortest
from sokoban_referee import MOVES, Plain, load, position, sokoban

SPEC = "sokoban:6x6-1-pits=2"


def cells(state: dict[str, Any]) -> set[tuple[int, int]]:
    """The pits as (row, column) from 0."""
    columns = level(state["level"]).columns
    return {divmod(pit, columns) for pit in state["pits"]}


class WithPits(Plain):
    """The referee of plain levels, for whom a box in a pit is stuck there."""

    def __init__(self, observation: str, pits: set[tuple[int, int]]) -> None:
        super().__init__(observation)
        self.pits = pits

    def move(self, position: Any, name: str) -> Any:
        return position if position[1] & self.pits else super().move(position, name)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([SPEC, "sokoban:6x6-2-pits=1"]))
def test_a_game_ends_exactly_when_it_cannot_be_won_any_more_pits_counted(seed: int, spec: str) -> None:
    env, rng = sokoban(spec), random.Random(seed)
    state = env.reset(seed)
    plain = WithPits(env.observe(state), cells(state))
    at = plain.start
    for _ in range(12):
        name = rng.choice(list(MOVES))
        step, at = env.step(state, name), plain.move(at, name)
        assert position(step.state) == at
        won = plain.distance(at) is not None
        assert (step.done and not step.success) == (not won)
        assert (env.solve(step.state) is not None) == won
        if step.done:
            return
        state = step.state


def test_the_expert_is_shortest_around_the_pits_and_one_lies_in_the_way_of_who_knows_none() -> None:
    env = sokoban(SPEC)
    for seed in range(60):
        start = env.reset(seed)
        plan = env.solve(start)
        assert plan is not None
        moves = [move for action in plan for move in action.split(", ")]
        assert len(moves) == WithPits(env.observe(start), cells(start)).distance(position(start)) <= env.max_moves
        here = level(start["level"])
        blind = shortest(here.room(), here.player, here.boxes)
        assert blind is not None
        state, done = start, False
        for move in blind:
            step = env.step(state, move)
            state, done = step.state, step.done
            if done:
                break
        assert done
        assert not step.success


def test_pits_are_on_bare_floor_hidden_from_every_text_and_the_same_when_played_again() -> None:
    env = sokoban(SPEC)
    for seed in range(60):
        state = env.reset(seed)
        shown = {key: value for key, value in state.items() if key != "pits"}
        assert len(set(state["pits"])) == 2
        assert all("".join(state["level"].split("/"))[pit] == "-" for pit in state["pits"])
        for seen in (env.observe, env.compact, env.render, env.about):
            assert seen(state) == seen(shown)
        assert env.step(state, "up").state["pits"] == state["pits"]
        assert json.loads(json.dumps(state)) == state
    assert "pits" in env.rules
    assert "pits" not in sokoban().rules


def test_a_level_is_held_out_with_whatever_pits_and_tasks_with_other_pits_are_other_instances() -> None:
    env = sokoban(SPEC)
    state = env.reset(0)
    elsewhere = {**state, "pits": [state["pits"][0]]}
    assert env.split_of(elsewhere) == env.split_of(state) == sokoban("sokoban:6x6-1").split_of(state)
    assert env.instance(elsewhere) != env.instance(state)
    rows = state["level"].split("/")
    here = level(state["level"])
    mirrored = {
        "xsb": [row[::-1] for row in rows],
        "pits": [[pit // here.columns + 1, here.columns - pit % here.columns] for pit in state["pits"]],
    }
    assert env.instance(env.load(mirrored)) == env.instance(state)


def test_levels_without_pits_are_what_they_were() -> None:
    state = sokoban("sokoban:6x6-1").reset(3)
    assert "pits" not in state
    assert sokoban("sokoban:6x6-1-pits=0") == sokoban("sokoban:6x6-1")
    assert sokoban(SPEC).spec == SPEC
    assert sokoban("sokoban:6x6-1-m5..12-t5-pits=2").spec == "sokoban:6x6-1-m5..12-t5-pits=2"


def test_an_instance_may_say_where_its_pits_are() -> None:
    rows = ["######", "#    #", "#@$ .#", "#    #", "#    #", "######"]
    state = sokoban().load({"xsb": rows, "pits": [[3, 4]]})
    assert state["pits"] == [15]
    step = sokoban().step(state, "right, right")
    assert step.done
    assert not step.success
    assert step.reward == pytest.approx(-0.1)
    assert sokoban().outcome(state, "right", step) == "right: box to (3, 4), stuck"
    assert sokoban().step(load(*rows), "right, right").success


@pytest.mark.parametrize(
    "pits",
    [7, "2,4", [[2]], [[2, 3]], [[2, 5]], [[2, 2]], [[1, 1]], [[9, 9]], [[True, 4]], [[2, 4], [2, 4]], [["2", 4]]],
)
def test_malformed_pits_are_refused(pits: Any) -> None:
    with pytest.raises(InstanceError, match="bare floor"):
        sokoban().load({"xsb": ["######", "#@$ .#", "#    #", "######"], "pits": pits})


@pytest.mark.parametrize(
    "spec", ["sokoban:6x6-1-pits=21", "sokoban:4x4-1-pits=3", "sokoban:6x6-1-pits=", "sokoban:-pits=1"]
)
def test_pits_that_fit_nowhere_are_refused(spec: str) -> None:
    with pytest.raises(EnvParameterError):
        sokoban(spec)


def test_the_checker_finds_nothing() -> None:
    assert not list(check_env(sokoban(SPEC)) or ())
