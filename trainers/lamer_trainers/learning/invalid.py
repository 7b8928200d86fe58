"""Whether it pays to answer with no action: what invalid turns return against valid ones, and a warning.

What must stay true: numbers are of the returns that are trained on, penalties included, and compare a group's turns at
the same episode and turn alone. An invalid turn that costs less than to play is what a policy learns first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from lamer_trainers.learning.samples import Sample

WINDOW = 5
"""Updates whose mean is looked at, at the beginning and now."""
RISEN = 0.05
"""By how much the share of invalid turns must have risen to be warned of, and again for another warning."""


def invalid_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """What invalid turns return against valid ones of the same group, episode and turn, penalties included.

    `invalid/return_gap` is the mean over invalid turns of the difference (above 0: not to answer earns more),
    `invalid/compared` the share of them that has a valid one to be compared with. Nothing where none is invalid.
    """
    cells: dict[tuple[str, int, int], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for sample in samples:
        if sample.kind == "turn":
            cells[sample.group, sample.episode, sample.turn][sample.valid].append(sample.step_return)
    invalid = sum(len(wrong) for wrong, _ in cells.values())
    if not invalid:
        return {}
    pairs = [
        (len(wrong), sum(wrong) / len(wrong) - sum(right) / len(right))
        for wrong, right in cells.values()
        if wrong and right
    ]
    compared = sum(count for count, _ in pairs)
    if not compared:
        return {"invalid/compared": 0.0}
    gap = sum(count * difference for count, difference in pairs) / compared
    return {"invalid/return_gap": gap, "invalid/compared": compared / invalid}


class InvalidWatch:
    """Warns when invalid turns grow more frequent while they earn more: update after update, from the run's (or a
    resume's) first one on."""

    def __init__(self) -> None:
        self._shares: list[float] = []
        self._gaps: list[float] = []
        self._warned = 0.0

    def warning(self, update: int, share: float, gap: float | None) -> str | None:
        """What to say after an update whose batch had this share of invalid turns, which returned `gap` more."""
        self._shares.append(share)
        self._gaps.append(gap or 0.0)
        if len(self._shares) < 2 * WINDOW:
            return None
        before, now = (sum(part) / WINDOW for part in (self._shares[:WINDOW], self._shares[-WINDOW:]))
        more = sum(self._gaps[-WINDOW:]) / WINDOW
        if more <= 0 or now < before + self._warned + RISEN:
            return None
        self._warned = now - before
        return (
            f"update {update}: invalid actions rose from {before:.0%} to {now:.0%} of turns and return {more:.2f} more "
            "than valid ones at the same place: saying nothing sensible pays; raise optimise.invalid_penalty"
        )
