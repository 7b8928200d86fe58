"""MineSweeper: open every safe cell of a square board without opening a mine.

What must stay true: the board and its opening cell are drawn from the seed alone, with a private generator; a board
that is handed out can be finished by perfect play within the turn budget and is never won already. Every coordinate,
in actions, on display and in instances, is 1-based.

Rewards (LaMer, arXiv 2512.16848, section 5): the winning move exactly 10; otherwise 2 for a move that opens several
cells, 0.5 for exactly one, -0.1 for a mine (the episode ends), -1 for an invalid, off-board or already open cell.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from lamer_envs.base import MAX_ACTION_CHARS, Env, State, Step
from lamer_envs.errors import EnvParameterError, InstanceError
from lamer_envs.instances import read_instance
from lamer_envs.minesweeper import families
from lamer_envs.minesweeper.board import Board, Cell, Grid, board, grid, posterior
from lamer_envs.minesweeper.judge import is_true
from lamer_envs.minesweeper.picture import board_svg
from lamer_envs.parameters import check_whole, generator

WIN, SEVERAL, ONE, MINE, INVALID = 10.0, 2.0, 0.5, -0.1, -1.0
MAX_SIZE = 30
WEAK_SKILL = 0.6
"""Share of the weak player's turns that follow the exact posterior; the others open a random closed cell."""

BUDGETS: dict[tuple[int, int], int] = {(6, 3): 7, (4, 3): 10}
"""Turn budgets that are set by decree: the paper's 6x6 with 3 mines, and the 4x4 board of small policies. Every other
(size, mines) gets `percentile_budget`, of which PERCENTILES holds the common ones."""

PERCENTILES: dict[tuple[int, int], int] = {
    (4, 2): 7, (4, 4): 11, (4, 5): 10,
    (5, 3): 10, (5, 4): 13, (5, 5): 15, (5, 6): 18, (5, 7): 17,
    (6, 4): 11, (6, 5): 14, (6, 6): 18, (6, 7): 20, (6, 8): 22, (6, 9): 23, (6, 10): 25,
    (7, 4): 10, (7, 5): 13, (7, 6): 16, (7, 7): 19, (7, 8): 22, (7, 9): 25, (7, 10): 27, (7, 11): 29,
    (7, 12): 31,
    (8, 6): 14, (8, 7): 17, (8, 8): 20, (8, 9): 23, (8, 10): 26, (8, 11): 29, (8, 12): 32, (8, 13): 34,
    (8, 14): 36, (8, 15): 37, (8, 16): 39,
    (9, 8): 18, (9, 9): 21, (9, 10): 24, (9, 11): 27, (9, 12): 30, (9, 13): 33, (9, 14): 35, (9, 15): 38,
    (9, 16): 40, (9, 17): 42, (9, 18): 44,
    (10, 10): 21, (10, 11): 25, (10, 12): 27, (10, 13): 30, (10, 14): 33, (10, 15): 36, (10, 16): 39, (10, 17): 41,
    (10, 18): 44, (10, 19): 47, (10, 20): 49,
    (16, 40): 84,
}  # fmt: skip
"""`percentile_budget` of common (size, mines), stored so that making one of them draws no boards."""

_SIZE = re.compile(r"([0-9]{1,3})x([0-9]{1,3})-([0-9]{1,3})", re.ASCII)
_OPTION = re.compile(r"[-,](?:t(?P<max_turns>[0-9]{1,4})|family=(?P<family>[0-9]{1,4}(?:-[0-9]{1,4})?))", re.ASCII)
_ACTION = re.compile(r"\(\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*\)|([0-9]{1,3})\s*,\s*([0-9]{1,3})", re.ASCII)
_EXAMPLE = "make('minesweeper', size=6, mines=3)"
_SPEC_EXAMPLE = "minesweeper:6x6-3-t9-family=5"
_INSTANCE_EXAMPLE = '{"size": 4, "mines": [[1, 2], [3, 4]], "opened": [[2, 2]]} with 1-based [row, column]'
_TRIAL_DRAWS = 4000
"""Draws that estimate the percentile budget and show that a budget leaves boards to choose from."""


def _draw(shape: Grid, mines: int, rng: random.Random) -> tuple[Board, int]:
    """A random layout and what is open after the opening click on a random safe cell."""
    cells = rng.sample(shape.bits, mines + 1)
    layout = Board(shape.size, sum(cells[1:]))
    return layout, layout.flood(0, cells[0])


@lru_cache(maxsize=256)
def _click_sample(size: int, mines: int) -> tuple[int, ...]:
    """Sorted minimum clicks of 4,000 boards drawn from a fixed seed, those won by the opening click left out."""
    rng, shape = generator("minesweeper", "budget", size, mines), grid(size)
    drawn = (_draw(shape, mines, rng) for _ in range(_TRIAL_DRAWS))
    return tuple(sorted(clicks for layout, opened in drawn if (clicks := layout.min_clicks(opened)) > 0))


def percentile_budget(size: int, mines: int) -> int:
    """The 95th percentile of minimum clicks: the smallest budget that suffices on 95 % of boards not yet won.

    Deterministic (fixed seed). Raises EnvParameterError where the opening click always wins.
    """
    sample = _click_sample(size, mines)
    if not sample:
        raise EnvParameterError(f"minesweeper {size}x{size} with {mines} mines is won by the opening click; add mines")
    return sample[-(-len(sample) * 95 // 100) - 1]


class Minesweeper(Env):
    """MineSweeper on a `size` x `size` board with `mines` mines.

    `max_turns` also bounds the boards that are drawn: their minimum clicks are between 1 and it. State (JSON):
    `{"size": int, "mines": "0010..", "opened": "1100..", "hit": int | None}`, both strings row-major, `hit` the
    row-major number (from 0) of the mine that ended the episode.

    With `family` the boards are of one family (a number), or of several ("0-9"), whose mines lie in the same few cells;
    which, nobody is told. Lessons of one board then hold on others, in all splits, which share no layout: train 40 % of
    them, val and test 30 % each, in every family at least ten. States have "family" in addition. Of several families
    each board names its own ("Field 3"), and numbers beyond those are families that nobody has seen.
    """

    name: ClassVar[str] = "minesweeper"
    markov: ClassVar[bool] = True
    penalises_invalid: ClassVar[bool] = True

    def __init__(
        self, size: int = 6, mines: int = 3, max_turns: int | None = None, family: int | str | None = None
    ) -> None:
        """Raises EnvParameterError for parameters out of range, or a budget that (almost) no board fits."""
        check_whole("size", size, 2, MAX_SIZE, example=_EXAMPLE)
        check_whole("mines", mines, 1, size * size - 2, f" on a {size}x{size} board", _EXAMPLE)
        default = BUDGETS.get((size, mines)) or PERCENTILES.get((size, mines)) or percentile_budget(size, mines)
        if max_turns is not None:
            check_whole("max_turns", max_turns, 1, 9999, example=_EXAMPLE)
            if max_turns < default and (least := _click_sample(size, mines)[0]) > max_turns:
                raise EnvParameterError(
                    f"max_turns is {max_turns}, but boards of {size}x{size} with {mines} mines take at least {least} "
                    f"clicks and most of them {percentile_budget(size, mines)}"
                )
        self.size, self.mines = size, mines
        self.max_turns = default if max_turns is None else max_turns
        self._grid = grid(size)
        self.family, self._families = None, range(0)
        self._spec = f"{self.name}:{size}x{size}-{mines}" + ("" if self.max_turns == default else f"-t{self.max_turns}")
        if family is not None:
            self._families = families.read_families(family)
            several = len(self._families) > 1
            self.family = f"{self._families[0]}-{self._families[-1]}" if several else self._families[0]
            self._spec += f"-family={self.family}"
            families.layouts(size, mines, self.max_turns, self._families[0])

    @property
    def spec(self) -> str:
        return self._spec

    @classmethod
    def from_spec(cls, params: str) -> Minesweeper:
        size = _SIZE.match(params)
        found: dict[str, Any] = {"size": int(size[1]), "mines": int(size[3])} if size else {}
        rest = params[size.end() :] if size else f"-{params}" * bool(params)
        while option := _OPTION.match(rest):
            key, value = next((key, value) for key, value in option.groupdict().items() if value is not None)
            if key in found:
                raise EnvParameterError(f"'{params[:40]}' gives {key} twice; write for example {_SPEC_EXAMPLE}")
            found[key] = int(value) if key == "max_turns" else value
            rest = rest[option.end() :]
        if rest or (size and size[1] != size[2]):
            raise EnvParameterError(
                f"'{params[:40]}' is no size of minesweeper; write SIZExSIZE-MINES, for example minesweeper:6x6-3 "
                "(a square board of 6x6 with 3 mines), minesweeper:6x6-3-t9 for a budget of 9 turns, or "
                "minesweeper:6x6-3-family=5 (family=0-9 for ten families) for boards that have something in common"
            )
        return cls(**found)

    @property
    def params(self) -> Mapping[str, Any]:
        own = {} if self.family is None else {"family": self.family}
        return {"size": self.size, "mines": self.mines, "max_turns": self.max_turns, **own}

    # -- what the policy is told ------------------------------------------------------------------------------------

    @property
    def rules(self) -> str:
        return (
            f"This is MineSweeper on a board of {self.size} rows and {self.size} columns that hides {self.mines} "
            f"{'mine' if self.mines == 1 else 'mines'}. Each turn opens one closed cell. Opening a mine loses the "
            "game; opening every cell that is no mine wins it. An open cell shows how many of its up to eight "
            "neighbours are mines, and a cell with none opens all its neighbours too. On display ? is a closed cell, "
            ". an open cell without neighbouring mines, 1 to 8 an open cell with that many, and * a mine that was "
            "opened. Rows are counted from the top and columns from the left, both starting at 1."
        ) + families.rules(len(self._families))

    @property
    def action_format(self) -> str:
        return "(row, column) of the closed cell to open, for example (1, 2)"

    def observe(self, state: State) -> str:
        faces = self._visible(state)
        size = state["size"]
        rows = [" ".join(faces[at : at + size]) for at in range(0, size * size, size)]
        return "\n".join([*self._field(state), *rows])

    def compact(self, state: State) -> str:
        actions = grid(state["size"]).actions
        numbers, closed, mine = [], [], ""
        for action, face in zip(actions, self._visible(state), strict=True):
            if face == "?":
                closed.append(action)
            elif face == "*":
                mine = f"mine at {action}"
            elif face != ".":
                numbers.append(f"{action}={face}")
        parts = [*self._field(state), *([" ".join(["Open", *numbers])] if numbers else [])]
        parts += [" ".join(["Closed", *closed])] if closed else []
        return " ".join(parts + ([mine] if mine else []))

    def about(self, state: State) -> str:
        """The field alone where there are several: pictures of boards are alike or not for other reasons."""
        return "".join(self._field(state)) or self.observe(state)

    def outcome(self, before: State, action: str, step: Step) -> str:
        cell = self.parse(action)
        if not step.valid:
            return f"{cell} invalid" if cell else "invalid"
        face = self._visible(step.state)[grid(before["size"]).index[str(cell)]]
        return f"mine at {cell}" if face == "*" else f"{cell}={'0' if face == '.' else face}"

    def _field(self, state: State) -> list[str]:
        """The name of the family that a board is from, where there are several: nothing else tells them apart."""
        return [f"Field {state['family']}"] if len(self._families) > 1 and "family" in state else []

    # -- dynamics ---------------------------------------------------------------------------------------------------

    def reset(self, seed: int) -> State:
        if self._families:
            rng = generator("minesweeper", self.size, self.mines, "family", self.family, seed)
            family = rng.choice(self._families)
            layout, opened = families.draw(self.size, self.mines, self.max_turns, family, rng)
            return {**_state(self.size, layout.mines, opened), "family": family}
        rng = generator("minesweeper", self.size, self.mines, seed)
        for _ in count():  # ends: the constructor saw a board that fits the budget
            layout, opened = _draw(self._grid, self.mines, rng)
            if 1 <= layout.min_clicks(opened) <= self.max_turns:
                return _state(self.size, layout.mines, opened)
        raise AssertionError("unreachable")

    def step(self, state: State, action: str) -> Step:
        shape = grid(state["size"])
        layout, opened = board(state["size"], state["mines"]), int(state["opened"], 2)
        over = state["hit"] is not None or opened == layout.safe
        cell = self.parse(action)
        at = shape.index.get(cell) if cell is not None else None
        if over or at is None or opened & (bit := shape.bits[at]):
            return Step(dict(state), self.observe(state), INVALID, over, opened == layout.safe, False)
        following = dict(state)
        if layout.mines & bit:
            following["hit"] = at
            return Step(following, self.observe(following), MINE, True, False, True)
        after = layout.flood(opened, bit)
        following["opened"] = shape.text(after)
        won = after == layout.safe
        reward = WIN if won else (ONE if after == opened | bit else SEVERAL)
        return Step(following, self.observe(following), reward, won, won, True)

    def parse(self, answer: str) -> str | None:
        if len(answer) > MAX_ACTION_CHARS or not (match := _ACTION.fullmatch(answer.strip())):
            return None
        row, column = (match[1], match[2]) if match[1] else (match[3], match[4])
        return f"({int(row)}, {int(column)})"

    def admissible(self, state: State) -> list[str]:
        if state["hit"] is not None or int(state["opened"], 2) == board(state["size"], state["mines"]).safe:
            return []
        pairs = zip(grid(state["size"]).actions, state["opened"], strict=True)
        return [action for action, opened in pairs if opened == "0"]

    def load(self, instance: Mapping[str, Any] | Path) -> State:
        """A state from `{"size", "mines", "opened"}`, or the file at a `Path` with that; `opened` is taken as given and
        may be left out.

        The board may differ in size and mines from the environment's own.
        """
        data = read_instance(instance, ("size", "mines", "opened"), _INSTANCE_EXAMPLE)
        size = data.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 2 <= size <= MAX_SIZE:
            raise InstanceError(f"instance size must be an integer from 2 to {MAX_SIZE}; expected {_INSTANCE_EXAMPLE}")
        mines = _cells("mines", data.get("mines"), size)
        opened = _cells("opened", data.get("opened", []), size)
        if not mines:
            raise InstanceError("an instance needs at least one mine")
        if mines & opened:
            raise InstanceError("an instance's opened cells must not be mines")
        if mines | opened == grid(size).full:
            raise InstanceError("an instance needs at least one closed cell that is no mine")
        return _state(size, mines, opened)

    def progress(self, state: State) -> float:
        """The share of safe cells that are open, those of the opening click included."""
        safe = board(state["size"], state["mines"]).safe
        return int(state["opened"], 2).bit_count() / safe.bit_count()

    # -- instances, scripted players, pictures ----------------------------------------------------------------------

    def instance(self, state: State) -> str:
        """Size and mine layout: boards that differ only in the opening cell are one instance."""
        return f"{state['size']} {state['mines']}"

    def split_of(self, state: State) -> str:
        return families.split_of(self.instance(state)) if self._families else super().split_of(state)

    def mine_cells(self, state: State) -> list[Cell]:
        """The mines' (row, column), 1-based, in reading order. Full knowledge: not for players."""
        return [cell for cell, mine in zip(grid(state["size"]).coords, state["mines"], strict=True) if mine == "1"]

    def judge(self, start: State, actions: Sequence[str], text: str) -> bool | None:
        """Whether what the text says of mines and safe cells is so; None where no mine was hit."""
        played = self.replay(start, actions)
        if not played or played[-1][2].state["hit"] is None:
            return None
        return is_true(text, set(self.mine_cells(start)), start["size"])

    def solve(self, state: State) -> list[str] | None:
        """The fewest clicks that win, None after a mine was opened."""
        if state["hit"] is not None:
            return None
        shape = grid(state["size"])
        clicks = board(state["size"], state["mines"]).clicks(int(state["opened"], 2))
        return [shape.actions[shape.cells - bit.bit_length()] for bit in clicks]

    def weak(self, state: State, rng: random.Random) -> str:
        """With probability WEAK_SKILL a least likely mine by the exact posterior, else any closed cell.

        Raises ValueError when the episode is over.
        """
        choices = self.admissible(state)
        if not choices:
            raise ValueError("the episode is over: no action is left")
        if rng.random() < WEAK_SKILL:
            chances = mine_probabilities(self, state)
            least = min(chances.values())
            choices = [f"({row}, {column})" for (row, column), chance in chances.items() if chance <= least + 1e-12]
        return rng.choice(choices)

    def render(self, state: State) -> str:
        size = state["size"]
        faces = self._visible(state)
        width = len(str(size))
        lines = self._field(state)
        lines += [" " * (width + 1) + "[dim]" + " ".join(f"{c:>{width}}" for c in range(1, size + 1)) + "[/dim]"]
        for row in range(size):
            cells = faces[row * size : (row + 1) * size]
            shown = " ".join(" " * (width - 1) + _STYLES[face] for face in cells)
            lines.append(f"[dim]{row + 1:>{width}}[/dim] {shown}")
        return "\n".join(lines)

    def render_html(self, state: State) -> str:
        """The board for a browser; small dots are mines, which no player sees."""
        title = " ".join([f"MineSweeper, {state['size']} by {state['size']}", *self._field(state)])
        return board_svg(state["size"], self._visible(state), [mine == "1" for mine in state["mines"]], title)

    def _visible(self, state: State) -> list[str]:
        """The face of every cell as displayed, row-major."""
        faces = board(state["size"], state["mines"]).faces
        shown = [face if opened == "1" else "?" for face, opened in zip(faces, state["opened"], strict=True)]
        if state["hit"] is not None:
            shown[state["hit"]] = "*"
        return shown


_COLOURS = ["bright_blue", "green", "red", "blue", "dark_red", "cyan", "magenta", "yellow"]
_STYLES = {
    "?": "[white on grey37]?[/]",
    ".": "[dim].[/dim]",
    "*": "[bold white on red]*[/]",
    **{str(k + 1): f"[bold {colour}]{k + 1}[/]" for k, colour in enumerate(_COLOURS)},
}


def mine_probabilities(env: Minesweeper, state: State) -> dict[Cell, float]:
    """P(mine) of every closed cell by its 1-based (row, column), in reading order.

    Exact: uniform over all layouts with the board's number of mines that show the visible numbers. Uses what the
    policy sees and the number of mines, nothing else. Raises ValueError once a mine was opened.
    """
    if state["hit"] is not None:
        raise ValueError("a mine was opened: nothing is left to infer")
    size, opened = state["size"], int(state["opened"], 2)
    visible = "".join(env._visible(state))
    chances = posterior(size, opened, visible, state["mines"].count("1"))
    return {cell: chances[i] for i, cell in enumerate(grid(size).coords) if visible[i] == "?"}


def family_probabilities(env: Minesweeper, state: State) -> dict[Cell, float]:
    """`mine_probabilities` of a player who knows the cells of the board's family: how much there is to learn.

    Exact: uniform over the family's layouts that show the visible numbers. Raises ValueError once a mine was opened,
    and for a board of no family.
    """
    if state["hit"] is not None:
        raise ValueError("a mine was opened: nothing is left to infer")
    if "family" not in state:
        raise ValueError("the board is of no family: make an environment with family=")
    size, opened, shape = state["size"], int(state["opened"], 2), grid(state["size"])
    seen = board(size, state["mines"]).faces
    shown = [i for i in range(shape.cells) if opened & shape.bits[i]]
    possible = [
        layout
        for layout in families.layouts(size, env.mines, env.max_turns, state["family"])
        if not layout & opened and all(board(size, shape.text(layout)).faces[i] == seen[i] for i in shown)
    ]
    closed = [(cell, bit) for cell, bit in zip(shape.coords, shape.bits, strict=True) if not opened & bit]
    return {cell: sum(bool(layout & bit) for layout in possible) / len(possible) for cell, bit in closed}


def _state(size: int, mines: int, opened: int) -> State:
    shape = grid(size)
    return {"size": size, "mines": shape.text(mines), "opened": shape.text(opened), "hit": None}


def _cells(key: str, value: object, size: int) -> int:
    """The mask of a list of 1-based [row, column]. Raises InstanceError."""
    if not isinstance(value, list | tuple):
        raise InstanceError(f"instance {key} must be a list of [row, column]; expected {_INSTANCE_EXAMPLE}")
    index, mask = grid(size).index, 0
    for cell in value:
        if not isinstance(cell, list | tuple) or len(cell) != 2 or not all(type(x) is int for x in cell):
            shown = str(cell)[:40]
            raise InstanceError(f"instance {key} holds {shown}, not [row, column]; expected {_INSTANCE_EXAMPLE}")
        at = index.get(f"({cell[0]}, {cell[1]})")
        if at is None:
            raise InstanceError(f"instance {key} holds {list(cell)}; rows and columns go from 1 to {size}")
        mask |= grid(size).bits[at]
    return mask
