"""Households that stay: many chores in the same few households, where everything lies where it lay."""

from __future__ import annotations

import json
from itertools import islice
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_envs import EnvParameterError, State, make
from lamer_envs.alfworld.env import Alfworld
from lamer_envs.alfworld.experts import Explorer
from lamer_envs.alfworld.house import KINDS, House, house
from lamer_envs.alfworld.households import chores, household, rooms_for
from lamer_envs.alfworld.world import contents, goal_reached, play
from lamer_envs.checker import check_env


def alfworld(spec: str) -> Alfworld:
    env = make(spec)
    assert isinstance(env, Alfworld)
    return env


def goal(state: State) -> tuple[str, str, str]:
    h = house(state["house"])
    return h.kind, h.thing, h.target


@pytest.mark.parametrize("spec", ["alfworld:house=5", "alfworld:heat-house=1", "alfworld:look-t20-house=12"])
def test_it_keeps_the_protocol(spec: str) -> None:
    check_env(make(spec))


# -- parameters and specs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "spec"),
    [
        ("alfworld:house=8", "alfworld:house=8"),
        ("alfworld:house=8-t30", "alfworld:t30-house=8"),
        ("alfworld:house=008-heat+clean", "alfworld:clean+heat-house=8"),
    ],
)
def test_a_spec_makes_an_equal_environment(written: str, spec: str) -> None:
    env = make(written)
    assert env.spec == spec
    assert make(spec) == env
    assert make("alfworld", **env.params) == env
    assert json.loads(json.dumps(dict(env.params))) == env.params
    assert make(spec).reset(5) == env.reset(5)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"house": 0}, "house must be an integer from 1 to 1000, not 0; for example alfworld:house=8"),
        ({"house": True}, "house must be an integer"),
        ({"house": "two"}, "house must be an integer"),
        ({"house": 2, "split": "train"}, "households of their own: leave out house or split"),
        ({"house": 2, "data": "somewhere"}, "households of their own: leave out house or data"),
        ({"houses": 2}, "did you mean 'house'"),
    ],
)
def test_wrong_parameters_are_refused_in_one_clear_line(params: dict[str, Any], match: str) -> None:
    with pytest.raises(EnvParameterError, match=match) as caught:
        make("alfworld", **params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["house", "house=", "house=x", "house=2-house=3", "house=1001", "house=" + "9" * 5000])
def test_malformed_specs_are_refused(spec: str) -> None:
    with pytest.raises(EnvParameterError):
        make(f"alfworld:{spec}")


def test_households_drawn_for_one_task_are_as_they_were() -> None:
    env = alfworld("alfworld")
    state = env.reset(7)
    assert state["house"].startswith("clean mug sidetable\nput a clean mug in or on a sidetable\n20\ncabinet 1@0+o;")
    assert env.observe(state).startswith("Your task: ")
    assert "household" not in state
    assert "house" not in env.params
    assert "numbers" not in env.rules


# -- what stays -------------------------------------------------------------------------------------------------------


def test_tasks_of_a_household_are_equal_in_everything_but_the_chore() -> None:
    env = alfworld("alfworld:house=4")
    found: dict[int, set[str]] = {}
    asked: dict[int, set[tuple[str, str, str]]] = {}
    for seed in range(400):
        state = env.reset(seed)
        found.setdefault(state["household"], set()).add(state["house"].split("\n", 2)[2])
        asked.setdefault(state["household"], set()).add(goal(state))
        fresh = {key: value for key, value in state.items() if key not in ("house", "household")}
        assert fresh == {key: value for key, value in house(state["house"]).state().items() if key != "house"}
    assert set(found) == {0, 1, 2, 3}
    assert all(len(texts) == 1 for texts in found.values())
    assert len({text for texts in found.values() for text in texts}) == 4
    assert all(len(goals) > 30 for goals in asked.values())


def test_turns_splits_and_the_number_of_households_leave_a_household_as_it_is() -> None:
    few, many, brief = alfworld("alfworld:house=3"), alfworld("alfworld:t30-house=9"), alfworld("alfworld:t8-house=3")
    homes: dict[int, set[str]] = {}
    for env in (few, many, brief):
        for seed in range(120):
            state = env.reset(seed)
            homes.setdefault(state["household"], set()).add(state["house"].split("\n", 2)[2])
    assert len(homes) == 9
    assert all(len(texts) == 1 for texts in homes.values())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.sampled_from([6, 8, 10]), st.sampled_from([KINDS, ("heat", "cool"), ("look",)]))
def test_full_knowledge_does_every_chore_within_the_limit_and_none_is_done_at_the_start(
    number: int, limit: int, kinds: tuple[str, ...]
) -> None:
    rooms = rooms_for(kinds)
    home = household(number, rooms)
    for kind, found in chores(number, rooms, limit).items():
        assert len(set(found)) == len(found)
        for chore in found[::7]:
            h = House(home.text(chore, wording=1))
            assert (h.kind, h.thing, h.target) == chore
            assert chore.kind == kind
            env = alfworld("alfworld:house=1")
            state: Any = {**h.state(), "household": number}
            assert not goal_reached(h, state)
            commands = env.solve(state)
            assert commands
            assert len(commands) <= limit
            for command in commands:
                assert not state["won"]
                state = play(h, state, command)
            assert state["won"]
            assert state["household"] == number


# -- splits -----------------------------------------------------------------------------------------------------------


def test_a_chore_of_a_household_is_in_one_split_and_every_household_is_in_all_however_it_is_worded() -> None:
    env = alfworld("alfworld:house=3")
    assert env.splits == ("train", "val", "test", "ood")
    owner: dict[tuple[Any, ...], str] = {}
    wordings: dict[tuple[Any, ...], set[str]] = {}
    for split in env.splits:
        states = [env.reset(seed) for seed in islice(env.seeds(split), 120)]
        assert {state["household"] for state in states} == {0, 1, 2}
        for state in states:
            chore = (state["household"], *goal(state))
            assert owner.setdefault(chore, split) == split
            wordings.setdefault(chore, set()).add(house(state["house"]).words)
    assert max(map(len, wordings.values())) == 2
    assert {kind for (_, kind, *_), split in owner.items() if split == "ood"} <= {"cool", "pick2"}


def test_too_few_chores_to_hold_some_out_are_said() -> None:
    with pytest.raises(EnvParameterError, match="belongs to split 'val': it has too few different instances"):
        next(alfworld("alfworld:look-house=1").seeds("val"))


# -- what is told, and what can be learnt -----------------------------------------------------------------------------


def test_the_policy_is_told_which_household_it_is_in_and_that_things_lie_where_they_lay() -> None:
    env = alfworld("alfworld:house=4")
    assert "Whenever you come to one, its things lie where they lay" in env.rules
    state = env.reset(1)
    number = state["household"]
    lines = env.observe(state).split("\n")
    assert lines[0] == f"Household {number}."
    assert lines[1].startswith("Your task: ")
    assert env.compact(state).startswith(f"household {number}; go ")
    after = env.step(state, env.admissible(state)[0])
    assert after.observation.startswith(f"Household {number}.")


def explore(state: dict[str, Any], known: dict[int, list[int]]) -> tuple[int, dict[int, list[int]]]:
    """Turns that a player takes who remembers what lay where, and what it finds where in this episode."""
    h, player, found = house(state["house"]), Explorer(), dict[int, list[int]]()
    player.seen = {place: list(inside) for place, inside in known.items()}
    for turn in range(1, 200):
        for place in h.reach.get(state["at"], ()):
            if not h.receptacles[place].openable or place in state["open"]:
                found.setdefault(place, contents(state, place))
        after = play(h, state, player.act(h, state))
        assert after is not None
        state = after
        if state["won"]:
            return turn, found
    raise AssertionError("not won")


def test_who_has_been_in_a_household_before_needs_far_fewer_turns_for_another_chore() -> None:
    env = alfworld("alfworld:house=3")
    known: dict[int, dict[int, list[int]]] = {}
    for seed in islice(env.seeds("train"), 15):
        state = env.reset(seed)
        for place, inside in explore(state, {})[1].items():
            known.setdefault(state["household"], {}).setdefault(place, inside)
    tasks = [env.reset(seed) for seed in islice(env.seeds("test"), 60)]
    stranger = [explore(state, {})[0] for state in tasks]
    returning = [explore(state, known[state["household"]])[0] for state in tasks]
    assert mean(returning) < mean(stranger) - 3
    assert sum(turns <= 10 for turns in returning) >= sum(turns <= 10 for turns in stranger) + 15
