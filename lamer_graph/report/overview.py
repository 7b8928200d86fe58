"""What a page says of whole runs: success with intervals, curves of a training, memories compared.

What must stay true: the numbers are those of `lamer_graph.evaluation` and of the training's own metrics; what cannot
be said of a run (it has no finished trial yet, it differs in more than memory) is said in words instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lamer_graph.collection.config import MEMORY_FIELDS, CollectConfig
from lamer_graph.errors import LamerError
from lamer_graph.evaluation.compare import compare
from lamer_graph.evaluation.evaluate import report
from lamer_graph.evaluation.stats import summarise
from lamer_graph.report.runs import Run
from lamer_graph.runlog import config_hash, read_trials, well_formed
from lamer_graph.trial.states import Json

CURVES: dict[str, str] = {
    "batch/reward": "reward of a trial",
    "batch/invalid": "invalid actions",
    "entropy": "entropy, nats",
    "policy/kl": "KL to the sampler",
    "loss": "loss",
    "grad_norm": "gradient norm",
    "advantage/zero": "calls without advantage",
    "time/update": "seconds per update",
}
"""What else is drawn of a training, where its metrics have it, and how it is called."""
COMPARED = ("name", "pass_at", "differences", "prompt_tokens", "tokens_per_solved", "seconds_per_solved")
PARTS_OF_TRAININGS = ("best", "policy", "adapter")
SHOWN = frozenset(
    ("env", "policy", "split", "tasks", "trials", "skip", "contents", "backend", "scope", "shuffle_reflections")
) | {"max_episodes", "strategy", "thoughts", "prompt_style", "temperature", "top_p", "top_k", "seed"}
"""Fields of a configuration that `described` has under names of its own."""
MOST_OTHERS = 100
SETTINGS = ("algorithm", "learning_rate", "gamma_step", "gamma_traj", "normalise", "mini_batches", "entropy", "kl")


def described(run: Run) -> Json:
    """A run's name and configuration, without any of its numbers: "facts" are what most differ in, "more" all else that
    run.json says."""
    config, settings = run.config, run.settings
    facts = {
        "environment": config.get("env"),
        "policy": _policy(run),
        "split": config.get("split"),
        "tasks": _tasks(config),
        "memory": memory_name(config),
        "episodes": config.get("max_episodes"),
        "strategy": config.get("strategy"),
        "thoughts": _thoughts(config),
        "prompt": config.get("prompt_style"),
        "sampling": _sampling(config),
        **{name.replace("_", " "): settings.get(name) for name in SETTINGS},
    }
    others = [(name, value) for name, value in config.items() if name not in SHOWN]
    others += [(name, value) for name, value in settings.items() if name not in SETTINGS]
    return {
        "name": run.name,
        "training": run.training,
        "env": str(config.get("env", "")),
        "memory": facts["memory"],
        "episodes": _whole(config.get("max_episodes")),
        "facts": _told(facts.items()),
        "more": _told((name[:40].replace("_", " "), value) for name, value in others[:MOST_OTHERS]),
    }


def _told(facts: Iterable[tuple[str, Any]]) -> list[list[str]]:
    return [[name, _brief(value)[:200]] for name, value in facts if value not in (None, "", [], {})]


def _tasks(config: Json) -> str:
    """How many tasks, and how often each: "40", "40 x 4 trials, after the first 800"."""
    if not isinstance(tasks := config.get("tasks"), int):
        return ""
    trials, skip = _whole(config.get("trials")) or 1, config.get("skip")
    return f"{tasks:,}" + (f" x {trials} trials" if trials > 1 else "") + (f", after the first {skip}" if skip else "")


def _thoughts(config: Json) -> Any:
    """Left out of run.json where nothing was said of them."""
    return config.get("thoughts", CollectConfig.model_fields["thoughts"].default) if "strategy" in config else None


def _policy(run: Run) -> str | None:
    """A policy's folder; of one whose name many have, with the folder of its training."""
    folders = (one.get("folder") for one in run.sampled_by)
    folder = next((one.rstrip("/") for one in folders if isinstance(one, str) and one), "")
    name = run.config.get("policy") or folder
    last = name.rstrip("/").rpartition("/")[2] if isinstance(name, str) else ""
    above = folder.rpartition("/")[0].rpartition("/")[2]
    return f"{above}/{last}" if last in PARTS_OF_TRAININGS and above and folder.endswith(last) else last or None


def memory_name(config: Json) -> str:
    """As `compare` names configurations: "none", "reflection", "both/chroma/tasks"; "shuffled" for the ablation."""
    contents = str(config.get("contents", ""))[:40]
    if contents in ("", "none"):
        return contents
    parts = [contents]
    parts += [str(config.get("backend", ""))[:40]] if config.get("backend") not in (None, "in-context") else []
    parts += ["tasks"] if config.get("scope") == "tasks" else []
    return "/".join(parts) + (", shuffled" if config.get("shuffle_reflections") else "")


def summary_of(run: Run) -> Json:
    """A finished or growing run's numbers with their intervals, or {"note": why there are none}."""
    try:
        try:
            return _measured(report(run.folder).to_json())
        except (LamerError, KeyError):  # of an application or an environment that is not here: every task an instance
            episodes = _whole(run.config.get("max_episodes")) or 1
            with well_formed(run.folder):
                return _measured(summarise(read_trials(run.folder), episodes).to_json())
    except (LamerError, KeyError, ValueError) as error:
        return {"note": str(error).removeprefix(f"{run.folder}: ")[:300]}


def _measured(told: Json) -> Json:
    names = ("trials", "tasks", "instances", "failed_trials", "pass_at", "turns_per_episode", "invalid_rate")
    return {**{name: told[name] for name in names}, "diversity": told["diversity"]}


def curves_of(run: Run) -> Json | None:
    """A training's updates and what was measured at each: {"updates": [..], "pass_at": [[..] by k], "validation": ..,
    "more": [{"name", "values"}]}; None of a run that trains nothing."""
    if not run.training:
        return None
    lines = run.metrics()
    most = max((k for line in lines for k in range(1, 10) if f"batch/pass@{k}" in line), default=0)
    validation = [
        [line["update"], [_number(value) for value in line["validation/pass@k"]]]
        for line in lines
        if isinstance(line.get("validation/pass@k"), list) and line["validation/pass@k"]
    ]
    more = [
        {"name": name, "values": [_number(line.get(key)) for line in lines]}
        for key, name in CURVES.items()
        if any(_number(line.get(key)) is not None for line in lines)
    ]
    return {
        "updates": [line["update"] for line in lines],
        "planned": _whole(run.settings.get("updates")),
        "pass_at": [[_number(line.get(f"batch/pass@{k}")) for line in lines] for k in range(1, most + 1)],
        "validation": validation,
        "more": more,
    }


def alike(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that differ in nothing but memory, two or more together. Policies are told apart by their weights where
    these are known: trainings leave many of one name."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if not run.training and run.config:
            rest = {name: value for name, value in run.config.items() if name not in MEMORY_FIELDS}
            weights = [one.get("weights") for one in run.sampled_by]
            groups.setdefault(config_hash({**rest, "weights": weights}), []).append(run)
    return [group for group in groups.values() if len(group) > 1]


def comparison_of(runs: Sequence[Run]) -> Json:
    """Runs that are `alike`, beside each other; {"note": ..} says why they cannot be compared after all."""
    named = {run.name: run.folder for run in runs}
    reference = next((run.name for run in runs if run.config.get("contents") == "none"), runs[0].name)
    try:
        told = compare(named, reference).to_json()
    except (LamerError, KeyError) as error:
        return {"note": str(error)[:300]}
    return {"reference": reference, "rows": [{name: row[name] for name in COMPARED} for row in told["rows"]]}


def whole_overview(runs: Sequence[Run], alive: Callable[[], bool] = lambda: True) -> Json:
    """All of it, in seconds for thousands of tasks (intervals are drawn 2,000 times); stops where not `alive`."""
    summaries = [None if run.training or not alive() else summary_of(run) for run in runs]
    return {"summaries": summaries, "comparisons": [comparison_of(group) for group in alike(runs) if alive()]}


def _sampling(config: Json) -> str:
    names = [name for name in ("temperature", "top_p", "top_k", "seed") if name in config]
    return ", ".join(f"{name.replace('_', '-')} {_brief(config[name])}" for name in names)


def _brief(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10_000 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
