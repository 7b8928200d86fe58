"""Evaluation: a collection on held-out tasks, and what its log says, with intervals over instances.

What must stay true: the numbers are read from the run's log alone, so `report` of a finished run gives them again; the
sampling that produced them is part of the report, because a success rate without its sampling says little.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lamer_envs import make
from lamer_graph.collection.collect import CollectSummary, collect
from lamer_graph.collection.config import SAMPLING_FIELDS, CollectConfig
from lamer_graph.collection.run_memory import Heritage
from lamer_graph.errors import ConfigError, RunLogError
from lamer_graph.evaluation.stats import Instances, Summary, summarise
from lamer_graph.policies.base import Policy
from lamer_graph.runlog import read_config, read_trials
from lamer_graph.trial.states import Json
from lamer_graph.trial.tasks import start_of


class Evaluation(NamedTuple):
    """What a run's trials came to, and the configuration and sampling that produced them."""

    config: CollectConfig
    summary: Summary
    instances: Instances
    sampling: Json
    """What reached the model: None for a number that did not, so that the model's own, unknown here, was used."""

    def to_json(self) -> Json:
        return {
            "config": self.config.model_dump(mode="json"),
            "sampling": self.sampling,
            **self.summary.to_json(),
        }


async def evaluate(
    config: CollectConfig,
    policy: Policy,
    folder: str | Path,
    *,
    concurrency: int = 64,
    resume: bool = False,
    heritage: Heritage | None = None,
    on_trial: Callable[[Json], None] | None = None,
) -> tuple[Evaluation, CollectSummary]:
    """Collect the run (see `collect`) and read its log. Raises what `collect` and `report` raise."""
    done = await collect(
        config, policy, folder, concurrency=concurrency, resume=resume, heritage=heritage, on_trial=on_trial
    )
    return report(folder), done


def report(folder: str | Path) -> Evaluation:
    """The evaluation of a run that is on disk. Raises RunLogError for an unreadable one or one without a trial."""
    config = CollectConfig.model_validate(read_config(folder))
    instances = instances_of(config, folder)
    try:
        summary = summarise(read_trials(folder), config.max_episodes, instances)
    except ConfigError as error:
        raise RunLogError(f"{folder}: {error}") from None
    return Evaluation(config, summary, instances, sampling_of(config, folder))


def sampling_of(config: CollectConfig, folder: str | Path) -> Json:
    """How a run's trials were sampled: as configured, with None for what did not reach the model in any of them."""
    unknown = {
        name: None for trial in read_trials(folder) for name, value in trial["sampling"].items() if value is None
    }
    return {**{name: getattr(config, name) for name in SAMPLING_FIELDS}, **unknown}


def instances_of(config: CollectConfig, folder: str | Path) -> Instances:
    """The instance behind each task of a run: boards that differ only in where they were opened are one, for example.

    Raises EnvError if the environment is not installed here.
    """
    env = make(config.env)
    found: dict[str, str] = {}
    for trial in read_trials(folder):
        task = trial["task"]
        # A path, in old logs: text opens no file, so the task stands for itself.
        if task["id"] not in found and not isinstance(task.get("instance"), str):
            found[task["id"]] = env.instance(start_of(env, task))
    return found
