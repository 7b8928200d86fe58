"""What a record of other tasks is worth: from who saw it, and what became of them, to a value with its uncertainty.

What must stay true: pure functions. A trial that is held back (`held_back`, drawn from its seed before it begins) looks
its records up like the others and is shown none of them, so those two differ in nothing else: the value of a record is
the mean outcome of trials that it was shown to, minus that of trials that it was held back from, both measured from the
mean of their group (in deployment: from a baseline). Where none was held back the value is the first of the two alone,
and `controlled` is False: what is shown to easy tasks then looks good. An old observation counts less and less.

A value per memory is MemRL's idea (arXiv 2601.03192), retrieval by likeness, value and an exploration bonus
RetroAgent's (arXiv 2603.08561, SimUtil-UCB); both average outcomes, without a control.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import blake2b
from random import Random
from typing import Literal, NamedTuple

from lamer_memory.base import MemoryRecord, MetadataValue, ScoredRecord
from lamer_memory.errors import MemoryConfigError

Select = Literal["similar", "value", "ucb"]

WINDOW = 256.0
"""Most observations that an arm counts as. Beyond, a new one takes the place of 1/256 of the old: an exponential
average, which follows a world that changes within some 256 observations of a record."""
PRIOR_VARIANCE = 0.25
"""Of an outcome between 0 and 1, at most; counted as four observations, so that two lucky trials are no certainty."""
PRIOR_WEIGHT = 4
SPREAD = 0.1
"""Standard deviation of values around their mean where too few are known to tell; `LEAST_SPREAD` is the least that is
believed."""
LEAST_SPREAD = 0.03
TELLING = 4
"""Known values from which their spread is taken."""
CONFIDENCE = 1.645
"""Standard deviations from 0 at which a value is below it with confidence (one-sided 95 %)."""
ALPHA = 0.6
"""Weight of likeness against value in "ucb": the default of RetroAgent's published code."""
EXPLORATION = 0.5
"""c of the bonus c sqrt(ln N / n): UCB1-tuned's bound for outcomes between 0 and 1, the square root of their largest
variance (Auer et al. 2002, section 4)."""
RETRY = 0.05
"""Share of tasks that are shown a record all the same that is below zero with confidence."""
CANDIDATES = 4
"""Most similar records per one that is shown, among which "value" and "ucb" choose (MemRL's two phases): a value says
nothing of what a record is about."""
MAX_BLOCK = 16

OVERALL = "\x1foverall"
"""Key of what all records of a namespace come to."""
PREFIX = "utility_"
"""How the metadata keys of values begin."""


class Arm(NamedTuple):
    """Outcomes of one side, as `n` (at most WINDOW), their mean, and their squared deviations from it, summed."""

    n: float = 0.0
    mean: float = 0.0
    m2: float = 0.0

    def add(self, *outcomes: float) -> Arm:
        """With these outcomes, in whatever order; the old ones give way where there are more than WINDOW (Chan et al.
        1983). Raises ValueError for one that is not finite."""
        if not all(map(math.isfinite, outcomes)):
            raise ValueError(f"an outcome must be a finite number, not {next(o for o in outcomes if o - o != 0)!r}")
        if not outcomes:
            return self
        mean = math.fsum(outcomes) / len(outcomes)
        m2 = math.fsum((outcome - mean) ** 2 for outcome in outcomes)
        new = Arm(float(len(outcomes)), mean, m2).at_most(WINDOW)
        old = self.at_most(WINDOW - new.n)
        n = old.n + new.n
        apart = new.mean - old.mean
        return Arm(n, old.mean + apart * new.n / n, old.m2 + new.m2 + apart**2 * old.n * new.n / n)

    def at_most(self, n: float) -> Arm:
        """The same counted as `n` observations where it is more."""
        return self if self.n <= n else Arm(n, self.mean, self.m2 * n / self.n)

    @property
    def variance_of_mean(self) -> float:
        prior = PRIOR_VARIANCE * PRIOR_WEIGHT
        return (self.m2 + prior) / (self.n + PRIOR_WEIGHT) / self.n if self.n else 0.0


NOTHING = Arm()


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a record's worth, in units of outcomes (0 to 1). Nothing known: `mean` 0, `error` infinite."""

    shown: Arm = NOTHING
    held: Arm = NOTHING

    @property
    def n(self) -> float:
        """How often it was shown or held back."""
        return self.shown.n + self.held.n

    @property
    def known(self) -> bool:
        return self.shown.n > 0

    @property
    def controlled(self) -> bool:
        """Whether it is the effect of the record: both sides were seen. Else what it is shown with is in it."""
        return self.shown.n > 0 and self.held.n > 0

    @property
    def mean(self) -> float:
        if not self.known:
            return 0.0
        return self.shown.mean - self.held.mean if self.controlled else self.shown.mean

    @property
    def error(self) -> float:
        """Its standard error."""
        return math.sqrt(self.shown.variance_of_mean + self.held.variance_of_mean) if self.known else math.inf

    @property
    def harms(self) -> bool:
        """Whether it is below zero with confidence."""
        return self.known and self.mean + CONFIDENCE * self.error < 0

    def with_outcomes(self, shown: Iterable[float] = (), held: Iterable[float] = ()) -> Value:
        """With more observations. Raises ValueError for an outcome that is not finite."""
        return Value(self.shown.add(*shown), self.held.add(*held))

    def to_metadata(self) -> dict[str, MetadataValue]:
        """As a record's metadata hold it; `value_of` is the inverse."""
        return {
            f"{PREFIX}{side}_{name}": number
            for side, arm in (("shown", self.shown), ("held", self.held))
            for name, number in arm._asdict().items()
        }


UNKNOWN = Value()


def value_of(record: MemoryRecord) -> Value:
    """What the record's metadata say of its worth; what is no number there says nothing."""

    def arm(side: str) -> Arm:
        found = [record.metadata.get(f"{PREFIX}{side}_{name}") for name in Arm._fields]
        numbers = [float(one) for one in found if isinstance(one, int | float) and math.isfinite(one)]
        if len(numbers) < len(found):
            return NOTHING
        n, mean, m2 = numbers
        sound = 0 < n <= WINDOW and abs(mean) <= 1 and 0 <= m2 <= 4 * n  # of outcomes between -1 and 1
        return Arm(n, mean, m2) if sound else NOTHING

    return Value(arm("shown"), arm("held"))


def valued(record: MemoryRecord, value: Value) -> MemoryRecord:
    """The record with its value in its metadata."""
    return replace(record, metadata={**record.metadata, **value.to_metadata()})


# -- from trials to values --------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A trial: the keys of other tasks' records that it was `shown`, or that were `held` back from it, and what it came
    to, a number between 0 and 1."""

    shown: tuple[str, ...]
    held: tuple[str, ...]
    outcome: float

    def with_overall(self) -> Seen:
        """With a record OVERALL that stands for whichever was shown: its value is what the memory as such is worth."""
        shown, held = ((*keys, OVERALL) if keys else keys for keys in (self.shown, self.held))
        return Seen(shown, held, self.outcome)


def of_group(trials: Sequence[Seen]) -> dict[str, tuple[list[float], list[float]]]:
    """Of each record that a group's trials saw: the outcomes of those it was shown to and of those it was held back
    from, both minus the mean of all that looked it up.

    A group is trials of one task by one policy. A record that all of them saw, or none, says nothing here: without the
    other side there is nothing to compare with. Raises ValueError for an outcome that is not finite.
    """
    sides: dict[str, tuple[list[float], list[float]]] = {}
    for trial in trials:
        if not math.isfinite(trial.outcome):
            raise ValueError(f"an outcome must be a finite number, not {trial.outcome!r}")
        for side, keys in enumerate((trial.shown, trial.held)):
            for key in dict.fromkeys(keys):
                sides.setdefault(key, ([], []))[side].append(trial.outcome)
    compared = {}
    for key, (shown, held) in sides.items():
        if shown and held:
            middle = (sum(shown) / len(shown) + sum(held) / len(held)) / 2
            compared[key] = [one - middle for one in shown], [one - middle for one in held]
    return compared


def discounted(episode: int | None, gamma: float = 0.6) -> float:
    """A trial's outcome from the episode (from 0) that it was won in: gamma per episode that it took more; 0 if never.

    LaMer's discounted return of a trial with a reward of one for success (arXiv 2512.16848, eq. 3, gamma_traj 0.6).
    """
    return 0.0 if episode is None else gamma**episode


# -- the control ------------------------------------------------------------------------------------------------------


def check_share(share: object) -> None:
    """Raises MemoryConfigError for what is no share of trials that can be held back."""
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or not (share == 0 or 1 / MAX_BLOCK <= share <= 1 - 1 / MAX_BLOCK):  # type: ignore[operator]
        raise MemoryConfigError(
            f"memory control must be 0, or a share of trials from 1/{MAX_BLOCK} to {MAX_BLOCK - 1}/{MAX_BLOCK}, such "
            f"as 0.5, not {share!r}"
        )


def held_back(share: float, seed: int, task_id: str, trial: int) -> bool:
    """Whether trial number `trial` (from 0) of a task is shown nothing of other tasks, so that it can be compared with.

    In every block of trials of a task `share` of them are, which ones is drawn from the seed: with 0.5 one of two, with
    0.25 one of four. A share is taken as the nearest fraction with a denominator of at most 16.
    """
    if share <= 0:
        return False
    part = Fraction(share).limit_denominator(MAX_BLOCK)
    block, place = divmod(trial, part.denominator)
    order = list(range(part.denominator))
    Random(_number("control", str(seed), task_id, str(block))).shuffle(order)
    return order.index(place) < part.numerator


# -- choosing ---------------------------------------------------------------------------------------------------------


class Prior(NamedTuple):
    """What is expected of a record's value before it is measured: the mean of those around it, and how far they are
    apart."""

    mean: float = 0.0
    variance: float = SPREAD**2

    def given(self, value: Value) -> tuple[float, float]:
        """Mean and standard deviation of a record's value, with what was measured of it (normal, both)."""
        if not value.known:
            return self.mean, math.sqrt(self.variance)
        weight = self.variance / (self.variance + value.error**2)
        return self.mean + weight * (value.mean - self.mean), math.sqrt(weight) * value.error

    def harms(self, value: Value, confidence: float = CONFIDENCE) -> bool:
        """Whether a record is so many standard deviations below zero, by itself or because those around it are."""
        mean, deviation = self.given(value)
        return mean + confidence * deviation < 0


def prior_of(values: Iterable[Value], overall: Value = UNKNOWN) -> Prior:
    """What records like these are worth: empirical Bayes, the spread by moments (DerSimonian and Laird 1986).

    A store has many records and little evidence of each. Where they are worth the same (or all of them nothing, as on
    tasks that have nothing in common) their evidence counts together, and where they differ each counts for itself.
    `overall` is the value of the whole namespace (OVERALL), around which the mean of these is expected.
    """
    known = [value for value in values if value.known]
    weights = [1 / value.error**2 for value in known]
    total = math.fsum(weights)
    mean = math.fsum(w * value.mean for w, value in zip(weights, known, strict=True)) / total if known else 0.0
    spread = SPREAD**2
    if len(known) >= TELLING:
        excess = math.fsum(w * (value.mean - mean) ** 2 for w, value in zip(weights, known, strict=True))
        scale = total - math.fsum(weight**2 for weight in weights) / total
        spread = max(LEAST_SPREAD**2, (excess - len(known) + 1) / scale if scale > 0 else 0.0)
    around = 1 / (SPREAD**2 + (overall.error**2 if overall.known else 0.0))
    return Prior((total * mean + around * overall.mean) / (total + around), spread + 1 / (total + around))


def ranked(
    found: Sequence[ScoredRecord], select: Select, task_id: str | None = None, overall: Value = UNKNOWN
) -> list[ScoredRecord]:
    """The found records, the one to be shown first in front.

    "value" ranks by the value alone and leaves out what is expected to cost something; "ucb" by ALPHA similarity +
    (1 - ALPHA) (value + EXPLORATION sqrt(ln N / n)), n the record's observations and N those of all that were found
    (both plus one, so that a new record has a bonus and no infinite one), and leaves out what is below zero with
    confidence. One task in twenty is shown what is left out all the same, so that a changed world is noticed. A value
    is what was measured, drawn to the mean of what was found, and that to `overall` (`prior_of`). "similar" leaves all
    as it is. Equal ones stay in their order; a record without a similarity has 0.
    """
    if select == "similar":
        return list(found)
    values = [value_of(entry.record) for entry in found]
    prior = prior_of(values, overall)
    every = 1 + sum(value.n for value in values)

    def score(entry: ScoredRecord, value: Value) -> float:
        mean, _ = prior.given(value)
        if select == "value":
            return mean
        bonus = EXPLORATION * math.sqrt(math.log(every) / (1 + value.n))
        return ALPHA * (entry.score or 0.0) + (1 - ALPHA) * (mean + bonus)

    retried = _number("retry", task_id or "") % 10_000 < RETRY * 10_000
    confidence = 0.0 if select == "value" else CONFIDENCE
    scored = [
        (score(entry, value), entry)
        for entry, value in zip(found, values, strict=True)
        if retried or not prior.harms(value, confidence)
    ]
    scored.sort(key=lambda pair: -pair[0])
    return [entry for _, entry in scored]


def _number(*parts: str) -> int:
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
