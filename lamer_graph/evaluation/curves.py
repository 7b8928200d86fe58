"""How much another attempt is worth: pass@k over k of finished runs, side by side, from their logs alone.

What must stay true: runs stand beside each other only where they played the same game with the same sampling
(`SAME`); who played, with which memory and strategy and for how many attempts may differ, and is said. A difference is
paired by the tasks that both have played, at every k that both have reached. Attempts beyond those of the training are
no different to the graph: they ask whether what was learnt goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import ConfigError
from lamer_graph.evaluation.compare import check_reference
from lamer_graph.evaluation.evaluate import Evaluation, report
from lamer_graph.evaluation.stats import Difference, FirstSuccess, first_success, paired_test, task_success
from lamer_graph.runlog import read_trials, well_formed
from lamer_graph.trial.states import Json

SAME = ("env", "split", "max_turns", "temperature", "top_p", "top_k")
"""Fields of a run's configuration that curves share."""
TOLD = {
    "max_episodes": "attempts",
    "trials": "trials a task",
    "policy": "policy",
    "contents": "memory",
    "scope": "scope",
    "strategy": "strategy",
    "thoughts": "thoughts",
    "prompt_style": "prompt style",
    "shuffle_reflections": "shuffled reflections",
    "seed": "seed",
}
"""Fields that may differ, and what they are called where they do."""


@dataclass(frozen=True)
class Curve:
    """One run. `differences[k - 1]` is pass@k minus the reference's; None for the reference itself."""

    name: str
    evaluation: Evaluation
    differences: list[Difference] | None

    @property
    def config(self) -> CollectConfig:
        return self.evaluation.config

    def to_json(self) -> Json:
        differences = None if self.differences is None else [one._asdict() for one in self.differences]
        return {"name": self.name, **self.evaluation.to_json(), "differences": differences}


@dataclass(frozen=True)
class Curves:
    """The runs in the order given; `reference` is the name of the one that the others are compared with, `trained` how
    many attempts the policies were trained with, where that was said."""

    reference: str
    curves: list[Curve]
    trained: int | None = None

    @property
    def attempts(self) -> int:
        """The most attempts of any run."""
        return max(len(curve.evaluation.summary.pass_at) for curve in self.curves)

    def told(self) -> list[str]:
        """In what the runs differ, a phrase each."""
        said = []
        for key, called in TOLD.items():
            values = {curve.name: getattr(curve.config, key) for curve in self.curves}
            if len(set(values.values())) > 1:
                said.append(f"{called}: " + "; ".join(f"{name} {value}" for name, value in values.items()))
        return said

    def shared(self) -> dict[str, int]:
        """On how many tasks a run is compared with the reference, where that is not all that either has played."""
        (base,) = (curve.evaluation.summary.tasks for curve in self.curves if curve.name == self.reference)
        counted = {
            one.name: (one.differences[0].tasks, one.evaluation.summary.tasks) for one in self.curves if one.differences
        }
        return {name: both for name, (both, own) in counted.items() if {both} != {own, base}}

    def to_json(self) -> Json:
        first = self.curves[0].config
        return {
            "reference": self.reference,
            "env": first.env,
            "split": first.split,
            "trained": self.trained,
            "curves": [curve.to_json() for curve in self.curves],
        }


def curves(runs: Mapping[str, Path], reference: str | None = None, trained: int | None = None) -> Curves:
    """The curves of the runs in these folders, by name; the first is the reference if none is named.

    Raises ConfigError where they differ in what curves share, a run has no task in common with the reference, or none
    has as many attempts as were `trained`; RunLogError for an unreadable run or one without a finished trial.
    """
    reference = check_reference(list(runs), reference)
    read = {name: (report(folder), _firsts(folder)) for name, folder in runs.items()}
    base, base_firsts = read[reference]
    for name, (evaluation, _) in read.items():
        _check_same(base.config, evaluation.config, f"{reference} and {name}")
    most = max(found.config.max_episodes for found, _ in read.values())
    if trained is not None and trained > most:
        raise ConfigError(f"--trained {trained} is beyond these runs, which have at most {most} attempts")
    return Curves(
        reference,
        [
            Curve(name, found, None if name == reference else _differences(found, firsts, base, base_firsts))
            for name, (found, firsts) in read.items()
        ],
        trained,
    )


def _firsts(folder: Path) -> list[FirstSuccess]:
    with well_formed(folder):
        trials = (trial for trial in read_trials(folder) if trial["error"] is None)
        return [first_success(trial) for trial in trials if trial.get("branch") is None]


def _check_same(ours: CollectConfig, theirs: CollectConfig, whose: str) -> None:
    for key in SAME:
        mine, other = getattr(ours, key), getattr(theirs, key)
        if mine != other:
            raise ConfigError(
                f"{whose} do not stand on one curve: {key} is {mine!r} in one and {other!r} in the other; play both "
                "alike"
            )


def _differences(
    found: Evaluation, firsts: list[FirstSuccess], base: Evaluation, base_firsts: list[FirstSuccess]
) -> list[Difference]:
    reached = min(len(found.summary.pass_at), len(base.summary.pass_at))
    instances = {**base.instances, **found.instances}
    return [
        paired_test(task_success(firsts, k), task_success(base_firsts, k), instances) for k in range(1, reached + 1)
    ]
