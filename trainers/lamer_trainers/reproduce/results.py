"""What came of the jobs: a reading's outcomes by task, a training's costs by update, pooled over seeds.

What must stay true: a number depends on the logs alone; what is kept of a reading (`reading.json`) is written whole
once the reading is, so that it also says that it is done. Seeds are pooled by task: its value is the mean over the
seeds, and the interval is over the instances behind the tasks. So it says how sure the tasks make of these policies'
mean; how much seeds differ is shown beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from lamer_graph.errors import RunLogError
from lamer_graph.evaluation.evaluate import report
from lamer_graph.evaluation.stats import (
    Difference,
    Estimate,
    FirstSuccess,
    bootstrap,
    first_success,
    paired_test,
    pass_at_k,
    ratio,
    task_entropy,
    task_success,
)
from lamer_graph.runlog import read_trials, write_atomic
from lamer_trainers.loop.curves import read_metrics
from lamer_trainers.loop.run_folder import METRICS
from lamer_trainers.reproduce.grid import Measure
from lamer_trainers.reproduce.jobs import Cell, Job

Json = dict[str, Any]


class Reading(NamedTuple):
    """What one reading came to. `firsts`: for each task, of each trial the episode that succeeded; `entropies` of first
    episodes, in nats, by task."""

    episodes: int
    instances: dict[str, str]
    firsts: dict[str, list[int | None]]
    entropies: dict[str, float]
    invalid: float
    turns: float


def keep_reading(job: Job) -> None:
    """Write what a finished reading came to. Raises RunLogError where trials are missing."""
    said = report(job.folder)
    finished = [trial for trial in read_trials(job.folder) if trial["error"] is None]
    wanted = said.config.tasks * said.config.trials
    if said.summary.trials != wanted:
        raise RunLogError(f"{job.folder} holds {said.summary.trials} finished trials of {wanted}")
    firsts: dict[str, list[int | None]] = defaultdict(list)
    for trial in finished:
        task, first = first_success(trial)
        firsts[task].append(first)
    made = Reading(
        said.config.max_episodes,
        dict(said.instances),
        dict(firsts),
        task_entropy(finished),
        said.summary.invalid_rate.value,
        said.summary.turns_per_episode.value,
    )
    write_atomic(job.made, orjson.dumps(made._asdict()))


def read_reading(job: Job) -> Reading | None:
    """What `keep_reading` wrote; None where it has not yet."""
    return Reading(**orjson.loads(job.made.read_bytes())) if job.done else None


class Number(NamedTuple):
    """A pooled value with its interval, and the value of each seed."""

    value: float
    low: float
    high: float
    seeds: list[float]


@dataclass(frozen=True)
class Cellful:
    """All seeds' readings of one cell of a table, those that are done."""

    readings: dict[int, Reading]
    missing: list[int]
    """Seeds that are not read yet."""
    trained: bool = True
    """Whether its seeds are trainings, and not one policy that all share."""

    @property
    def episodes(self) -> int:
        return max((reading.episodes for reading in self.readings.values()), default=0)

    @property
    def instances(self) -> dict[str, str]:
        return {task: of for reading in self.readings.values() for task, of in reading.instances.items()}

    def per_task(self, measure: Measure, k: int) -> dict[str, float]:
        """The measure's value of each task, the mean over seeds: success within k attempts, what the later of them
        gain over the first (`gain`), or the entropy of first episodes."""
        if measure == "diversity":
            values: dict[str, list[float]] = defaultdict(list)
            for reading in self.readings.values():
                for task, entropy in reading.entropies.items():
                    values[task].append(entropy)
            return {task: sum(found) / len(found) for task, found in values.items()}
        within = task_success(self._firsts(), k)
        if measure == "pass":
            return within
        first = task_success(self._firsts(), 1)
        return {task: value - first[task] for task, value in within.items()}

    def number(self, measure: Measure, k: int) -> Number:
        """Pooled over the seeds that are read."""
        if measure == "pass":
            pooled = pass_at_k(self._firsts(), max(k, self.episodes), self.instances)[k - 1]
        else:
            pooled = _mean(self.per_task(measure, k), self.instances)
        alone = [Cellful({seed: one}, []).per_task(measure, k) for seed, one in sorted(self.readings.items())]
        return Number(*pooled[:3], seeds=[sum(values.values()) / len(values) for values in alone])

    def _firsts(self) -> Iterator[FirstSuccess]:
        for reading in self.readings.values():
            for task, firsts in reading.firsts.items():
                yield from ((task, first) for first in firsts)


def above(ours: Cellful, theirs: Cellful, measure: Measure, k: int) -> Difference:
    """The paired difference of two cells, over the instances of the tasks that both have."""
    instances = {**theirs.instances, **ours.instances}
    return paired_test(ours.per_task(measure, k), theirs.per_task(measure, k), instances)


def cellful(cells: Sequence[Cell]) -> Cellful:
    """The readings of these cells, which differ in their seeds alone. What no seed changes is counted once."""
    readings, missing, seen = {}, [], set()
    for cell in cells:
        if cell.job.name in seen:
            continue
        seen.add(cell.job.name)
        reading = read_reading(cell.job)
        if reading is None:
            missing.append(cell.seed)
        else:
            readings[cell.seed] = reading
    return Cellful(readings, missing, any(cell.job.after is not None for cell in cells))


# -- costs of trainings -----------------------------------------------------------------------------------------------

COSTS: Mapping[str, Sequence[str]] = {
    "seconds": ("time/update",),
    "tokens": ("batch/prompt_tokens", "batch/tokens"),
    "episodes": ("batch/episodes",),
}
"""Which metrics of an update add up to a cost. A training's last line counts its validation as well and is no update's
cost alone, so times leave out updates that validated."""


def costs(job: Job, measure: Measure) -> list[float]:
    """What each update of a training took; empty where it has made none that says so."""
    if not (job.folder / METRICS).exists():
        return []
    lines = read_metrics(job.folder / METRICS)
    if measure == "seconds":
        lines = [line for line in lines if "validation/pass@k" not in line]
    keys = COSTS[measure]
    return [sum(line[key] for key in keys) for line in lines if all(key in line for key in keys)]


def mean_cost(values: Sequence[float]) -> Estimate:
    """The mean over updates, bootstrapped over them."""
    clusters = [(value, 1.0) for value in values]
    return Estimate(sum(values) / len(values), *bootstrap(clusters), len(values))


def cost_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """The ratio of two mean costs; the interval draws updates of both, by their number in the run."""
    both = list(zip(ours, theirs, strict=False))
    return Estimate(sum(mine for mine, _ in both) / sum(other for _, other in both), *bootstrap(both), tasks=len(both))


def _mean(values: Mapping[str, float], instances: Mapping[str, str]) -> Estimate:
    return ratio(((task, value, 1.0) for task, value in values.items()), instances)
