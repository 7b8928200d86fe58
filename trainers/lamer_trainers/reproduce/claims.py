"""The cells of a target's table, and whether the paper's claims hold among them.

What must stay true: a claim is decided by a 95 % interval alone: of the paired difference over the same tasks, seeds
pooled (above 0: held, below: not held, else not decided at this scale), or of a ratio of costs over updates (inside the
claimed range: held, outside: not held, else not decided). Where `theirs` are several the best of them counts, and of an
arm that may choose its reading the better one. What is not run decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

from lamer_trainers.reproduce.grid import Claim, Measure, Target
from lamer_trainers.reproduce.jobs import BUDGET, Cell, Grid, Job
from lamer_trainers.reproduce.results import Cellful, above, cellful, cost_ratio, costs

NOT_RUN: Final = "not run"
Outcome = Literal["held", "not held", "not decided at this scale", "not run"]


class Verdict(NamedTuple):
    """A claim in one column and level: the difference (or ratio) with its interval, and what that says."""

    says: str
    column: str
    level: str
    ours: str
    theirs: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    outcome: Outcome
    note: str = ""

    @property
    def where(self) -> str:
        return f"{self.column} {self.level}".strip()

    @property
    def number(self) -> str:
        """The difference or ratio with its interval, empty where there is none."""
        form = "{:.3f} [{:.3f}, {:.3f}]" if "ratio" in self.measure else "{:+.3f} [{:+.3f}, {:+.3f}]"
        return "" if self.value is None else form.format(self.value, self.low, self.high)

    @property
    def decided(self) -> str:
        """The outcome in words, and what it rests on."""
        said = "so far" if self.outcome == NOT_RUN and self.value is not None else self.outcome
        return f"{said} ({self.note})" if self.note else said

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


class Table:
    """A target's cells by where they stand."""

    def __init__(self, name: str, target: Target, grid: Grid) -> None:
        self.name, self.target, self.grid = name, target, grid
        self._cells: dict[tuple[str, str, str, str], list[Cell]] = {}
        for cell in grid.cells:
            if cell.target == name:
                self._cells.setdefault((cell.column, cell.level, cell.arm, cell.reading), []).append(cell)
        self._read: dict[tuple[str, str, str, str], Cellful] = {}

    @cached_property
    def columns(self) -> list[tuple[str, str]]:
        """Columns and their levels, in the order declared."""
        return list(dict.fromkeys((column, level) for column, level, _, _ in self._cells))

    @cached_property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(arm for _, _, arm, _ in self._cells))

    def at(self, column: str, level: str, arm: str, reading: str) -> Cellful:
        """The readings of a cell, empty where there are none."""
        key = (column, level, arm, reading)
        if key not in self._read:
            self._read[key] = cellful(self._cells.get(key, []))
        return self._read[key]

    def counted(self, column: str, level: str, arm: str) -> tuple[str, Cellful]:
        """The reading of an arm that counts, and its name."""
        about = self.target.arms[arm]
        found = {name: self.at(column, level, arm, name) for name in about.readings}
        if about.counts == "first" or not all(one.readings for one in found.values()):
            return next(iter(found.items()))
        best = max(found, key=lambda name: found[name].number("pass", found[name].episodes).value)
        return best, found[best]

    def named(self, column: str, level: str, name: str) -> Cellful:
        """`arm` or `arm/reading`."""
        arm, _, reading = name.partition("/")
        return self.at(column, level, arm, reading) if reading else self.counted(column, level, arm)[1]

    def trainings(self, column: str, arm: str) -> list[Job]:
        """The trainings of an arm, one for each seed."""
        jobs = [
            cell.job
            for (where, _, who, _), cells in self._cells.items()
            if (where, who) == (column, arm)
            for cell in cells
        ]
        found = [job.after or job for job in jobs]
        return list({job.name: job for job in found if job.kind == "train"}.values())


def verdicts(table: Table) -> list[Verdict]:
    """All claims of a target, in every column and level that they are about."""
    found = []
    for claim in table.target.claims:
        for column, level in table.columns:
            if claim.columns is None or column in claim.columns:
                measure = claim.measure or table.target.measure
                decide = _of_costs if measure in BUDGET else _of_readings
                found.append(decide(table, claim, measure, column, level))
    return found


def _of_readings(table: Table, claim: Claim, measure: Measure, column: str, level: str) -> Verdict:
    ours = table.named(column, level, claim.ours)
    theirs = {name: table.named(column, level, name) for name in claim.theirs if name.partition("/")[0] in table.arms}
    missing = [name for name, one in {claim.ours: ours, **theirs}.items() if not one.readings]
    missing += [name for name in claim.theirs if name not in theirs]
    there = {name: one for name, one in theirs.items() if one.readings}
    k = min([claim.at, *(one.episodes for one in (ours, *there.values()) if one.readings)])
    says = {"pass": f"pass@{k}", "gain": f"pass@{k} - pass@1"}.get(measure, measure)
    common = (claim.says, column, level, claim.ours)
    if not ours.readings or not there:
        return Verdict(*common, " or ".join(claim.theirs), says, None, None, None, NOT_RUN, _missing(missing))
    best = max(there, key=lambda name: there[name].number(measure, k).value)
    found = above(ours, there[best], measure, k)
    # The best of some is not the best of all.
    outcome: Outcome = NOT_RUN if missing else _outcome(found.low, found.high)
    seeds = [len(one.readings) for one in (ours, there[best]) if one.trained]
    unread = sorted({seed for one in (ours, there[best]) for seed in one.missing})
    notes = (_missing(missing), _unread(unread), "one seed" if 1 in seeds else "")
    return Verdict(*common, best, says, *found[:3], outcome, "; ".join(filter(None, notes)))


def _outcome(low: float, high: float) -> Outcome:
    if low > 0:
        return "held"
    return "not held" if high < 0 else "not decided at this scale"


def _of_costs(table: Table, claim: Claim, measure: Measure, column: str, level: str) -> Verdict:
    (theirs,) = claim.theirs
    mine, other = (list(_updates(table, column, arm, measure)) for arm in (claim.ours, theirs))
    common = (claim.says, column, level, claim.ours, theirs, f"{measure} an update, ratio")
    if not mine or not other:
        return Verdict(*common, None, None, None, NOT_RUN, _missing([claim.ours] * (not mine) + [theirs] * (not other)))
    found = cost_ratio(mine, other)
    low, high = claim.between or (1.0, float("inf"))
    outcome: Outcome = "not decided at this scale"
    if low <= found.low and found.high <= high:
        outcome = "held"
    elif found.high < low or found.low > high:
        outcome = "not held"
    return Verdict(*common, *found[:3], outcome)


def _updates(table: Table, column: str, arm: str, measure: Measure) -> Iterator[float]:
    for job in table.trainings(column, arm):
        yield from costs(job, measure)


def _unread(seeds: list[int]) -> str:
    return f"not run: seed {', '.join(map(str, seeds))}" if seeds else ""


def _missing(names: list[str]) -> str:
    return f"not run: {', '.join(names)}" if names else ""
