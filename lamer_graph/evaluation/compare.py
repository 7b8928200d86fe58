"""Which memory should I use: finished runs of the same tasks, side by side, from their logs alone.

What must stay true: runs are compared only where nothing but the memory differs (another policy, sampling, split or
number of tasks is an error that names it; policies may differ only where each was trained with its run's memory, which
the comparison then says); a difference is paired by task and its uncertainty is over instances; a
trial that an error ended is in no number. Costs are per call and per solved trial, with all that was spent on the
unsolved ones. p-values are those of single comparisons, not corrected for their number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lamer_graph.collection.config import MEMORY_FIELDS, CollectConfig
from lamer_graph.collection.run_memory import copied_of
from lamer_graph.errors import ConfigError
from lamer_graph.evaluation.evaluate import report
from lamer_graph.evaluation.stats import (
    Difference,
    Estimate,
    FirstSuccess,
    Instances,
    Summary,
    first_success,
    paired_test,
    quantile,
    ratio,
    task_success,
)
from lamer_graph.runlog import read_trials, well_formed
from lamer_graph.trial.states import Json


class Configuration(NamedTuple):
    """A memory to be compared: what is remembered, where, and of whom."""

    contents: str
    backend: str
    scope: str
    select: str = "similar"

    @property
    def name(self) -> str:
        """ "none", "reflection/chroma", "reflection/chroma/tasks" or "reflection/chroma/tasks/ucb"."""
        if self.contents == "none":
            return "none"
        parts = [self.contents, self.backend, *(["tasks"] if self.scope == "tasks" else [])]
        return "/".join([*parts, *([] if self.select == "similar" else [self.select])])


def configurations(
    contents: Sequence[str], backends: Sequence[str], scopes: Sequence[str], selects: Sequence[str] = ("similar",)
) -> list[Configuration]:
    """Every combination once, in the order given; "none" has neither backend nor scope and comes once, and only scope
    "tasks" has something to select.

    Raises ConfigError where there is nothing to compare.
    """
    found: dict[str, Configuration] = {}
    for what in contents:
        for backend in backends:
            for scope in scopes:
                place = ("in-context", "trial") if what == "none" else (backend, scope)
                for select in selects if place[1] == "tasks" else ("similar",):
                    made = Configuration(what, *place, select)
                    found.setdefault(made.name, made)
    if len(found) < 2:
        raise ConfigError(
            f"a comparison needs at least two configurations, not only {', '.join(found) or 'none at all'}"
        )
    return list(found.values())


class Latency(NamedTuple):
    """Milliseconds that a memory read took, waits for its turn included: median and 95th percentile of `reads`."""

    p50: float
    p95: float
    reads: int


@dataclass(frozen=True)
class Row:
    """What one configuration came to. Token counts are None where the policy gave no tokens, costs per solved trial
    where none was solved, and the latency where nothing was read."""

    name: str
    config: CollectConfig
    copied: int
    """Records of another store that the memory was filled with."""
    sampling: Json
    summary: Summary
    solved: int
    prompt_tokens: Estimate | None
    latency_ms: Latency | None
    tokens_per_solved: Estimate | None
    seconds_per_solved: Estimate | None
    differences: list[Difference] | None
    """pass@1..N minus the reference's; None for the reference itself."""

    def to_json(self) -> Json:
        def plain(value: Any) -> Any:
            return None if value is None else value._asdict()

        return {
            "name": self.name,
            "config": self.config.model_dump(mode="json"),
            "copied": self.copied,
            **self.summary.to_json(),
            "solved": self.solved,
            "prompt_tokens": plain(self.prompt_tokens),
            "latency_ms": plain(self.latency_ms),
            "tokens_per_solved": plain(self.tokens_per_solved),
            "seconds_per_solved": plain(self.seconds_per_solved),
            "differences": None if self.differences is None else [plain(one) for one in self.differences],
        }


@dataclass(frozen=True)
class Comparison:
    """The rows in the order given; `reference` is the name of the one that the others are compared with."""

    reference: str
    rows: list[Row]
    trained: bool = False
    """Whether every configuration plays with a policy of its own, which was trained with its memory."""

    @property
    def episodes(self) -> int:
        return len(self.rows[0].summary.pass_at)

    @property
    def config(self) -> CollectConfig:
        """The first row's: but for `MEMORY_FIELDS`, and the policy where they are `trained`, everyone's."""
        return self.rows[0].config

    @property
    def sampling(self) -> Json:
        """Everyone's, with None for what did not reach the model in any run (see `Evaluation`)."""
        unknown = {name: None for row in self.rows for name, value in row.sampling.items() if value is None}
        return {**self.rows[0].sampling, **unknown}

    def to_json(self) -> Json:
        config = self.config
        return {
            "reference": self.reference,
            "env": config.env,
            "split": config.split,
            "policy": None if self.trained else config.policy,
            "trained": self.trained,
            "sampling": self.sampling,
            "rows": [row.to_json() for row in self.rows],
        }


def check_reference(names: Sequence[str], reference: str | None) -> str:
    """The name of the reference: the first if none is given. Raises ConfigError for one that is not there."""
    if reference is None:
        return names[0]
    if reference not in names:
        raise ConfigError(f"the reference '{reference}' is not among the configurations: {', '.join(names)}")
    return reference


def compare(runs: Mapping[str, Path], reference: str | None = None, *, trained: bool = False) -> Comparison:
    """The comparison of the runs in these folders, by name; the first is the reference if none is named.

    `trained` says that each run's policy was trained with the run's own memory, from the same start and in the same
    way: only then may the policies differ.

    Raises ConfigError where they differ in more than memory or share no task, RunLogError for an unreadable run or one
    without a finished trial.
    """
    reference = check_reference(list(runs), reference)
    read = {name: _read(name, folder) for name, folder in runs.items()}
    base = read[reference]
    for other in read.values():
        _check_same(base.config, other.config, f"{reference} and {other.name}", {"policy"} if trained else set())
    return Comparison(reference, [_row(one, None if one is base else base) for one in read.values()], trained)


@dataclass
class _Read:
    """What is kept of a run: sums per task, never its texts and tokens."""

    name: str
    config: CollectConfig
    copied: int
    sampling: Json
    summary: Summary
    instances: Instances
    firsts: list[FirstSuccess] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    prompt_tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    solved: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    reads: list[float] = field(default_factory=list)


def _read(name: str, folder: Path) -> _Read:
    evaluation = report(folder)
    copied = copied_of(folder)
    run = _Read(name, evaluation.config, copied, evaluation.sampling, evaluation.summary, evaluation.instances)
    with well_formed(folder):
        for trial in read_trials(folder):
            if trial["error"] is None and trial.get("branch") is None:
                _add(run, trial)
    return run


def _add(run: _Read, trial: Json) -> None:
    task = trial["task"]["id"]
    run.firsts.append(first_success(trial))
    run.solved[task] += trial["success"]
    run.seconds[task] += trial["timings"]["seconds"]
    made = [turn["call"] for episode in trial["episodes"] for turn in episode["turns"]]
    made += [reflection["call"] for reflection in trial["reflections"]]
    for call in made:
        if call is not None and call["prompt_token_ids"]:
            run.calls[task] += 1
            run.prompt_tokens[task] += len(call["prompt_token_ids"])
            run.tokens[task] += len(call["prompt_token_ids"]) + len(call["token_ids"])
    # Before the first episode of a trial there is nothing of its own to be read, so nothing is asked.
    first = 0 if run.config.scope == "tasks" else 1
    if run.config.contents != "none":
        seconds = (read.get("seconds") for read in trial["memory_reads"] if read["episode"] >= first)
        run.reads += [1000 * value for value in seconds if value is not None]


def _check_same(ours: CollectConfig, theirs: CollectConfig, whose: str, but: Set[str]) -> None:
    mine, other = ours.model_dump(mode="json"), theirs.model_dump(mode="json")
    for key in sorted(mine.keys() | other.keys()):
        if key not in MEMORY_FIELDS | but and mine.get(key) != other.get(key):
            raise ConfigError(
                f"{whose} differ in more than memory: {key} is {mine.get(key)!r} in one and {other.get(key)!r} in the "
                "other; play both alike"
            )


def _row(run: _Read, base: _Read | None) -> Row:
    reads = sorted(run.reads)
    counted = bool(run.tokens)
    solved = sum(run.solved.values())

    def costs(above: Mapping[str, float], below: Mapping[str, float]) -> Estimate:
        # Every task that has a finished trial is in `solved`.
        return ratio(((task, above[task], below[task]) for task in run.solved), run.instances)

    differences = None
    if base is not None:
        differences = [
            paired_test(task_success(run.firsts, k), task_success(base.firsts, k), run.instances)
            for k in range(1, len(run.summary.pass_at) + 1)
        ]
    return Row(
        name=run.name,
        config=run.config,
        copied=run.copied,
        sampling=run.sampling,
        summary=run.summary,
        solved=solved,
        prompt_tokens=costs(run.prompt_tokens, run.calls) if counted else None,
        latency_ms=Latency(quantile(reads, 0.5), quantile(reads, 0.95), len(reads)) if reads else None,
        tokens_per_solved=costs(run.tokens, run.solved) if counted and solved else None,
        seconds_per_solved=costs(run.seconds, run.solved) if solved else None,
        differences=differences,
    )
