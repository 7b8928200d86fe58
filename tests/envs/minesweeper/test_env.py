"""MineSweeper follows its rules, hands out only boards that can be finished, and its posterior is exact."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from lamer_envs import InstanceError, State, make
from lamer_envs.minesweeper.env import BUDGETS, PERCENTILES, Minesweeper, mine_probabilities, percentile_budget

Cells = set[tuple[int, int]]


def minesweeper(spec: str = "minesweeper") -> Minesweeper:
    env = make(spec)
    assert isinstance(env, Minesweeper)
    return env


def near(size: int, cell: tuple[int, int]) -> Cells:
    r, c = cell
    return {(a, b) for a in range(r - 1, r + 2) for b in range(c - 1, c + 2) if 1 <= a <= size and 1 <= b <= size} - {
        cell
    }


def click(size: int, mines: Cells, opened: Cells, cell: tuple[int, int]) -> Cells:
    """The plain recursive rule: open it, and all closed neighbours of a cell without mines around."""
    opened = set(opened)
    todo = [cell]
    while todo:
        at = todo.pop()
        if at in opened:
            continue
        opened.add(at)
        if not near(size, at) & mines:
            todo += near(size, at)
    return opened


def cells_of(state: State, key: str) -> Cells:
    size = state["size"]
    return {(i // size + 1, i % size + 1) for i, mark in enumerate(state[key]) if mark == "1"}


def load(size: int, mines: list[list[int]], opened: list[list[int]] | None = None) -> State:
    return minesweeper().load({"size": size, "mines": mines, "opened": opened or []})


boards = st.integers(2, 5).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.lists(
            st.tuples(st.integers(1, size), st.integers(1, size)), min_size=1, max_size=size * size - 2, unique=True
        ),
        st.integers(0, 10**6),
    )
)


@settings(max_examples=200, deadline=None)
@given(boards)
def test_random_play_follows_the_written_rules(drawn: tuple[int, list[tuple[int, int]], int]) -> None:
    size, mine_list, seed = drawn
    env, mines, rng = minesweeper(), set(mine_list), random.Random(seed)
    safe = {(r, c) for r in range(1, size + 1) for c in range(1, size + 1)} - mines
    opened = {rng.choice(sorted(safe))}
    if opened == safe:
        return
    state = load(size, [list(cell) for cell in mines], [list(cell) for cell in opened])
    while True:
        cell = (rng.randint(0, size + 1), rng.randint(0, size + 1))
        step = env.step(state, f"({cell[0]}, {cell[1]})")
        if not (1 <= cell[0] <= size and 1 <= cell[1] <= size) or cell in opened:
            assert (step.state, step.reward, step.done, step.success, step.valid) == (state, -1.0, False, False, False)
            continue
        if cell in mines:
            assert (step.reward, step.done, step.success, step.valid) == (-0.1, True, False, True)
            assert cells_of(step.state, "opened") == opened
            assert step.observation.split("\n")[cell[0] - 1].split(" ")[cell[1] - 1] == "*"
            assert step.observation.count("*") == 1
            assert env.outcome(state, f"({cell[0]}, {cell[1]})", step) == f"mine at ({cell[0]}, {cell[1]})"
            return
        after = click(size, mines, opened, cell)
        assert cells_of(step.state, "opened") == after
        for r, line in enumerate(step.observation.split("\n"), start=1):
            for c, face in enumerate(line.split(" "), start=1):
                count = len(near(size, (r, c)) & mines)
                assert face == ("?" if (r, c) not in after else "." if count == 0 else str(count))
        if after == safe:
            assert (step.reward, step.done, step.success, step.valid) == (10.0, True, True, True)
            return
        assert step.reward == (2.0 if len(after) - len(opened) > 1 else 0.5)
        assert (step.done, step.success, step.valid) == (False, False, True)
        state, opened = step.state, after


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5, unique=True),
    st.sets(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=4),
)
def test_the_expert_takes_the_fewest_clicks_also_with_cells_opened_as_given(
    mine_list: list[tuple[int, int]], given_open: Cells
) -> None:
    mines = set(mine_list)
    safe = frozenset({(r, c) for r in range(1, 4) for c in range(1, 4)} - mines)
    opened = frozenset(given_open - mines)
    if opened == safe:
        return
    state = load(3, [list(cell) for cell in mines], [list(cell) for cell in opened])
    layer, fewest = {opened}, 0
    while safe not in layer:  # breadth first over sets of open cells
        layer = {frozenset(click(3, mines, set(seen), cell)) for seen in layer for cell in safe - seen}
        fewest += 1
    env = minesweeper()
    plan = env.solve(state)
    assert plan is not None
    assert len(plan) == fewest
    for action in plan:
        step = env.step(state, action)
        state = step.state
    assert step.success


def test_a_board_is_loaded_as_given_without_flooding() -> None:
    env = minesweeper()
    state = load(4, [[1, 1]], [[4, 4]])
    assert env.observe(state) == "? ? ? ?\n? ? ? ?\n? ? ? ?\n? ? ? ."
    assert env.compact(load(3, [[1, 1]], [[1, 2], [3, 3]])) == (
        "Open (1, 2)=1 Closed (1, 1) (1, 3) (2, 1) (2, 2) (2, 3) (3, 1) (3, 2)"
    )


@pytest.mark.parametrize(("spec", "turns"), [("minesweeper", 7), ("minesweeper:4x4-3", 10), ("minesweeper:8x8-10", 26)])
def test_every_board_can_be_finished_within_the_budget_and_none_starts_won(spec: str, turns: int) -> None:
    env = minesweeper(spec)
    assert env.max_turns == turns
    for seed in range(1500):
        state = env.reset(seed)
        plan = env.solve(state)
        assert plan is not None
        assert 1 <= len(plan) <= turns
        assert state["mines"].count("1") == env.mines
        assert cells_of(state, "opened")
        assert not cells_of(state, "opened") & cells_of(state, "mines")


def test_the_opening_click_floods() -> None:
    env = minesweeper()
    for seed in range(200):
        state = env.reset(seed)
        size, mines, opened = 6, cells_of(state, "mines"), cells_of(state, "opened")
        assert any(click(size, mines, set(), cell) == opened for cell in opened)


def test_stored_budgets_are_the_percentile_and_the_decreed_ones_are_kept() -> None:
    assert BUDGETS == {(6, 3): 7, (4, 3): 10}
    for size, mines in [(4, 2), (5, 5), (6, 4), (6, 6), (8, 10), (16, 40)]:
        assert PERCENTILES[size, mines] == percentile_budget(size, mines) == Minesweeper(size, mines).max_turns
    assert Minesweeper(11, 20).max_turns == percentile_budget(11, 20)


def test_reset_neither_reads_nor_moves_global_random_state() -> None:
    env = minesweeper()
    random.seed(1)
    before = random.getstate()
    first = [env.reset(seed) for seed in range(50)]
    assert random.getstate() == before
    random.seed(2)
    assert [env.reset(seed) for seed in range(50)] == first
    assert len({env.instance(state) for state in first}) > 40


@pytest.mark.parametrize("text", ["(1, 2)", "(1,2)", "( 1 , 2 )", " (1, 2)\n", "1, 2", "1,2", "(01, 2)"])
def test_parse_accepts_a_cell(text: str) -> None:
    assert minesweeper().parse(text) == "(1, 2)"


@pytest.mark.parametrize(
    "text",
    ["", "(1, 2", "1, 2)", "1 2", "(1; 2)", "(1, 2, 3)", "(-1, 2)", "(a, 2)", "(1.0, 2)", "open (1, 2)", "(\u0661, 2)"],
)
def test_parse_refuses_anything_else_and_step_charges_for_it(text: str) -> None:
    env = minesweeper()
    state = env.reset(0)
    step = env.step(state, text)
    assert env.parse(text) is None
    assert (step.state, step.reward, step.done, step.valid) == (state, -1.0, False, False)
    assert env.outcome(state, text, step) == "invalid"


def test_outcomes_are_short() -> None:
    env = minesweeper()
    state = load(3, [[1, 1], [1, 3]], [[1, 2]])
    assert env.outcome(state, "2,2", env.step(state, "2,2")) == "(2, 2)=2"
    assert env.outcome(state, "(3, 1)", env.step(state, "(3, 1)")) == "(3, 1)=0"
    assert env.outcome(state, "(1, 2)", env.step(state, "(1, 2)")) == "(1, 2) invalid"
    assert env.outcome(state, "(9, 9)", env.step(state, "(9, 9)")) == "(9, 9) invalid"


@pytest.mark.parametrize(
    ("instance", "says"),
    [
        ({"size": 4, "mines": [[0, 1]]}, "from 1 to 4"),
        ({"size": 4, "mines": [[1, 5]]}, "from 1 to 4"),
        ({"size": 4, "mines": [[1]]}, "[row, column]"),
        ({"size": 4, "mines": [["1", "2"]]}, "[row, column]"),
        ({"size": 4, "mines": "1,2"}, "list"),
        ({"size": 4, "mines": []}, "at least one mine"),
        ({"size": 4, "mines": [[1, 1]], "opened": [[1, 1]]}, "must not be mines"),
        ({"size": 2, "mines": [[1, 1]], "opened": [[1, 2], [2, 1], [2, 2]]}, "closed cell"),
        ({"size": "4", "mines": [[1, 1]]}, "integer"),
        ({"size": 400, "mines": [[1, 1]]}, "from 2 to 30"),
        ({"size": 4, "mine": [[1, 1]]}, "unknown instance key"),
        ([1, 2], "mapping"),
        (Path("no/such/file.json"), "cannot be read"),
        (Path("bad\x00path"), "cannot be read"),
        ("no/such/file.json", "text is not opened"),
    ],
)
def test_a_malformed_instance_is_refused_with_what_would_be_right(instance: Any, says: str) -> None:
    with pytest.raises(InstanceError) as caught:
        minesweeper().load(instance)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_instance_comes_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text(json.dumps({"size": 4, "mines": [[2, 3]], "opened": [[1, 1]]}))
    assert minesweeper().load(path) == load(4, [[2, 3]], [[1, 1]])
    path.write_text("{not json")
    with pytest.raises(InstanceError, match="not JSON"):
        minesweeper().load(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 5), st.sampled_from([2, 3, 4]))
def test_the_posterior_is_the_share_of_consistent_layouts(seed: int, clicks: int, mines: int) -> None:
    env = Minesweeper(4, mines)
    rng = random.Random(seed)
    state = env.reset(seed)
    for _ in range(clicks):
        step = env.step(state, rng.choice(env.admissible(state)))
        if not step.done:
            state = step.state
    shown = {
        (r, c): face
        for r, line in enumerate(env.observe(state).split("\n"), start=1)
        for c, face in enumerate(line.split(" "), start=1)
    }
    closed = [cell for cell, face in shown.items() if face == "?"]
    layouts = []
    for layout in itertools.combinations(closed, mines):
        if all(
            face == "?" or len(near(4, cell) & set(layout)) == int(face.replace(".", "0"))
            for cell, face in shown.items()
        ):
            layouts.append(layout)
    chances = mine_probabilities(env, state)
    assert list(chances) == closed
    for cell, chance in chances.items():
        assert chance == pytest.approx(sum(cell in layout for layout in layouts) / len(layouts), abs=1e-12)


def test_the_weak_player_sees_only_what_the_policy_sees() -> None:
    env = minesweeper("minesweeper:4x4-3")
    one = load(4, [[1, 2], [4, 1], [4, 4]], [[1, 1]])
    two = load(4, [[2, 1], [3, 4], [4, 4]], [[1, 1]])
    assert env.observe(one) == env.observe(two)
    assert [env.weak(one, random.Random(i)) for i in range(50)] == [env.weak(two, random.Random(i)) for i in range(50)]
    assert mine_probabilities(env, one) == mine_probabilities(env, two)


def test_the_weak_player_wins_sometimes_and_the_exact_player_more_often() -> None:
    env, rng, games = minesweeper("minesweeper:4x4-3"), random.Random(0), 300
    wins = {"weak": 0, "exact": 0}
    for seed in range(games):
        for player in wins:
            state = env.reset(seed)
            for _ in range(env.max_turns):
                if player == "weak":
                    action = env.weak(state, rng)
                else:
                    chances = mine_probabilities(env, state)
                    action = "({}, {})".format(*min(chances, key=lambda cell: chances[cell]))
                step = env.step(state, action)
                state = step.state
                if step.done:
                    break
            wins[player] += step.success
    assert 0.15 < wins["weak"] / games < 0.5
    assert 0.7 < wins["exact"] / games < 0.95


def test_the_posterior_stays_fast_on_large_boards() -> None:
    env = Minesweeper(16, 40)
    rng = random.Random(3)
    state = env.reset(5)
    for _ in range(30):
        chances = mine_probabilities(env, state)
        assert sum(chances.values()) == pytest.approx(40)
        safest = min(chances, key=lambda cell: (chances[cell], rng.random()))
        step = env.step(state, f"({safest[0]}, {safest[1]})")
        if step.done:
            break
        state = step.state


def test_splits_own_about_a_tenth_and_never_share_a_layout() -> None:
    env = minesweeper("minesweeper:4x4-3")
    owners: dict[str, set[str]] = {}
    splits = []
    for seed in range(3000):
        state = env.reset(seed)
        splits.append(env.split_of(state))
        owners.setdefault(state["mines"], set()).add(splits[-1])
    assert 400 < len(owners) <= 560  # all that there are: layouts repeat, seeds do not
    assert all(len(owner) == 1 for owner in owners.values())
    assert 0.7 < splits.count("train") / 3000 < 0.9
    assert all(0.05 < splits.count(name) / 3000 < 0.16 for name in ("val", "test"))


def test_render_is_the_board_in_rich_markup() -> None:
    env = minesweeper()
    state = load(12, [[1, 1], [12, 12]], [[1, 2]])
    plain = Text.from_markup(env.render(state)).plain
    assert plain.split("\n")[1].split() == ["1", "?", "1", *["?"] * 10]
    lost = env.step(state, "(1, 1)").state
    assert Text.from_markup(env.render(lost)).plain.split("\n")[1].split()[1] == "*"


def test_a_state_is_small() -> None:
    assert len(json.dumps(minesweeper().reset(0))) < 150
