"""MineSweeper boards as bit masks: neighbourhoods, flood fill, minimum clicks, and the exact posterior of the mines.

What must stay true: cell i (row-major, from 0) is bit `cells - 1 - i`, so `format(mask, "0{cells}b")` is the board's
text in reading order. Everything is a pure function of masks; the caches hold derived values only.

Minimum clicks, knowing the mines: one click for each connected region of zero cells that is still closed, and one for
each closed safe cell that borders none of them (the "3BV" of the game's players, counted from the present position).
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from math import comb

Cell = tuple[int, int]
"""(row, column), 1-based."""


class Grid:
    """What depends on the size alone: cells, their masks, neighbours and names."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.cells = size * size
        self.full = (1 << self.cells) - 1
        self.coords: list[Cell] = [(row + 1, column + 1) for row in range(size) for column in range(size)]
        self.bits = [1 << (self.cells - 1 - i) for i in range(self.cells)]
        self.actions = [f"({row}, {column})" for row, column in self.coords]
        self.index = {action: i for i, action in enumerate(self.actions)}
        first = sum(self.bits[row * size] for row in range(size))
        self._no_first, self._no_last = self.full ^ first, self.full ^ (first >> (size - 1))
        self.neighbours = [self.dilate(bit) & ~bit for bit in self.bits]

    def dilate(self, mask: int) -> int:
        """The mask and all cells that touch it, diagonals included."""
        wide = mask | ((mask & self._no_first) << 1) | ((mask & self._no_last) >> 1)
        return (wide | (wide << self.size) | (wide >> self.size)) & self.full

    def text(self, mask: int) -> str:
        """The mask as a row-major string of 0 and 1."""
        return format(mask, f"0{self.cells}b")


@lru_cache(maxsize=64)
def grid(size: int) -> Grid:
    """The shared Grid of a size."""
    return Grid(size)


class Board:
    """A mine layout and what follows from it."""

    def __init__(self, size: int, mines: int) -> None:
        self.grid = grid(size)
        self.mines = mines
        self.safe = self.grid.full ^ mines
        self.zeros = self.grid.full ^ self.grid.dilate(mines)

    @cached_property
    def faces(self) -> str:
        """What each cell shows when it is open, row-major: `.` for zero, `1`-`8`, `*` for a mine."""
        mines = self.mines
        numbers = [(mines & near).bit_count() for near in self.grid.neighbours]
        return "".join("*" if mines & bit else ".12345678"[k] for bit, k in zip(self.grid.bits, numbers, strict=True))

    def flood(self, opened: int, bit: int) -> int:
        """`opened` after a click on the closed safe cell `bit`; zeros spread, through closed cells only."""
        region = bit
        while True:
            grown = region | (self.grid.dilate(region & self.zeros) & ~opened)
            if grown == region:
                return opened | region
            region = grown

    def clicks(self, opened: int) -> list[int]:
        """The fewest clicks that open every safe cell, as cell bits: one per zero region, then the cells left over."""
        plan = []
        while closed_zeros := self.zeros & ~opened:
            bit = 1 << (closed_zeros.bit_length() - 1)
            plan.append(bit)
            opened = self.flood(opened, bit)
        rest = self.safe & ~opened
        return plan + [bit for bit in self.grid.bits if rest & bit]

    def min_clicks(self, opened: int) -> int:
        """`len(clicks(opened))`, faster."""
        count = 0
        while closed_zeros := self.zeros & ~opened:
            opened = self.flood(opened, closed_zeros & -closed_zeros)
            count += 1
        return count + (self.safe & ~opened).bit_count()


@lru_cache(maxsize=1024)
def board(size: int, mines: str) -> Board:
    """The Board of a layout in state form (row-major 0 and 1)."""
    return Board(size, int(mines, 2))


def posterior(size: int, opened: int, faces: str, mines: int) -> list[float]:
    """P(mine) of every cell, row-major, uniform over the layouts of `mines` mines that show what is seen.

    `opened` and the faces of opened cells are all that is looked at. A forward and a backward pass over the closed
    cells that touch a number count the layouts exactly: the state between two cells is (mines placed, what each
    number still lacks), and each end is weighted by the ways to put the other mines into the cells that touch none.
    """
    shape = grid(size)
    closed = shape.full & ~opened
    numbers = [i for i in range(shape.cells) if opened & shape.bits[i] and shape.neighbours[i] & closed]
    lacking = tuple(0 if faces[i] == "." else int(faces[i]) for i in numbers)
    frontier = [i for i in _reading_order(shape, numbers) if closed & shape.bits[i]]
    touched = [[n for n, i in enumerate(numbers) if shape.neighbours[i] & shape.bits[cell]] for cell in frontier]
    last = {n: position for position, near in enumerate(touched) for n in near}  # after it a number must lack nothing

    layers: list[dict[tuple[int, tuple[int, ...]], int]] = [{(0, lacking): 1}]
    for position, near in enumerate(touched):
        following: dict[tuple[int, tuple[int, ...]], int] = {}
        for (placed, lack), ways in layers[-1].items():
            for state in _successors(placed, lack, near, mines):
                if all(state[1][n] == 0 for n in near if last[n] == position):
                    following[state] = following.get(state, 0) + ways
        layers.append(following)

    far = closed.bit_count() - len(frontier)
    weights = {state: comb(far, mines - state[0]) for state in layers[-1]}
    total = sum(ways * weights[state] for state, ways in layers[-1].items())
    if not total:
        raise ValueError("no layout of this many mines shows these numbers")
    chances = [0.0] * shape.cells
    if far:
        placed_far = sum(ways * comb(far - 1, mines - s[0] - 1) for s, ways in layers[-1].items() if s[0] < mines)
        for i in range(shape.cells):
            if closed & shape.bits[i]:
                chances[i] = placed_far / total
    for position in range(len(frontier) - 1, -1, -1):
        near, backward, with_mine = touched[position], {}, 0
        for (placed, lack), ways in layers[position].items():
            count = 0
            for state in _successors(placed, lack, near, mines):
                reached = weights.get(state, 0)
                count += reached
                if state[0] > placed:
                    with_mine += ways * reached
            backward[placed, lack] = count
        chances[frontier[position]] = with_mine / total
        weights = backward
    return chances


def _successors(placed: int, lack: tuple[int, ...], near: list[int], mines: int) -> list[tuple[int, tuple[int, ...]]]:
    """The states after one more frontier cell: without a mine, and with one where the numbers allow it."""
    states = [(placed, lack)]
    if placed < mines and all(lack[n] > 0 for n in near):
        fewer = list(lack)
        for n in near:
            fewer[n] -= 1
        states.append((placed + 1, tuple(fewer)))
    return states


def _reading_order(shape: Grid, numbers: list[int]) -> list[int]:
    """The neighbours of the numbers, number by number, so that few numbers are unfinished at a time."""
    order: dict[int, None] = {}
    for number in numbers:
        for i in range(shape.cells):
            if shape.neighbours[number] & shape.bits[i]:
                order[i] = None
    return list(order)
