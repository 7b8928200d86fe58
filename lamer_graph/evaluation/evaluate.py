"""Evaluation: a collection on held-out tasks, and what its log says, with intervals over instances.

What must stay true: the numbers are read from the run's log alone, so `report` of a finished run gives them again; the
sampling that produced them is part of the report, because a success rate without its sampling says little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from lamer_envs import Env, make
from lamer_graph.collection.collect import CollectSummary, collect
from lamer_graph.collection.config import SAMPLING_FIELDS, CollectConfig
from lamer_graph.collection.run_memory import Heritage
from lamer_graph.collection.sampled_by import rendered
from lamer_graph.errors import ConfigError, RunLogError
from lamer_graph.evaluation.reflections import Judge, Truth
from lamer_graph.evaluation.stats import Instances, Summary, summarise
from lamer_graph.policies.base import Policy
from lamer_graph.runlog import read_config, read_trials, well_formed
from lamer_graph.trial.states import Json
from lamer_graph.trial.tasks import start_of


class Evaluation(NamedTuple):
    """What a run's trials came to, and the configuration and sampling that produced them."""

    config: CollectConfig
    summary: Summary
    instances: Instances
    sampling: Json
    """What reached the model: None for a number that did not, so that the model's own, unknown here, was used."""
    truth: Truth | None = None
    """How many reflections were true; None where the environment judges none, or there was none to be judged."""
    template: Json | None = None
    """Arguments of the chat template that prompts were rendered with; None where that is not known."""

    def to_json(self) -> Json:
        return {
            "config": self.config.model_dump(mode="json"),
            "sampling": self.sampling,
            "template": self.template,
            **self.summary.to_json(),
            "reflections_true": None if self.truth is None else self.truth._asdict(),
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
    """Collect the run (see `collect`) and read its log. Raises what `collect` and `report` raise, and ConfigError for
    one with re-rolls, which begin where a trial has failed already."""
    if config.rerolls:
        raise ConfigError("re-rolls are for training, an evaluation plays trials from their start: leave rerolls out")
    done = await collect(
        config, policy, folder, concurrency=concurrency, resume=resume, heritage=heritage, on_trial=on_trial
    )
    return report(folder), done


def report(folder: str | Path) -> Evaluation:
    """The evaluation of a run that is on disk, which is read once; re-rolls are no trials of it.

    Raises RunLogError for one that `collect` did not make, a malformed one and one without a finished trial, EnvError
    if the environment is not installed here.
    """
    try:
        config = CollectConfig.model_validate(read_config(folder))
    except ValidationError as error:
        raise RunLogError(f"{folder} is no run of `collect` or `eval`: {error.errors()[0]['msg']}") from None
    env = make(config.env)
    instances: dict[str, str] = {}
    judge, drawn = Judge(env), rendered(folder)
    sampling: Json = {name: getattr(config, name) for name in SAMPLING_FIELDS}

    def noted() -> Iterator[Json]:
        for trial in (one for one in read_trials(folder) if one.get("branch") is None):
            note_instance(env, trial["task"], instances)
            sampling.update({name: None for name, value in trial["sampling"].items() if value is None})
            if not config.shuffle_reflections:
                judge.add(trial)
            yield trial

    try:
        with well_formed(folder):
            summary = summarise(noted(), config.max_episodes, instances)
    except ConfigError as error:
        raise RunLogError(f"{folder}: {error}") from None
    template = None if drawn is None else drawn["template"]
    return Evaluation(config, summary, instances, sampling, judge.truth(instances), template)


def note_instance(env: Env, task: Json, instances: dict[str, str]) -> None:
    """Add the instance behind a task: boards that differ only in where they were opened are one, for example."""
    # A path, in old logs: text opens no file, so the task stands for itself.
    if task["id"] not in instances and not isinstance(task.get("instance"), str):
        instances[task["id"]] = env.instance(start_of(env, task))
