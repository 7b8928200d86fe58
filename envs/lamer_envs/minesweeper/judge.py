"""What a text claims about the mines of a board: which cells it calls mines, and which it calls safe.

What must stay true: a claim is read where cells and what is said of them stand in one clause, and nowhere else, so that
advice ("open (1, 2) first") is no claim; what is denied is claimed the other way round.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lamer_envs.minesweeper.board import Cell

_CELL = r"\(\s?[0-9]{1,2}\s?,\s?[0-9]{1,2}\s?\)"
_CELLS = rf"(?:{_CELL}(?:(?:,? and |, |,? or )(?={_CELL}))?){{1,64}}"
_NAMED = r"(?:(?:the|a|cells?|squares?|positions?|coordinates?) ){0,3}"
_IS = r"(?:is|are|was|were|has|have|had|contains?|contained|hides?|hid|holds?|held|hit|revealed|triggered)"
_NOT = r"(?P<not>n't|not|no|never|without)"
_LIES = r"(?: (?:is|are|was|were|lies?|located|hidden|also)){0,3}"
_AT = r"(?:at|in|on|under|(?:by|when|while|after) (?:I )?open(?:ed|ing))"
_MINE_AT = re.compile(
    rf"(?:{_NOT} (?:an?y? )?)?\bmines?\b{_LIES}:? (?:{_AT} )?{_NAMED}(?P<cells>{_CELLS})", re.IGNORECASE
)
_IS_MINE = re.compile(
    rf"(?P<cells>{_CELLS}) (?:(?:both|all|do|does|did) ?){{0,2}}(?:{_IS} ?)?(?:{_NOT} ?)?(?:{_IS} )?"
    r"(?:both |all |an? |the )?\bmines?\b",
    re.IGNORECASE,
)
_SAFE_AT = re.compile(
    rf"(?:{_NOT} )?\bsafe(?: (?:to open|cells?|squares?|at|are|is)){{0,2}}:? {_NAMED}(?P<cells>{_CELLS})", re.IGNORECASE
)
_IS_SAFE = re.compile(rf"(?P<cells>{_CELLS}) {_IS} ?(?:both |all )?(?:{_NOT} )?safe\b", re.IGNORECASE)
_PART = re.compile(r"[.;!?\n]+")


class Claims(NamedTuple):
    """Cells (row, column), 1-based, that are called mines, and that are called safe."""

    mines: set[Cell]
    safe: set[Cell]


def claims(text: str) -> Claims:
    """What a text says of cells, clause by clause."""
    found = Claims(set(), set())
    for clause in _PART.split(text):
        for pattern, (said, denied) in (
            (_MINE_AT, found),
            (_IS_MINE, found),
            (_SAFE_AT, found[::-1]),
            (_IS_SAFE, found[::-1]),
        ):
            for match in pattern.finditer(clause):
                (denied if match["not"] else said).update(_cells(match["cells"]))
    return found


def _cells(text: str) -> list[Cell]:
    return [(int(row), int(column)) for row, column in re.findall(r"([0-9]+)\s?,\s?([0-9]+)", text)]


def is_true(text: str, mines: set[Cell], size: int) -> bool:
    """Whether a text claims something of a board with these `mines`, and nothing that is not so."""
    named, safe = claims(text)
    board = {(row, column) for row in range(1, size + 1) for column in range(1, size + 1)}
    return bool(named or safe) and named <= mines and safe <= board - mines
