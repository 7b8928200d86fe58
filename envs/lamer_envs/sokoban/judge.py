"""What a text claims of where boxes get stuck.

What must stay true: a cell is claimed where its clause speaks of a pit, or of a box and of being stuck, or warns of it;
where a box came from is no claim.
"""

from __future__ import annotations

import re

STUCK_AT = re.compile(r"box to (\([0-9]+, [0-9]+\))(?: on goal)?(?:, bumped [0-9]+)?, stuck")
"""How an outcome tells of a box that cannot be brought home any more."""
_CELL = re.compile(r"(from )?(\([0-9]+, [0-9]+\))")
_WARNS = re.compile(r"\b(?:stuck|trapped|wedged|dead|corner|no|not|never|avoid|cannot|don't|n't)\b", re.IGNORECASE)
_PIT = re.compile(r"\bpits?\b", re.IGNORECASE)
_BOX = re.compile(r"\bbox(?:es)?\b", re.IGNORECASE)
_PART = re.compile(r"[.;!?\n]+")


def claimed(text: str) -> set[str]:
    """The cells, as outcomes name them, of which a text says that they are pits, that a box gets stuck there, or that
    none must be pushed there."""
    parts = _PART.split(text)
    clauses = [part for part in parts if _PIT.search(part) or (_BOX.search(part) and _WARNS.search(part))]
    return {cell for clause in clauses for origin, cell in _CELL.findall(clause) if not origin}
