"""Families of boards: boards whose mines lie in the same few cells, so that one board teaches something about the next.

What must stay true: the cells of a family follow from size, mines and the family's number alone, and from the turn
budget where that is too small for the first cells drawn; every layout of mines in these cells that has a playable
opening is a board of the family; each split holds at least LEAST_IN_SPLIT of the family's layouts, and a layout is of
one split whichever families it belongs to.

The cells are as few as give LEAST_LAYOUTS layouts. The splits of families are more even than the usual ones: layouts
that are held out there are held out here too, and more of them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import lru_cache
from itertools import combinations
from math import comb

from lamer_envs.errors import EnvParameterError
from lamer_envs.minesweeper.board import Board, Grid, grid
from lamer_envs.parameters import check_whole, generator, stable_hash

LEAST_IN_SPLIT = 10
LEAST_LAYOUTS = 3 * LEAST_IN_SPLIT
MOST_MINES = 40
"""More mines than these make thousands of layouts in however few cells."""
MOST_NUMBER, MOST_FAMILIES = 9999, 100
_OWNERS = ("train",) * 4 + ("val", "val", "test", "test", "val", "test")
"""Split by the last digit of a layout's hash: 40/30/30. The usual splits have train 0-7, val 8, test 9."""
_DRAWS = 300
_SEVERAL = re.compile(r"([0-9]{1,4})-([0-9]{1,4})", re.ASCII)
_EXAMPLE = "family=3 for one family, or family='0-9' for ten"
_ONE = (
    " All boards that you are given have something in common, which you are not told: what you found out about where "
    "the mines lie on one of them helps on the next."
)
_MANY = (
    " Each board belongs to the field that is named ahead of it. Boards of one field have something in common, which "
    "you are not told: what you found out about where the mines lie on one of them helps on the field's next board. "
    "Other fields are different."
)


def rules(families: int) -> str:
    """What the rules say in addition where boards are of so many families."""
    return "" if not families else _ONE if families == 1 else _MANY


def read_families(family: int | str) -> range:
    """The numbers of the families that 3, "3" or "0-9" names. Raises EnvParameterError."""
    number: object = family
    if isinstance(family, str):
        if several := _SEVERAL.fullmatch(family):
            low, high = int(several[1]), int(several[2])
            if not low < high < low + MOST_FAMILIES:
                raise EnvParameterError(
                    f"family '{family}' must go from a lower to a higher number, over at most {MOST_FAMILIES} "
                    f"families; for example {_EXAMPLE}"
                )
            return range(low, high + 1)
        number = int(family) if re.fullmatch("[0-9]{1,4}", family, re.ASCII) else family
    check_whole("family", number, 0, MOST_NUMBER, example=_EXAMPLE)
    assert isinstance(number, int)
    return range(number, number + 1)


def split_of(instance: str) -> str:
    """The split that owns a board's instance."""
    return _OWNERS[stable_hash(f"minesweeper\n{instance}") % 10]


def pool_size(size: int, mines: int) -> int:
    """How many cells of a family's boards may be mines. Raises EnvParameterError where that is no restriction."""
    if mines > MOST_MINES:
        raise EnvParameterError(f"families are of boards with at most {MOST_MINES} mines, not {mines}")
    pool = mines + 1
    while comb(pool, mines) < LEAST_LAYOUTS:
        pool += 1
    if 3 * pool > 2 * size * size:
        raise EnvParameterError(
            f"a family of {size}x{size} boards with {mines} {'mine' if mines == 1 else 'mines'} would need {pool} "
            f"cells for its mines, over two thirds of the board, to have {LEAST_LAYOUTS} layouts; for example "
            "minesweeper:4x4-3-family=3 or minesweeper:5x5-4-family=3 has what it needs"
        )
    return pool


@lru_cache(maxsize=512)
def layouts(size: int, mines: int, max_turns: int, family: int) -> tuple[int, ...]:
    """The mine masks of a family's boards: all layouts in its cells that have an opening which leaves 1 to `max_turns`
    clicks.

    Raises EnvParameterError where no cells were found that give every split its share.
    """
    shape, pool = grid(size), pool_size(size, mines)
    rng = generator("minesweeper", "family", size, mines, family)
    for _ in range(_DRAWS):
        found = _layouts(shape, mines, max_turns, rng.sample(shape.bits, pool))
        counts = Counter(split_of(f"{size} {shape.text(layout)}") for layout in found)
        if all(counts[split] >= LEAST_IN_SPLIT for split in ("train", "val", "test")):
            return found
    raise EnvParameterError(
        f"no family of {size}x{size} boards with {mines} mines has {LEAST_IN_SPLIT} layouts a split that can be won "
        f"within {max_turns} turns; allow more turns"
    )


def _layouts(shape: Grid, mines: int, max_turns: int, cells: list[int]) -> tuple[int, ...]:
    drawn = (sum(chosen) for chosen in combinations(cells, mines))
    return tuple(layout for layout in drawn if _playable(Board(shape.size, layout), max_turns))


def _playable(board: Board, max_turns: int) -> bool:
    safe = (bit for bit in board.grid.bits if board.safe & bit)
    return any(1 <= board.min_clicks(board.flood(0, bit)) <= max_turns for bit in safe)


def draw(size: int, mines: int, max_turns: int, family: int, rng: random.Random) -> tuple[Board, int]:
    """A random board of a family, every layout as likely, and what is open after an opening click that fits."""
    board = Board(size, rng.choice(layouts(size, mines, max_turns, family)))
    safe = [bit for bit in board.grid.bits if board.safe & bit]
    while True:  # ends: each of these layouts has such an opening
        opened = board.flood(0, rng.choice(safe))
        if 1 <= board.min_clicks(opened) <= max_turns:
            return board, opened
