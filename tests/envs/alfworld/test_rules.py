"""What the commands of an ALFWorld household need and do."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alfworld_problems import kitchen, plain
from alfworld_reading import TREATMENTS, Reading
from lamer_envs import Env, State, make
from lamer_envs.alfworld.house import KINDS, House, house, shorten
from lamer_envs.alfworld.world import canonical

ENV = make("alfworld")
VERBS = ("go to {a}", "open {a}", "close {a}", "examine {a}", "use {a}", "look", "inventory", "help")
PAIRS = ("take {a} from {b}", "move {a} to {b}", "heat {a} with {b}", "cool {a} with {b}", "clean {a} with {b}",
         "slice {a} with {b}")  # fmt: skip


def load(kind: str = "heat", goal: str = "do it") -> State:
    return ENV.load({"pddl_problem": kitchen(kind), "goal": goal})


def play(state: State, *commands: str) -> State:
    """The state after commands that must all be valid."""
    for command in commands:
        step = ENV.step(state, command)
        assert step.valid, command
        state = step.state
    return state


def refused(state: State, command: str) -> bool:
    step = ENV.step(state, command)
    assert step.state == state
    assert step.reward == 0
    assert "nothing happens" in ENV.outcome(state, command, step)
    return not step.valid and command not in ENV.admissible(state)


def wander(seed: int, turns: int, start: State | None = None) -> State:
    """A state after some random turns."""
    rng = random.Random(seed)
    state = ENV.reset(seed) if start is None else start
    for _ in range(turns):
        choices = ENV.admissible(state)
        if not choices:
            break
        state = ENV.step(state, rng.choice(choices)).state
    return state


def conceivable(h: House) -> list[str]:
    names = sorted(h.names)
    return [v.format(a=a) for v in VERBS for a in names] + [
        p.format(a=a, b=b) for p in PAIRS for a in names for b in names
    ]


def consistent(h: House, state: dict[str, Any]) -> None:
    assert json.loads(json.dumps(state)) == state
    held = [o for o, where in enumerate(state["in"]) if not where]
    assert held == ([] if state["held"] is None else [state["held"]])
    assert all(len(where) <= 1 for where in state["in"])
    assert not set(state["hot"]) & set(state["cool"])
    assert all(h.receptacles[r].openable for r in state["open"])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), turns=st.integers(0, 40))
def test_a_command_is_admissible_exactly_if_it_is_valid(seed: int, turns: int) -> None:
    state = wander(seed, turns)
    h = house(state["house"])
    consistent(h, state)
    offered = ENV.admissible(state)
    assert len(set(offered)) == len(offered)
    valid = {command for command in conceivable(h) if ENV.parse(command) and ENV.step(state, command).valid}
    assert valid == set(offered)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), turns=st.integers(0, 30), kind=st.sampled_from(["pick", "look", "heat"]))
def test_the_same_holds_for_a_household_in_the_official_form(seed: int, turns: int, kind: str) -> None:
    state = wander(seed, turns, load(kind))
    h = house(state["house"])
    valid = {command for command in conceivable(h) if ENV.step(state, command).valid}
    assert valid == set(ENV.admissible(state))


@pytest.mark.parametrize("kind", KINDS)
def test_commands_and_wins_are_those_of_a_second_reading_of_the_rules(kind: str) -> None:
    env, wins, verbs = make("alfworld", types=kind), 0, set[str]()
    for seed in range(25):
        rng, state = random.Random(seed), env.reset(seed)
        reading = Reading(house(state["house"]))
        for _ in range(50):
            offered = env.admissible(state)
            assert set(offered) == reading.admissible(), state
            plan = env.solve(state) if rng.random() < 0.35 else None
            command = plan[0] if plan else rng.choice(offered)
            verbs.add(command.partition(" ")[0])
            step = env.step(state, command)
            won = reading.do(command)
            assert (step.valid, step.done, step.success, step.reward) == (True, won, won, 10.0 * won), (state, command)
            state, wins = step.state, wins + won
            if won:
                break
    assert wins >= 5
    assert verbs >= {"go", "open", "close", "take", "move", "examine"} | {kind} & set(TREATMENTS)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80) | st.from_regex(r"(go to|take|put|move) .{0,40}"))
def test_any_text_is_a_command_or_an_invalid_turn_without_effect(text: str) -> None:
    state = load()
    step = ENV.step(state, text)
    if not step.valid:
        assert step.state == state
    command = ENV.parse(text)
    assert step.valid is (command is not None and command in ENV.admissible(state))
    assert command is None or ENV.parse(command) == command


def test_going_where_one_stands_is_not_offered_not_even_to_another_receptacle_of_the_place() -> None:
    state = play(load(), "go to countertop 2")
    assert refused(state, "go to countertop 2")
    assert refused(state, "go to sinkbasin 1")
    assert {"examine countertop 2", "examine sinkbasin 1"} <= set(ENV.admissible(state))


def test_a_receptacle_without_a_place_cannot_be_reached() -> None:
    assert refused(load(), "go to safe 1")
    assert "safe" not in ENV.observe(load())


def test_only_one_thing_is_held() -> None:
    state = play(load(), "go to countertop 2", "take knife 1 from countertop 2", "go to countertop 1")
    assert refused(state, "take apple 3 from countertop 1")
    assert "take" not in " ".join(ENV.admissible(state))


def test_what_is_in_a_closed_receptacle_is_neither_listed_nor_takeable() -> None:
    state = play(load(), "go to fridge 1")
    assert "apple" not in ENV.observe(state).partition("Your task")[2].partition("\n")[2]
    assert "apple" not in ENV.compact(state).rpartition(";")[0]
    assert refused(state, "take apple 2 from fridge 1")
    state = play(state, "open fridge 1")
    assert "In it you see: apple 2." in ENV.observe(state)
    assert "has apple 2; can close take examine; hold nothing; at fridge 1" in ENV.compact(state)
    state = play(state, "take apple 2 from fridge 1", "close fridge 1")
    assert refused(state, "move apple 2 to fridge 1")
    assert refused(state, "close fridge 1")


def test_heating_cooling_and_cleaning_need_the_thing_in_hand_at_the_right_place_and_no_open_door() -> None:
    state = play(load(), "go to countertop 1")
    assert refused(state, "heat apple 3 with microwave 1")
    state = play(state, "take apple 3 from countertop 1")
    assert refused(state, "heat apple 3 with microwave 1")
    state = play(state, "go to microwave 1")
    assert "The microwave 1 is closed." in ENV.observe(state)
    state = play(state, "heat apple 3 with microwave 1")
    assert "You carry apple 3 (hot)." in ENV.observe(state)
    state = play(state, "go to fridge 1", "cool apple 3 with fridge 1")
    assert "You carry apple 3 (cool)." in ENV.observe(state)
    state = play(state, "go to microwave 1", "heat apple 3 with microwave 1", "go to sinkbasin 1")
    state = play(state, "clean apple 3 with sinkbasin 1")
    assert "You carry apple 3 (hot, clean)." in ENV.observe(state)
    assert refused(state, "clean apple 3 with countertop 2")


def test_only_what_can_be_heated_is_heated() -> None:
    state = play(load(), "go to microwave 1", "open microwave 1", "take mug 2 from microwave 1")
    assert refused(state, "heat mug 2 with microwave 1")


def test_using_a_lamp_leaves_it_on() -> None:
    state = play(load("look"), "go to sidetable 1", "use desklamp 1")
    assert "desklamp 1 (on)" in ENV.observe(state)
    again = play(state, "use desklamp 1")
    assert again == state
    assert refused(play(state, "go to fridge 1"), "use desklamp 1")


def test_looking_at_something_needs_the_lamp_on_here_and_the_thing_in_hand() -> None:
    lit = play(load("look"), "go to sidetable 1", "use desklamp 1", "go to microwave 1", "open microwave 1")
    state = play(lit, "take mug 2 from microwave 1")
    assert not state["won"]  # the lamp is elsewhere
    step = ENV.step(state, "go to sidetable 1")
    assert (step.success, step.done, step.reward) == (True, True, 10.0)
    unlit = play(
        load("look"), "go to microwave 1", "open microwave 1", "take mug 2 from microwave 1", "go to sidetable 1"
    )
    assert not unlit["won"]
    assert ENV.step(unlit, "use desklamp 1").success
    laid_down = play(unlit, "move mug 2 to sidetable 1")
    assert not ENV.step(laid_down, "use desklamp 1").success
    assert ENV.step(play(laid_down, "use desklamp 1"), "take mug 2 from sidetable 1").success


def test_only_what_is_carried_or_a_receptacle_here_can_be_examined() -> None:
    state = play(load(), "go to countertop 1")
    assert refused(state, "examine apple 3")
    assert refused(state, "examine fridge 1")
    state = play(state, "examine countertop 1", "take apple 3 from countertop 1")
    step = ENV.step(state, "examine apple 3")
    assert step.valid
    assert step.state == state
    assert ENV.outcome(state, "examine apple 3", step) == "examine apple 3: apple 3"


def test_things_go_only_where_they_fit() -> None:
    state = play(load(), "go to countertop 2", "take knife 1 from countertop 2")
    assert refused(state, "move knife 1 to sinkbasin 1")
    state = play(state, "go to drawer 1", "move knife 1 to drawer 1")
    assert refused(play(state, "take knife 1 from drawer 1"), "move knife 1 to drawer 2")  # closed


def test_two_of_a_kind_must_lie_in_the_same_receptacle() -> None:
    state = play(load("pick2"), "go to drawer 2", "open drawer 2", "take mug 1 from drawer 2", "go to fridge 1")
    state = play(state, "open fridge 1", "move mug 1 to fridge 1", "go to microwave 1", "open microwave 1")
    assert not state["won"]
    state = play(state, "take mug 2 from microwave 1", "go to fridge 1")
    assert ENV.step(state, "move mug 2 to fridge 1").reward == 10.0


def test_a_thing_that_was_heated_and_then_cooled_is_not_hot() -> None:
    state = play(load("heat"), "go to countertop 1", "take apple 3 from countertop 1", "go to microwave 1")
    state = play(
        state, "heat apple 3 with microwave 1", "go to fridge 1", "cool apple 3 with fridge 1", "open fridge 1"
    )
    assert not play(state, "move apple 3 to fridge 1")["won"]


def test_a_cold_start_counts() -> None:
    state = play(load("cool"), "go to fridge 1", "open fridge 1", "take apple 2 from fridge 1", "go to countertop 1")
    assert play(state, "move apple 2 to countertop 1")["won"]


def test_an_object_listed_in_two_receptacles_leaves_one_at_a_time() -> None:
    state = load()
    assert play(state, "go to drawer 1", "take knife 1 from drawer 1")["in"][4] == [1]
    assert "take knife 1 from countertop 2" in ENV.admissible(play(state, "go to countertop 2"))


def test_nothing_is_offered_after_the_win() -> None:
    state = load("pick")
    for command in ENV.solve(state) or []:
        state = ENV.step(state, command).state
    assert state["won"]
    assert ENV.admissible(state) == []
    step = ENV.step(state, "look")
    assert (step.valid, step.done, step.success, step.reward, step.state) == (False, True, True, 0.0, state)
    assert "The task is done." in ENV.observe(state)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("Go To  Countertop 1", "go to countertop 1"),
        ("\n TAKE\tApple 3 from\nCOUNTERTOP 1  ", "take apple 3 from countertop 1"),
        ("put apple 3 in/on fridge 1", "move apple 3 to fridge 1"),
        ("Put apple 3 in fridge 1", "move apple 3 to fridge 1"),
        ("put apple 3 on sidetable 1", "move apple 3 to sidetable 1"),
        ("put apple 3 into fridge 1", "move apple 3 to fridge 1"),
        ("put pen in box in drawer 1", None),
        ("put apple 3", None),
        ("LOOK", "look"),
        ("look at apple 3", None),
        ("go to", None),
        ("take apple 3", None),
        ("move  to fridge 1", None),
        ("fly to fridge 1", None),
        ("", None),
        ("go to " + "x" * 600, None),
    ],
)
def test_commands_in_odd_case_and_spacing(text: str, command: str | None) -> None:
    assert canonical(text) == command


def test_the_older_put_plays_as_move() -> None:
    state = play(load(), "go to countertop 1", "take apple 3 from countertop 1", "go to fridge 1", "open fridge 1")
    assert play(state, "put apple 3 in/on fridge 1") == play(state, "move apple 3 to fridge 1")


def test_a_name_may_hold_a_word_of_a_command() -> None:
    text = plain().replace("red_apple_1", "gift_from_tom").replace("kitchen_table_1", "way_to_yard")
    state = ENV.load({"pddl_problem": text})
    state = play(state, "go to fridge 1", "open fridge 1", "take gift from tom from fridge 1", "go to way to yard")
    assert play(state, "move gift from tom to way to yard")["won"]


@pytest.mark.parametrize(
    ("names", "short"),
    [
        ([], ""),
        (["fridge 1"], "fridge 1"),
        (["cabinet 1", "cabinet 2", "cabinet 3", "fridge 1"], "cabinet 1-3, fridge 1"),
        (["drawer 1", "drawer 2", "drawer 4"], "drawer 1-2, drawer 4"),
        (["kitchen table", "hall"], "kitchen table, hall"),
        (["red box 9", "red box 10"], "red box 9-10"),
    ],
)
def test_places_are_listed_in_short(names: list[str], short: str) -> None:
    assert shorten(names) == short


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_stays_small_and_keeps_its_household(kind: str) -> None:
    env: Env = make("alfworld", types=kind)
    sizes = [len(json.dumps(env.reset(seed))) for seed in range(50)]
    assert max(sizes) < 3_000
    assert sum(sizes) / len(sizes) < 1_500
