"""What an environment makes of a reflection: true, not true, or nothing to be stated."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_envs import Env, NotOfferedError, State, make
from lamer_envs.alfworld.house import house
from lamer_envs.alfworld.judge import inside
from lamer_envs.minesweeper.env import Minesweeper
from lamer_envs.minesweeper.judge import claims, is_true
from lamer_envs.sokoban.judge import claimed


def lost(env: Env, seeds: range = range(30)) -> Iterator[tuple[State, list[str], State]]:
    """Failed episodes of random play: the first state, the actions, the last state."""
    for seed in seeds:
        rng, start = random.Random(seed), env.reset(seed)
        state, actions, won = start, list[str](), False
        while env.admissible(state) and len(actions) < env.max_turns and not won:
            actions.append(rng.choice(env.admissible(state)))
            step = env.step(state, actions[-1])
            state, won = step.state, step.success
        if not won:
            yield start, actions, state


# -- minesweeper ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mines", "safe"),
    [
        ("mine at (1, 2)", {(1, 2)}, set()),
        ("There is a mine at (1, 2). It is safe to open (2, 2), (3, 3).", {(1, 2)}, {(2, 2), (3, 3)}),
        ("I hit a mine when opening (2,3)", {(2, 3)}, set()),
        ("(2, 3) is a mine; (1, 1) was safe", {(2, 3)}, {(1, 1)}),
        ("(2, 3) is not a mine", set(), {(2, 3)}),
        ("cells (1,2) and (3,4) are both mines", {(1, 2), (3, 4)}, set()),
        ("Mines: (1, 2), (3, 4) and (4, 4).", {(1, 2), (3, 4), (4, 4)}, set()),
        ("there are no mines at (1, 1)", set(), {(1, 1)}),
        ("(1, 1) doesn't contain a mine", set(), {(1, 1)}),
        ("the mine was located at the cell (4, 4)", {(4, 4)}, set()),
        ("(2, 2) isn't safe", {(2, 2)}, set()),
        ("open (1, 1) first, then (2, 2)", set(), set()),
        ("I should be more careful with mines.", set(), set()),
        ("", set(), set()),
    ],
)
def test_what_a_text_says_of_cells_is_read_clause_by_clause(text: str, mines: set[object], safe: set[object]) -> None:
    assert claims(text) == (mines, safe)


CELLS = st.tuples(st.integers(1, 5), st.integers(1, 5))


@given(st.sets(CELLS, min_size=1, max_size=4), st.lists(st.tuples(CELLS, st.booleans()), max_size=5))
def test_a_text_is_true_exactly_where_it_claims_something_and_all_of_it_is_so(
    mines: set[tuple[int, int]], said: list[tuple[tuple[int, int], bool]]
) -> None:
    text = ". ".join(f"({r}, {c}) is {'a mine' if mine else 'safe'}" for (r, c), mine in said)
    right = all(((cell in mines) == mine and max(cell) <= 4) or (mine and cell in mines) for cell, mine in said)
    assert is_true(text, mines, 4) == (bool(said) and right)


@given(st.text("()0123456789, mineatsf.not", max_size=300))
def test_any_text_is_read(text: str) -> None:
    claims(text)
    claimed(text)


def test_minesweeper_judges_where_a_mine_was_hit() -> None:
    env = Minesweeper(size=4, mines=3)
    for start, actions, last in lost(env):
        if last["hit"] is None:
            assert env.judge(start, actions, f"mine at {actions[-1]}") is None
            continue
        mines = {f"({row}, {column})" for row, column in env.mine_cells(start)}
        assert env.judge(start, actions, f"mine at {actions[-1]}") is True
        assert env.judge(start, actions, " ".join(f"({cell}) is a mine" for cell in mines)) is False
        for cell in env.admissible(start):
            assert env.judge(start, actions, f"mine at {cell}") is (cell in mines)
        assert env.judge(start, actions, "I should be more careful.") is False
    assert env.judge(env.reset(0), [], "mine at (1, 1)") is None


# -- the others -------------------------------------------------------------------------------------------------------


def test_sokoban_judges_where_a_box_got_stuck() -> None:
    env = make("sokoban:6x6-2")
    judged = 0
    for start, actions, _ in lost(env):
        outcome = env.outcome(*env.replay(start, actions)[-1])
        if "stuck" not in outcome:
            assert env.judge(start, actions, "no box to (2, 2)") is None
            continue
        judged += 1
        cell = outcome.partition("box to ")[2].partition(")")[0] + ")"
        for true in (
            f"no box to {cell}",
            f"A box gets stuck there. Do not push a box to {cell}.",
            f"box stuck at {cell}",
        ):
            assert env.judge(start, actions, true) is True
        for false in ("no box to (9, 9)", f"no box to {cell}; no box to (9, 9)", f"I stood at {cell}.", "Think ahead."):
            assert env.judge(start, actions, false) is False
    assert judged > 5


def test_sokoban_judges_what_is_said_of_pits() -> None:
    env = make("sokoban:6x6-1-pits=3")
    judged = 0
    for start, actions, _ in lost(env, range(40)):
        pits = [f"({cell // 6 + 1}, {cell % 6 + 1})" for cell in start["pits"]]
        if env.judge(start, actions, "") is None:
            continue
        judged += 1
        assert env.judge(start, actions, f"{pits[0]} is a pit.") is True
        assert env.judge(start, actions, f"There are pits at {' and '.join(pits)}") is True
        assert env.judge(start, actions, f"{pits[0]} and (1, 1) are pits") is False
    assert judged > 3


def test_alfworld_judges_by_where_things_lay_at_the_start() -> None:
    env = make("alfworld")
    judged = 0
    for start, actions, _ in lost(env, range(12)):
        h = house(start["house"])
        place = {name: r.name for at, r in enumerate(h.receptacles) for name in inside(h, start, at)}
        thing, where = next((name, at) for name, at in place.items() if name.split(" ")[0] == h.thing)
        other = next(
            r.name
            for at, r in enumerate(h.receptacles)
            if not any(n.split(" ")[0] == h.thing for n in inside(h, start, at))
        )
        if env.judge(start, actions, "") is None:
            continue
        judged += 1
        for true in (
            f"see {thing} in {where}",
            f"I saw {thing} in {where}.",
            f"The {thing} is on {where}",
            f"no {h.thing} in {other}",
        ):
            assert env.judge(start, actions, true) is True, true
        for false in (f"see {thing} in {other}", f"no {h.thing} in {where}", "be quicker", f"see {thing} in nowhere 9"):
            assert env.judge(start, actions, false) is False, false
    assert judged > 3


def test_webshop_judges_what_was_bought() -> None:
    env = make("webshop:1000")
    judged = 0
    for seed in range(40):
        start, state, actions = env.reset(seed), env.reset(seed), list[str]()
        rng = random.Random(seed)
        while state["page"] != "done" and len(actions) < env.max_turns:
            actions.append(env.weak(state, rng))
            state = env.step(state, actions[-1]).state
        if state["page"] != "done":
            assert env.judge(start, actions, "not B000000000") is None
            continue
        judged += 1
        verdicts = [env.judge(start, actions, f"not {asin}") for asin in (state["product"], "B000000000")]
        won = env.step(env.replay(start, actions)[-1][0], actions[-1]).success
        assert verdicts[1] is False
        assert not (won and verdicts[0])
        assert env.judge(start, actions, "mind the price") is False
    assert judged > 5


def test_an_environment_that_judges_nothing_says_so() -> None:
    class Bare(Minesweeper):
        judge = Env.judge

    with pytest.raises(NotOfferedError, match="does not judge reflections"):
        Bare(size=4, mines=3).judge({}, [], "x")
    assert not Bare(size=4, mines=3).offers("judge")
