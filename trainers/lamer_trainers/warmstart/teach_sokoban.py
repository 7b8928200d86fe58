"""Sokoban's teacher: shortest solutions with slips, some random episodes, never a push that memory warns of.

Of hidden pits it knows what its memory names, no more: it plans around that.

What must stay true: a note or a trajectory that says a box got stuck somewhere keeps this teacher from pushing a box
there, whether the note is true or not. Reflections read the same words: the push that made the position dead.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from itertools import product

from lamer_envs.base import State
from lamer_envs.sokoban.env import MOVES_PER_TURN, Sokoban
from lamer_envs.sokoban.judge import STUCK_AT
from lamer_envs.sokoban.room import DIRECTIONS
from lamer_graph.trial.prompts import Remembered
from lamer_trainers.warmstart.teachers import Attempt, Choice, Teacher
from lamer_trainers.warmstart.tiny import Piece, spaced

SKILL = 0.95
SLIP = 0.2
"""Share of a skilled episode's turns that go wrong, so that there is something to recover from."""
TRUE, VAGUE = 0.42, 0.28
VAGUE_REMARKS = {
    "think ahead": "I should think ahead.",
    "walk around the box": "I should walk around the box.",
    "try another way": "I should try another way.",
}
"""Notes of no use, and how they are told."""
NO_BOX_AT = re.compile(r"(?:no|not push a) box to (\([0-9]+, [0-9]+\))")
ALL_TURNS = [", ".join(moves) for n in range(1, MOVES_PER_TURN + 1) for moves in product(DIRECTIONS, repeat=n)]
MOST_NAMED = 4


class SokobanTeacher(Teacher):
    """Teacher of one room size."""

    env: Sokoban
    skill = SKILL

    @property
    def gates(self) -> Mapping[str, tuple[float, float]]:
        """With pits: a first attempt that knows of none seldom wins, and memory is what counts."""
        if not self.env.pits:
            return {}
        return {"pass@1": (0.01, 0.3), "forbidden-cell probability": (0.0, 0.1), "true remarks": (0.3, 0.6)}

    def pieces(self) -> list[Piece]:
        found = [piece for text in VAGUE_REMARKS for piece in spaced(text)]
        found += [piece for move in DIRECTIONS for piece in spaced(move, move, before=("", " ", ", "))]
        found += [Piece(text) for text in (": ", ", stuck", ", won", " on goal")]
        found += [Piece(f", bumped {n}", ("bumped", f"bumped {n}")) for n in range(1, MOVES_PER_TURN + 1)]
        for row in range(1, self.env.rows + 1):
            for column in range(1, self.env.columns + 1):
                cell, parts = f"({row}, {column})", (f"row {row}", f"column {column}")
                found += spaced(cell, *parts, "cell")
                found += [Piece(f"\nYou {cell}", (*parts, "You"))]
                found += [Piece(f" {role} {cell}", (*parts, role)) for role in ("You", "Box", "Goal", "Wall")]
                found += spaced(f"box to {cell}", *parts, "box to")
                found += spaced(f"no box to {cell}", *parts, "no box to")
                found += spaced(f"at {cell}", *parts, "at")
        return found

    def sentence(self, note: str) -> str:
        return VAGUE_REMARKS.get(note) or f"A box gets stuck there. Do not push a {note.removeprefix('no ')}."

    def choose(self, attempt: Attempt, rng: random.Random) -> Choice:
        state = attempt.state
        named = warned_cells(attempt.memory)
        forbidden = tuple(turn for turn in DIRECTIONS if named & self.pushed_to(state, [turn]))
        if attempt.skilled:
            plan = self.env.solve(self._as_remembered(state, named))
            if plan and not named & self.pushed_to(state, plan[0].split(", ")):
                return Choice(plan[0], forbidden)
        for _ in range(20):
            turn = rng.choice(ALL_TURNS)
            if not named & self.pushed_to(state, turn.split(", ")):
                break
        return Choice(turn, forbidden)

    def slip(self, attempt: Attempt, rng: random.Random) -> str | None:
        return rng.choice(ALL_TURNS) if attempt.skilled and rng.random() < SLIP else None

    def remark(self, attempt: Attempt, rng: random.Random) -> str:
        stuck = STUCK_AT.findall(attempt.turns[-1].outcome)
        draw = rng.random()
        if not stuck or TRUE <= draw < TRUE + VAGUE:
            return rng.choice(list(VAGUE_REMARKS))
        if draw < TRUE:
            return f"no box to {stuck[-1]}"
        return f"no box to {rng.choice([cell for cell in self._cells() if cell not in stuck])}"

    def instructive(self, attempt: Attempt) -> bool:
        return bool(STUCK_AT.findall(attempt.turns[-1].outcome))

    def drill(self, state: State, rng: random.Random) -> tuple[list[Remembered], int]:
        """One to four cells where boxes got stuck, in notes or as ends of trajectories, over one or two episodes."""
        tried = [*DIRECTIONS, *rng.sample(ALL_TURNS, 6)]
        near = sorted(set().union(*(self.pushed_to(state, turn.split(", ")) for turn in tried)))
        cells = self._cells()
        count = rng.randint(1, MOST_NAMED)
        named = rng.sample(near, min(len(near), rng.randint(1, count))) if near else []
        named += rng.sample(cells, count - len(named))
        episodes = rng.randint(1, self.prompts.max_episodes - 1)
        memory: list[Remembered] = []
        for episode in range(1, episodes + 1):
            share = named[episode - 1 :: episodes]
            if share and self.compact and rng.random() < 0.3:
                text = f"{rng.choice(ALL_TURNS)}: box to {share.pop()}, stuck"
                memory.append(Remembered("trajectory", text, episode))
            if share:
                memory.append(Remembered("reflection", "; ".join(f"no box to {cell}" for cell in share), episode))
        return memory, episodes + 1

    def _as_remembered(self, state: State, named: set[str]) -> State:
        """The state with the pits that a memory names for those that there are."""
        if not self.env.pits:
            return state
        indices = {self._name(cell): cell for cell in range(self.env.rows * self.env.columns)}
        return {**state, "pits": sorted(indices[cell] for cell in named & indices.keys())}

    def _name(self, cell: int) -> str:
        return f"({cell // self.env.columns + 1}, {cell % self.env.columns + 1})"

    def pushed_to(self, state: State, moves: Sequence[str]) -> set[str]:
        """Cells onto which these moves push a box."""
        found: set[int] = set()
        for move in moves:
            step = self.env.step(state, move)
            found |= set(step.state["boxes"]) - set(state["boxes"])
            state = step.state
            if step.done:
                break
        return set(map(self._name, found))

    def _cells(self) -> list[str]:
        inner = range(2, self.env.rows), range(2, self.env.columns)
        return [f"({row}, {column})" for row in inner[0] for column in inner[1]]


def warned_cells(memory: Sequence[Remembered]) -> set[str]:
    """Cells onto which a memory says no box must be pushed."""
    return {cell for record in memory for cell in [*STUCK_AT.findall(record.text), *NO_BOX_AT.findall(record.text)]}
