"""A slow referee of Sokoban that shares no code with the environment, and short ways to states."""

from __future__ import annotations

from lamer_envs import State, make
from lamer_envs.sokoban.env import Sokoban

Cell = tuple[int, int]
Position = tuple[Cell, frozenset[Cell]]
MOVES: dict[str, Cell] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def sokoban(spec: str = "sokoban") -> Sokoban:
    env = make(spec)
    assert isinstance(env, Sokoban)
    return env


class Plain:
    """The rules written out over sets of cells: a slow referee that shares no code with the environment."""

    def __init__(self, observation: str) -> None:
        rows = [line.split(" ") for line in observation.split("\n")]
        cells = {(r, c): cell for r, row in enumerate(rows) for c, cell in enumerate(row)}
        self.walls = {at for at, cell in cells.items() if cell == "#"}
        self.goals = frozenset(at for at, cell in cells.items() if cell in ".+*")
        player = next(at for at, cell in cells.items() if cell in "@+")
        self.start: Position = (player, frozenset(at for at, cell in cells.items() if cell in "$*"))

    def move(self, position: Position, name: str) -> Position:
        (r, c), boxes = position
        dr, dc = MOVES[name]
        ahead, beyond = (r + dr, c + dc), (r + 2 * dr, c + 2 * dc)
        if ahead in self.walls:
            return position
        if ahead in boxes:
            if beyond in self.walls or beyond in boxes:
                return position
            return ahead, boxes - {ahead} | {beyond}
        return ahead, boxes

    def distance(self, start: Position) -> int | None:
        """Fewest moves to the win by plain breadth-first search."""
        seen, layer, moves = {start}, [start], 0
        while layer:
            if any(boxes == self.goals for _, boxes in layer):
                return moves
            layer = [after for before in layer for name in MOVES if (after := self.move(before, name)) not in seen]
            layer = list(dict.fromkeys(layer))
            seen.update(layer)
            moves += 1
        return None


def position(state: State) -> Position:
    return Plain(sokoban().observe(state)).start


def load(*rows: str) -> State:
    return sokoban().load({"xsb": list(rows)})
