"""A MineSweeper player without a model that reads its prompt: the board, its own notes, and those of other boards.

It plays by exact inference, never into a mine that its own notes name, and takes cells that notes of other boards name
for likelier mines, as a reader would who believes that boards have something in common. Where they have, that helps;
where they have not, it costs. Its notes name the mine that it hit; after a win, all mines, which are what is closed.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from lamer_envs import make
from lamer_envs.minesweeper import Minesweeper
from lamer_envs.minesweeper.board import grid, posterior
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Policy
from lamer_graph.types import Completion, Message, Sampling

HIT = re.compile(r"mine at (\(\d+, \d+\))")
CELL = re.compile(r"\((\d+), (\d+)\)(?:=(\d))?")
BELIEF = 3.0
"""How much likelier a mine is in a cell, for each note of another board that names it."""


class ReadingPlayer(Policy):
    """Plays boards like those of `env` from compact prompts."""

    def __init__(self, env: str) -> None:
        board = make(env)
        if not isinstance(board, Minesweeper):
            raise ConfigError(f"the reading player plays minesweeper, not '{env}'")
        self._size, self._mines = board.size, board.mines
        self._names = grid(board.size).actions

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        lines = messages[-1]["content"].splitlines()
        rng = random.Random(sampling.seed)
        said = f"<remark>{self._note(lines)}</remark>" if lines[-1] == "Remark" else None
        text = said or f"<action>{self._choose(lines, rng)}</action>"
        tokens = [ord(letter) for letter in text]
        return Completion(text, [1], tokens, [0.0] * len(tokens), "reading-player", "stop")

    def _note(self, lines: Sequence[str]) -> str:
        """What is remembered of an episode: the mine that ended it, or all of a board that was won."""
        told = lines[-2]
        _, closed, mines = told.partition("Closed ")  # how a board looks that was won
        hit = [f"({row}, {column})" for row, column, _ in CELL.findall(mines)] if closed else HIT.findall(told)[-1:]
        return "; ".join(f"mine at {cell}" for cell in hit) or "be careful"

    def _choose(self, lines: Sequence[str], rng: random.Random) -> str:
        own, others = set[str](), Counter[str]()
        for line in lines:
            named = [f"({row}, {column})" for row, column, number in CELL.findall(line) if not number]
            if line.startswith("Note "):
                own.update(named)
            elif line.startswith("Other "):
                others.update(set(named))
        closed, faces = self._board(next(line for line in reversed(lines) if "Closed" in line))
        shape = grid(self._size)
        opened = sum(bit for bit, name in zip(shape.bits, self._names, strict=True) if name not in closed)
        chances = posterior(self._size, opened, faces, self._mines)
        risk = {name: chances[shape.index[name]] for name in closed}
        believed = {
            name: 1.0 if name in own else self._believed(chance, others[name], sum(others.values()))
            for name, chance in risk.items()
        }
        least = min(believed.values())
        return rng.choice([name for name in closed if believed[name] <= least + 1e-9])

    def _believed(self, chance: float, named: int, notes: int) -> float:
        """A chance whose odds are what other boards' notes say of the cell: more if named, less if it never was."""
        if chance in (0.0, 1.0) or not notes:
            return chance
        odds = chance / (1 - chance) * (BELIEF**named if named else 1 / (1 + notes / (2 * self._mines)))
        return odds / (1 + odds)

    def _board(self, line: str) -> tuple[list[str], str]:
        """The closed cells, and what each cell shows, row by row."""
        told, _, rest = line.partition("Closed")
        numbers = {f"({row}, {column})": number for row, column, number in CELL.findall(told) if number}
        closed = [f"({row}, {column})" for row, column, _ in CELL.findall(rest)]
        return closed, "".join(numbers.get(name, "?" if name in closed else ".") for name in self._names)
