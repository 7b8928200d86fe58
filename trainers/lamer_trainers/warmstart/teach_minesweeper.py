"""MineSweeper's teacher: exact-posterior play in some episodes, random play in the others, never into a named mine.

What must stay true: it sees what the policy sees, the board and the memory, except in reflections, where it knows the
mine it has just hit. A cell that memory names as a mine is closed for good, whether the note is true or not.

In words a reflection may also name cells that were opened safely, and those are opened first: to copy from what it
reads asks less of a model than to leave something out for having read it.

On boards of a family some memories hold notes of the family's other boards, of the quality that reflections have: a
cell that they name is then taken for a likelier mine, one that many of them leave out for a less likely one.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from lamer_envs.base import State
from lamer_envs.minesweeper import families
from lamer_envs.minesweeper.board import grid
from lamer_envs.minesweeper.env import Minesweeper, mine_probabilities
from lamer_graph.trial.prompts import PromptStyle, Remembered
from lamer_trainers.warmstart.teachers import Attempt, Choice, Teacher
from lamer_trainers.warmstart.tiny import Piece, spaced

SKILL = 0.7
TUNED_CELLS, TUNED_MINES = 16, 3
"""Cells and mines of the board that the number of rows was tuned on. Each cell has tokens of its own, to be met as
often, and more mines mean more to infer."""
BROADEST = 8.0
"""A fit of over an hour; boards that would need more are not for policies this small."""
TRUE, VAGUE = 0.42, 0.28
"""Shares of reflections that name the mine that was hit, and that say nothing of use; the others name a wrong cell."""
VAGUE_REMARKS = {
    "be careful": "I should be more careful.",
    "count the numbers first": "I should count the numbers before I open a cell.",
    "try another cell": "I should try another cell.",
}
"""Notes of no use, and how they are told."""
MINE_AT = re.compile(r"mine at (\([0-9]+, [0-9]+\))")
SAFE_TO_OPEN = re.compile(r"safe to open (\([0-9]+, [0-9]+\)(?:, \([0-9]+, [0-9]+\))*)")
CELL = re.compile(r"\([0-9]+, [0-9]+\)")
TOLD_SAFE = 0.75
"""Share of reflections in words that say which cells were opened safely, of those that could."""
MOST_NAMED = 6
MOST_OTHERS = 6
WITH_OTHERS = 0.6
"""Share of memories that hold notes of other boards, where boards are of families."""
BELIEF = 3.0
"""How much likelier a mine is in a cell, for each note of another board of the family that names it."""
FAMILY_BREADTH = 1.5
"""More rows where there are families: their prompts have more to be read."""


class MinesweeperTeacher(Teacher):
    """Teacher of one board size."""

    env: Minesweeper
    skill = SKILL

    def __init__(
        self,
        env: Minesweeper,
        max_episodes: int = 3,
        *,
        style: PromptStyle = "compact",
        control: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(env, max_episodes, style=style, control=control)
        broad = max(1.0, env.size**2 / TUNED_CELLS) * max(1.0, env.mines / TUNED_MINES) ** 2
        if env.family is not None:
            broad *= FAMILY_BREADTH
        self.breadth = min(broad, BROADEST)
        # Of some twenty cells that are as good, one draw says little: on 5x5 with 4 mines half as many rows do if all
        # are taught, and in words a fit has few rows. Notes of 4x4 with 3 are learnt without: its shipped policy was.
        self._teach_ties = self.breadth > 1 or not self.compact

    def pieces(self) -> list[Piece]:
        found = [Piece(text) for text in VAGUE_REMARKS]
        found += [Piece(f" {text}") for text in VAGUE_REMARKS]
        found += [piece for text in ("Open", "Closed") for piece in spaced(text, text, before=("\n", " "))]
        highest = min(8, self.env.mines + 3)
        for row in range(1, self.env.size + 1):
            for column in range(1, self.env.size + 1):
                cell, parts = f"({row}, {column})", (f"row {row}", f"column {column}")
                found += spaced(cell, *parts, "cell")
                found += spaced(f"mine at {cell}", *parts, "mine")
                for number in range(highest + 1):
                    found += spaced(f"{cell}={number}", *parts, f"number {number}")
        return found

    def sentence(self, note: str) -> str:
        if note.startswith("safe"):
            return f"It is {note}."
        return VAGUE_REMARKS.get(note) or f"There is a {note}. Do not open it again."

    def choose(self, attempt: Attempt, rng: random.Random) -> Choice:
        closed = self.env.admissible(attempt.state)
        named = named_mines(attempt.memory)
        free = [cell for cell in closed if cell not in named] or closed
        open_cells = set(self._cells()) - set(closed)
        forbidden = tuple(sorted(open_cells | (named - set(free))))
        named_as_safe = named_safe(attempt.memory)
        if safe := [cell for cell in free if cell in named_as_safe]:
            free = safe
        elif attempt.skilled:
            chances = {f"({r}, {c})": p for (r, c), p in mine_probabilities(self.env, attempt.state).items()}
            chances = _believed(chances, attempt.memory)
            least = min(chances[cell] for cell in free)
            free = [cell for cell in free if chances[cell] <= least + 1e-12]
        return Choice(rng.choice(free), forbidden, tuple(free) if self._teach_ties else ())

    def remark(self, attempt: Attempt, rng: random.Random) -> str:
        hit = attempt.actions[-1] if attempt.state["hit"] is not None else None
        draw = rng.random()
        if hit is None or TRUE <= draw < TRUE + VAGUE:
            return rng.choice(list(VAGUE_REMARKS))
        mines = self._mines(attempt.state)
        named = hit if draw < TRUE else rng.choice([cell for cell in self._cells() if cell not in mines])
        return "; ".join(
            [f"mine at {named}", *self._safely([cell for cell in attempt.actions if cell not in (hit, named)], rng)]
        )

    def _safely(self, cells: Sequence[str], rng: random.Random) -> list[str]:
        """A note of cells that are safe, in words and not always."""
        if self.compact or not cells or rng.random() >= TOLD_SAFE:
            return []
        return [f"safe to open {', '.join(dict.fromkeys(cells[:MOST_NAMED]))}"]

    def instructive(self, attempt: Attempt) -> bool:
        return attempt.state["hit"] is not None

    def of_others(self, start: State, rng: random.Random) -> list[Remembered]:
        if "family" not in start or rng.random() >= WITH_OTHERS:
            return []
        boards = _boards(self.env, start["family"])
        found = []
        for _ in range(rng.randint(1, MOST_OTHERS)):
            mines = rng.choice(boards)
            draw = rng.random()
            text = rng.choice(list(VAGUE_REMARKS)) if TRUE <= draw < TRUE + VAGUE else ""
            cell = rng.choice(mines if draw < TRUE else self._cells())
            found.append(Remembered("reflection", text or f"mine at {cell}", 1, own=False))
        return found

    def drill(self, state: State, rng: random.Random) -> tuple[list[Remembered], int]:
        """One to six closed cells named as mines, in notes or as the ends of trajectories, spread over episodes."""
        closed = self.env.admissible(state)
        count = min(rng.randint(1, MOST_NAMED), len(closed) - 1)
        named = rng.sample(closed, max(count, 0))
        episodes = rng.randint(1, self.prompts.max_episodes - 1)
        memory: list[Remembered] = []
        cells = self._cells()
        for episode in range(1, episodes + 1):
            share = named[episode - 1 :: episodes]
            if not share:
                continue
            if self.compact and rng.random() < 0.3:
                opened = [f"{cell}={rng.randint(0, 3)}" for cell in rng.sample(cells, rng.randint(0, 4))]
                memory.append(Remembered("trajectory", "; ".join([*opened, f"mine at {share.pop()}"]), episode))
            if share:
                others = [cell for cell in closed if cell not in named]
                safe = [] if self.compact else rng.sample(others, min(rng.randint(1, 3), len(others)))
                notes = [*(f"mine at {cell}" for cell in share), *self._safely(safe, rng)]
                memory.append(Remembered("reflection", "; ".join(notes), episode))
        return memory, episodes + 1

    def _cells(self) -> list[str]:
        size = self.env.size
        return [f"({row}, {column})" for row in range(1, size + 1) for column in range(1, size + 1)]

    def _mines(self, state: State) -> set[str]:
        return {f"({row}, {column})" for row, column in self.env.mine_cells(state)}


@lru_cache(maxsize=128)
def _boards(env: Minesweeper, family: int) -> list[list[str]]:
    """The mines of each board of a family that belongs to the train split."""
    shape = grid(env.size)
    layouts = families.layouts(env.size, env.mines, env.max_turns, family)
    return [
        [name for bit, name in zip(shape.bits, shape.actions, strict=True) if layout & bit]
        for layout in layouts
        if families.split_of(f"{env.size} {shape.text(layout)}") == "train"
    ]


def safe_cells(text: str) -> set[str]:
    """Cells that a text calls safe."""
    return {cell for named in SAFE_TO_OPEN.findall(text) for cell in CELL.findall(named)}


def named_safe(memory: Sequence[Remembered]) -> set[str]:
    """Cells that a memory says are safe on this board."""
    return {cell for record in memory if record.own for cell in safe_cells(record.text)}


def named_mines(memory: Sequence[Remembered]) -> set[str]:
    """Cells that a memory says are mines on this board."""
    return {cell for record in memory if record.own for cell in MINE_AT.findall(record.text)}


def _believed(chances: dict[str, float], memory: Sequence[Remembered]) -> dict[str, float]:
    """Chances of a mine whose odds are what notes of other boards say of the cell, as somebody reads them who takes
    boards to have something in common."""
    notes = Counter(cell for one in memory if not one.own for cell in MINE_AT.findall(one.text))
    if not notes:
        return chances
    unnamed = 1 / (1 + notes.total() / (2 * TUNED_MINES))
    odds = {
        cell: chance / (1 - chance) * (BELIEF ** notes[cell] if notes[cell] else unnamed)
        for cell, chance in chances.items()
        if 0.0 < chance < 1.0
    }
    return {**chances, **{cell: one / (1 + one) for cell, one in odds.items()}}
