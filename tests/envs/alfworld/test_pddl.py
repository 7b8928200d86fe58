"""Reading PDDL problems of the ALFRED domain, and refusing what is wrong with line and reason."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alfworld_problems import GOALS, KITCHEN_FACTS, KITCHEN_OBJECTS, kitchen, plain, problem
from lamer_envs import InstanceError, make
from lamer_envs.alfworld.generate import draw_household
from lamer_envs.alfworld.house import KINDS, House, house
from lamer_envs.alfworld.pddl import MAX_PROBLEM_CHARS, read_problem, shown_names, write_problem

ENV = make("alfworld")


def refusal(text: str) -> str:
    with pytest.raises(InstanceError) as caught:
        read_problem(text)
    message = str(caught.value)
    assert "\n" not in message
    assert re.match(r"PDDL problem, line \d+: ", message)
    return message


@pytest.mark.parametrize("kind", GOALS)
def test_all_six_goal_forms_are_read_and_won(kind: str) -> None:
    state = ENV.load({"pddl_problem": kitchen(kind), "goal": "do it"})
    h = house(state["house"])
    assert (h.kind, h.words) == (kind, "do it")
    assert h.thing == {"clean": "mug", "pick2": "mug", "look": "mug"}.get(kind, "apple")
    assert h.target == {"pick": "sidetable", "clean": "sidetable", "heat": "fridge", "cool": "countertop",
                        "pick2": "fridge", "look": "desklamp"}[kind]  # fmt: skip
    commands = ENV.solve(state)
    assert commands
    for command in commands:
        state = ENV.step(state, command).state
    assert state["won"]


def test_the_older_form_of_the_look_goal_is_read_too() -> None:
    older = """(and (exists (?ot - object ?a - agent ?l - location)
        (and (objectType ?ot DeskLampType) (toggleable ?ot) (isToggled ?ot) (objectAtLocation ?ot ?l)
             (atLocation ?a ?l)))
        (exists (?o - object ?a - agent) (and (objectType ?o MugType) (holds ?a ?o))))"""
    h = House(read_problem(problem(KITCHEN_OBJECTS, KITCHEN_FACTS, older)).house)
    assert (h.kind, h.thing, h.target) == ("look", "mug", "desklamp")


def test_identifiers_with_bar_are_numbered_per_type_from_the_last_one_down() -> None:
    names = read_problem(kitchen()).names
    shown = {identifier: name for identifier, name in names.items() if name.startswith("apple")}
    assert shown == {
        "apple_bar__minus_01_dot_20_bar__plus_00_dot_95": "apple 3",
        "apple_bar__plus_02_dot_04_bar__plus_00_dot_90": "apple 2",
        "apple_bar__plus_02_dot_73_bar__minus_00_dot_18": "apple 1",
    }
    assert names["sink_bar__plus_00_dot_31_bar__plus_00_dot_90_bar_sinkbasin"] == "sinkbasin 1"
    assert "apple" not in names.values()  # declared, but no fact mentions it


def test_plain_identifiers_show_underscores_as_spaces() -> None:
    state = ENV.load({"pddl_problem": plain(), "goal": "put the apple on the table"})
    assert "You can go to: fridge 1, kitchen table 1" in ENV.observe(state)
    for command in ("go to fridge 1", "open fridge 1", "take red apple 1 from fridge 1", "go to kitchen table 1"):
        step = ENV.step(state, command)
        assert step.valid, command
        state = step.state
    assert ENV.step(state, "move red apple 1 to kitchen table 1").success


@given(st.sets(st.from_regex(r"[a-c](_bar_[0-9]{1,2}){0,2}", fullmatch=True), max_size=12))
def test_names_with_numbers_are_one_to_n(identifiers: set[str]) -> None:
    names = shown_names(identifiers)
    assert names.keys() == identifiers
    for head in "abc":
        numbers = sorted(int(n.split()[1]) for n in names.values() if n.startswith(head + " "))
        assert numbers == list(range(1, len(numbers) + 1))


def test_what_the_problem_says_can_be_done_decides() -> None:
    h = house(ENV.load({"pddl_problem": kitchen()})["house"])
    flags = {o.name: o.flags for o in h.objects}
    assert flags["apple 2"] == "phcsC"
    assert flags["mug 1"] == "pw"
    assert flags["desklamp 1"] == "t"
    assert not any(o.type == "window" for o in h.objects)  # in no receptacle: nothing can be done with it
    assert {r.name for r in h.receptacles if r.place is None} == {"safe 1"}
    assert [r.name for r in h.receptacles if r.opened] == ["drawer 1"]


def test_without_words_the_goal_is_put_into_words() -> None:
    assert house(read_problem(kitchen("heat")).house).words == "put a hot apple in or on a fridge"


def test_the_words_of_a_goal_are_one_bounded_line() -> None:
    words = house(read_problem(kitchen(), "put\r\n it \x00 there\u2028now." + "x" * 900).house).words
    assert words.startswith("put it there now")
    assert len(words) <= 300


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_household_reads_back_as_itself(kind: str) -> None:
    for number in range(40):
        h = House(draw_household(kind, random.Random(f"{kind}{number}")))
        assert read_problem(write_problem(h), h.words).house == h.text


@pytest.mark.parametrize("text", [kitchen("heat"), plain()])
def test_a_read_household_can_be_written_and_read_again(text: str) -> None:
    h = House(read_problem(text, "do it").house)
    again = House(read_problem(write_problem(h), "do it").house)
    assert again.names == h.names
    assert again.objects == h.objects
    assert [r._replace(place=None) for r in again.receptacles] == [r._replace(place=None) for r in h.receptacles]


def test_what_official_files_repeat_is_read_once() -> None:
    objects = KITCHEN_OBJECTS + "    loc_bar_7_bar_6_bar_1_bar_45 - location\n"
    facts = KITCHEN_FACTS + "    (= (totalCost) 0) (= (distance loc_bar_0 loc_bar_1) 3) (openable Fridge_bar_1)\n"
    facts = facts.replace("Fridge_bar_1)", "Fridge_bar__plus_03_dot_00_bar__plus_00_dot_00)")
    assert read_problem(problem(objects, facts, GOALS["heat"])).house == read_problem(kitchen("heat")).house


# -- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, r"expected one '\(define"),
        ("hello", 1, r"expected one '\(define"),
        ("(define (problem x)\n(:objects)\n(:init", 3, r"the text ends inside the list opened on line 3"),
        ("(define (problem x)))", 1, r"a '\)' closes nothing"),
        ("(define (problem x) (:objects a - agent) (:init))", 1, r"the problem has no \(:goal"),
        ("(" * 60 + ")" * 60, 1, "nested deeper than 40"),
    ],
)
def test_broken_syntax(text: str, line: int, reason: str) -> None:
    message = refusal(text)
    assert message.startswith(f"PDDL problem, line {line}: ")
    assert re.search(reason, message)


def changed(old: str, new: str) -> tuple[str, int]:
    """The plain problem with one change, and the line that it is on."""
    text = plain()
    assert text.count(old) == 1, old
    return text.replace(old, new), text[: text.index(old)].count("\n") + 1


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("(openable fridge_1)", "(openble fridge_1)", "no predicate 'openble'; did you mean 'openable'"),
        ("(openable fridge_1)", "(openable frige_1)", "'frige_1' is not declared in :objects; did you mean 'fridge_1'"),
        ("(openable fridge_1)", "(openable)", r"\(openable ..\) takes \(receptacle\), not nothing"),
        ("(openable fridge_1)", "(openable red_apple_1)", r"takes \(receptacle\), not \(object\)"),
        ("(openable fridge_1)", "openable", "expected a fact such as"),
        ("(openable fridge_1)", "()", "expected a fact such as"),
        ("(openable fridge_1)", "(openable (fridge_1))", "takes names, not lists"),
        ("desk_lamp_1 - object", "desk_lamp_1 - objekt", "unknown type 'objekt'; the ALFRED domain has agent"),
        ("desk_lamp_1 - object", "desk;lamp_1 - object", "."),
        ("desk_lamp_1 - object", "desk=lamp - object", "'desk=lamp' is no identifier"),
        ("desk_lamp_1 - object", "desk_lamp_1 agent1 - object", "'agent1' is declared as agent and as object"),
        ("place_1 place_2 hall - location", "place_1 place_2 hall", "'place_1' has no type"),
        ("(pickupable red_apple_1)", "(holds agent1 red_apple_1)", "starts with empty hands"),
        ("(objectType red_apple_1 AppleType)", "(objectType red_apple_1 AppleType) (objectType red_apple_1 LampType)",
         "two values of objecttype"),
        ("(receptacleAtLocation fridge_1 place_1)",
         "(receptacleAtLocation fridge_1 place_1) (receptacleAtLocation fridge_1 hall)", "two values"),
        ("(atLocation agent1 hall)", "", r"expected \(atLocation AGENT LOCATION\) for one agent, found 0"),
    ],
)  # fmt: skip
def test_wrong_facts_are_named_with_their_line(old: str, new: str, reason: str) -> None:
    text, line = changed(old, new)
    message = refusal(text)
    assert re.search(reason, message), message
    if "AGENT" not in reason and "empty hands" not in reason and reason != ".":
        assert message.startswith(f"PDDL problem, line {line}: "), message


def test_two_things_of_one_name_are_refused() -> None:
    text = plain().replace("desk_lamp_1 - object", "desk_lamp_1 red__apple_1 - object")
    text = text.replace("(openable fridge_1)", "(openable fridge_1) (inReceptacle red__apple_1 fridge_1)")
    assert "2 identifiers would all be shown as 'red apple 1'" in refusal(text)


def test_a_problem_of_unreasonable_size_is_refused_quickly() -> None:
    start = time.process_time()
    assert f"at most {MAX_PROBLEM_CHARS}" in refusal("(" * (MAX_PROBLEM_CHARS + 1))
    refusal("(define " + "(x)" * 100_000)
    assert time.process_time() - start < 5


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_damaged_gives_an_instance_error_or_a_playable_household(data: st.DataObject) -> None:
    text = plain()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.text(alphabet="()? -_abfridge1\n;", max_size=6)) + text[at + length :]
    try:
        state = ENV.load({"pddl_problem": text})
    except InstanceError:
        refusal(text)
    else:
        for command in ENV.admissible(state):
            assert ENV.step(state, command).valid
