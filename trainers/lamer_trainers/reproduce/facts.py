"""What a finished training tells of itself: time, episodes an update, the update that was kept, true reflections.

What must stay true: read from the training's own folder, once; it is kept beside it (`facts.json`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from lamer_envs import make
from lamer_graph.errors import ConfigError
from lamer_graph.runlog import read_trials, write_atomic
from lamer_trainers.loop.best import BEST, READING
from lamer_trainers.loop.curves import read_metrics
from lamer_trainers.loop.run_folder import COLLECTED, METRICS
from lamer_trainers.reproduce.jobs import Job
from lamer_trainers.warmstart.gates import judged_remarks
from lamer_trainers.warmstart.warmup import teacher_of

Json = dict[str, Any]
FACTS = "facts.json"
ENDS = 10
"""Updates at the beginning and at the end that reflections are compared of."""


def facts_of(job: Job) -> Json | None:
    """`updates`, `seconds` of all, mean `episodes` of one, `best_update`, and the share of `true_reflections` in the
    first and the last updates (None: there are none, or nobody here can judge them). None for one that is not done."""
    if not job.done:
        return None
    place = job.folder / FACTS
    if place.exists():
        found: Json = orjson.loads(place.read_bytes())
        return found
    metrics = read_metrics(job.folder / METRICS)
    episodes = [line["batch/episodes"] for line in metrics if "batch/episodes" in line]
    updates = sorted((job.folder / COLLECTED).glob("update-*"))
    made = {
        "updates": len(metrics),
        "seconds": round(sum(line["time/update"] for line in metrics), 1),
        "episodes": round(sum(episodes) / len(episodes), 1) if episodes else None,
        "best_update": _best_update(job.folder),
        "true_reflections": [true_reflections(part) for part in (updates[:ENDS], updates[-ENDS:])],
    }
    write_atomic(place, orjson.dumps(made))
    return made


def true_reflections(runs: Sequence[Path]) -> float | None:
    """The share of these logs' reflections that are true, of those that could be, as the environment's teacher says."""
    judged: list[bool] = []
    for run in runs:
        for trial in read_trials(run):
            if not trial["reflections"] or trial["error"] is not None:
                continue
            env = make(trial["task"]["env"])
            try:
                teacher = teacher_of(env)[0]
            except ConfigError:
                return None
            state = {
                "start": env.reset(trial["task"]["seed"]),
                "episodes": trial["episodes"],
                "reflections": [reflection["text"] for reflection in trial["reflections"]],
            }
            judged += judged_remarks(teacher, state)  # type: ignore[arg-type]
    return round(sum(judged) / len(judged), 4) if judged else None


def _best_update(folder: Path) -> int | None:
    try:
        return int(orjson.loads((folder / BEST / READING).read_bytes())["update"])
    except FileNotFoundError:
        return None
