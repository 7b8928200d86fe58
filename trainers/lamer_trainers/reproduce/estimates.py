"""How long jobs will take, from the plan of their run files (`loop.plan`).

What must stay true: the low end is what policies that answer shortly take, the high end uses every turn and token; jobs
that differ in what no time depends on (seed, credit) have the same estimate; what cannot be known is None.
"""

from __future__ import annotations

import json
from typing import Any

from lamer_graph.errors import LamerError
from lamer_trainers.loop.devices import DeviceName
from lamer_trainers.loop.plan import Plan, plan
from lamer_trainers.reproduce.jobs import Job
from lamer_trainers.runfile import RunFile

START_S = 10.0
"""Until a process has imported what it needs and loaded its policy."""
_IDLE = (
    "gamma_step",
    "gamma_traj",
    "seed",
    "algorithm",
    "normalise",
    "learning_rate",
    "schedule",
    "updates",
    "entropy",
)
Span = tuple[float, float]


class Estimates:
    """Seconds of jobs on `device` (None: this one)."""

    def __init__(self, device: DeviceName | None) -> None:
        self._device = device
        self._plans: dict[str, Plan | None] = {}

    def of(self, job: Job) -> Span | None:
        """Low and high end; None for a policy that is not here and whose size nobody knows."""
        made = self._plan(job.run)
        if made is None:
            return None
        collecting = made.collect_seconds
        if job.kind == "eval":
            return START_S + collecting[0], START_S + collecting[1]
        run, due = job.run, job.run.validation
        updates = run.optimise.updates
        # A validation collects as an update does, so many more or fewer trials.
        share = 0.0 if due is None else due.tasks / due.every / (run.collect.tasks * run.collect.trials)
        pairs = zip(collecting, made.train_seconds, strict=True)
        low, high = ((max(c, t) if run.pipeline else c + t) + c * share for c, t in pairs)
        return START_S + updates * low, START_S + updates * high

    def _plan(self, run: RunFile) -> Plan | None:
        told: dict[str, Any] = run.model_dump(mode="json")
        told["optimise"] = {key: value for key, value in told["optimise"].items() if key not in _IDLE}
        told["collect"] = {key: value for key, value in told["collect"].items() if key not in ("seed", "skip", "split")}
        key = json.dumps(told, sort_keys=True)
        if key not in self._plans:
            try:
                self._plans[key] = plan(run, self._device)
            except LamerError:
                self._plans[key] = None
        return self._plans[key]


def total(spans: list[Span | None], workers: int) -> Span:
    """All of them, so many at a time; what is unknown is left out."""
    known = [span for span in spans if span is not None]
    return sum(low for low, _ in known) / workers, sum(high for _, high in known) / workers
