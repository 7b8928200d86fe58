"""Boards of a MineSweeper family have their mines in the same few cells, and lessons of one hold on the others."""

from __future__ import annotations

import itertools
import json
import random
from itertools import islice
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_envs import EnvParameterError, State, make
from lamer_envs.checker import check_env
from lamer_envs.minesweeper.env import Minesweeper, family_probabilities, mine_probabilities


def minesweeper(spec: str) -> Minesweeper:
    env = make(spec)
    assert isinstance(env, Minesweeper)
    return env


def mined(states: list[State]) -> set[int]:
    return {i for state in states for i, mark in enumerate(state["mines"]) if mark == "1"}


def drawn(env: Minesweeper, split: str, count: int) -> list[State]:
    return [env.reset(seed) for seed in islice(env.seeds(split), count)]


@pytest.mark.parametrize(
    "spec", ["minesweeper:4x4-3-family=3", "minesweeper:5x5-4-t20-family=0-9", "minesweeper:family=7"]
)
def test_it_keeps_the_protocol(spec: str) -> None:
    check_env(make(spec))


# -- parameters and specs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "spec"),
    [
        ("minesweeper:family=3", "minesweeper:6x6-3-family=3"),
        ("minesweeper:4x4-3-family=3", "minesweeper:4x4-3-family=3"),
        ("minesweeper:4x4-3,family=3", "minesweeper:4x4-3-family=3"),
        ("minesweeper:4x4-3-family=0-9", "minesweeper:4x4-3-family=0-9"),
        ("minesweeper:4x4-3-family=0-9-t12", "minesweeper:4x4-3-t12-family=0-9"),
        ("minesweeper:5x5-4,t20,family=007", "minesweeper:5x5-4-t20-family=7"),
        ("minesweeper:family=2-4,t9", "minesweeper:6x6-3-t9-family=2-4"),
    ],
)
def test_a_spec_makes_an_equal_environment(written: str, spec: str) -> None:
    env = make(written)
    assert env.spec == spec
    assert make(spec) == env
    assert make("minesweeper", **env.params) == env
    assert json.loads(json.dumps(dict(env.params))) == env.params
    assert make(spec).reset(5) == env.reset(5)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(4, 3), (5, 4), (6, 3), (4, 2)]), st.integers(0, 400), st.integers(0, 3), st.booleans())
def test_what_the_keywords_say_the_spec_says(board: tuple[int, int], low: int, more: int, turns: bool) -> None:
    family = f"{low}-{low + more}" if more else low
    env = make("minesweeper", size=board[0], mines=board[1], family=family, max_turns=20 if turns else None)
    assert make(env.spec) == env
    assert make(env.spec).params == env.params


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"family": -1}, "family must be an integer from 0 to 9999.*family=3 for one"),
        ({"family": True}, "family must be an integer"),
        ({"family": "x"}, "family must be an integer.*'0-9' for ten"),
        ({"family": "5-2"}, "from a lower to a higher number"),
        ({"family": "0-500"}, "at most 100 families"),
        (
            {"size": 4, "mines": 1, "family": 1},
            "4x4 boards with 1 mine would need 30 cells.*minesweeper:4x4-3-family=3",
        ),
        ({"size": 3, "mines": 3, "family": 1}, "two thirds of the board"),
        ({"size": 16, "mines": 41, "family": 1}, "at most 40 mines, not 41"),
        ({"size": 4, "mines": 3, "max_turns": 3, "family": 1}, "within 3 turns; allow more turns"),
        ({"familly": 3}, "did you mean 'family'"),
    ],
)
def test_wrong_parameters_are_refused_in_one_clear_line(params: dict[str, object], match: str) -> None:
    with pytest.raises(EnvParameterError, match=match) as caught:
        make("minesweeper", **params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["4x4-3-family=1-family=2", "4x4-3-family=", "family=1 4x4-3", "4x4-3family=1", "4x4-3-family=1-2-3", ",t9"]
)
def test_malformed_specs_are_refused_with_what_would_be_right(spec: str) -> None:
    with pytest.raises(EnvParameterError, match="minesweeper:6x6-3"):
        make(f"minesweeper:{spec}")


def test_boards_of_no_family_are_as_they_were() -> None:
    env = minesweeper("minesweeper:4x4-3")
    assert env.reset(7) == {"size": 4, "mines": "1001000000000001", "opened": "0100000000000000", "hit": None}
    assert env.params == {"size": 4, "mines": 3, "max_turns": 10}
    assert "have something in common" not in env.rules
    assert env.about(env.reset(7)) == env.observe(env.reset(7))


# -- what a family shares ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "cells"), [("4x4-3", 7), ("5x5-4", 7), ("6x6-3", 7), ("4x4-2", 9)])
def test_all_mines_of_a_family_lie_in_few_cells(spec: str, cells: int) -> None:
    env = minesweeper(f"minesweeper:{spec}-family=5")
    states = [env.reset(seed) for seed in range(600)]
    assert len(mined(states)) == cells
    assert all(state["mines"].count("1") == env.mines for state in states)
    assert 30 <= len({state["mines"] for state in states}) <= comb(cells, env.mines)
    assert all(1 <= len(env.solve(state) or []) <= env.max_turns for state in states)


def test_families_differ_and_a_longer_budget_does_not_change_them() -> None:
    pools = [mined([minesweeper(f"minesweeper:4x4-3-family={f}").reset(seed) for seed in range(300)]) for f in range(6)]
    assert len({frozenset(pool) for pool in pools}) == 6
    longer = minesweeper("minesweeper:4x4-3-t30-family=5")
    assert mined([longer.reset(seed) for seed in range(300)]) == pools[5]


def test_one_of_several_families_is_the_family_of_its_own_number() -> None:
    several = minesweeper("minesweeper:4x4-3-family=3-5")
    states = [several.reset(seed) for seed in range(900)]
    for family in (3, 4, 5):
        own = [state for state in states if state["family"] == family]
        alone = minesweeper(f"minesweeper:4x4-3-family={family}")
        assert 200 < len(own) < 400
        assert mined(own) == mined([alone.reset(seed) for seed in range(300)])


# -- splits -----------------------------------------------------------------------------------------------------------


def test_every_family_is_in_every_split_with_ten_layouts_that_no_other_split_has() -> None:
    env = minesweeper("minesweeper:4x4-3-family=0-4")
    owner: dict[str, str] = {}
    for split in env.splits:
        states = drawn(env, split, 400)
        assert all(env.split_of(state) == split for state in states)
        for state in states:
            assert owner.setdefault(state["mines"], split) == split  # of whichever family
        for family in range(5):
            assert len({state["mines"] for state in states if state["family"] == family}) >= 10


def test_layouts_held_out_of_plain_training_are_held_out_of_a_family_s() -> None:
    plain, env = minesweeper("minesweeper:4x4-3"), minesweeper("minesweeper:4x4-3-family=0-9")
    held_out = {state["mines"]: split for split in ("val", "test") for state in drawn(plain, split, 60)}
    trained = {state["mines"] for state in drawn(env, "train", 600)}
    assert not trained & set(held_out)
    both = [state for state in map(env.reset, range(600)) if state["mines"] in held_out]
    assert len(both) > 40
    assert all(env.split_of(state) == held_out[state["mines"]] for state in both)


# -- what is told, and what can be learnt -----------------------------------------------------------------------------


def test_the_policy_is_told_that_boards_have_something_in_common_and_which_field_it_is_on() -> None:
    one, several = minesweeper("minesweeper:4x4-3-family=3"), minesweeper("minesweeper:4x4-3-family=3-5")
    assert "All boards that you are given have something in common" in one.rules
    assert "belongs to the field" in several.rules
    assert "Field" not in one.observe(one.reset(0))
    state = several.reset(0)
    name = f"Field {state['family']}"
    assert several.observe(state).split("\n")[0] == name
    assert several.compact(state).startswith(f"{name} Open ")
    assert len(several.observe(state).split("\n")) == 5
    assert several.about(state) == name
    assert name in several.render(state)
    loaded = several.load({"size": 4, "mines": [[1, 2]], "opened": [[4, 4]]})
    assert several.observe(loaded).startswith("?")  # of no family


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 4))
def test_who_knows_the_cells_infers_the_share_of_the_family_s_layouts_that_show_what_is_seen(
    seed: int, clicks: int
) -> None:
    env, rng = minesweeper("minesweeper:4x4-3-t30-family=2"), random.Random(seed)
    cells = sorted(mined([env.reset(other) for other in range(300)]))
    state = env.reset(seed)
    for _ in range(clicks):
        step = env.step(state, rng.choice(env.admissible(state)))
        state = state if step.done else step.state
    faces = env.observe(state).split()

    def shows(layout: tuple[int, ...]) -> bool:
        near = [{i for i in range(16) if max(abs(i // 4 - at // 4), abs(i % 4 - at % 4)) <= 1} for at in range(16)]
        counts = [len(near[at] & set(layout)) for at in range(16)]
        return all(
            face == "?" or (at not in layout and face == (str(counts[at]) if counts[at] else "."))
            for at, face in enumerate(faces)
        )

    possible = [layout for layout in itertools.combinations(cells, 3) if shows(layout)]
    for (row, column), chance in family_probabilities(env, state).items():
        at = (row - 1) * 4 + column - 1
        assert chance == pytest.approx(sum(at in layout for layout in possible) / len(possible))


def test_who_knows_the_cells_loses_hardly_a_board_to_a_mine_and_who_does_not_loses_many() -> None:
    env, hit = minesweeper("minesweeper:5x5-4-family=0-4"), {"plain": 0, "knowing": 0}
    for seed in islice(env.seeds("test"), 150):
        for player, chances_of in (("plain", mine_probabilities), ("knowing", family_probabilities)):
            state = env.reset(seed)
            for _ in range(env.max_turns):
                chances = chances_of(env, state)
                step = env.step(state, "({}, {})".format(*min(chances, key=lambda cell: chances[cell])))
                state = step.state
                if step.done:
                    break
            hit[player] += state["hit"] is not None
    assert hit["knowing"] <= 3
    assert hit["plain"] >= 20


def test_nothing_is_left_to_infer_after_a_mine_or_without_a_family() -> None:
    env = minesweeper("minesweeper:4x4-3-family=2")
    state = env.reset(0)
    row, column = env.mine_cells(state)[0]
    with pytest.raises(ValueError, match="a mine was opened"):
        family_probabilities(env, env.step(state, f"({row}, {column})").state)
    with pytest.raises(ValueError, match="of no family"):
        family_probabilities(env, minesweeper("minesweeper:4x4-3").reset(0))
