"""What the calls of logged trials were worth, as a trainer would see it, for whoever shows them.

What must stay true: returns and advantages are those of `lamer_trainers`, by its own functions and a run's own
settings. A training's credit is the command line's to bring: nothing below it may import a trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from lamer_graph.cli.frame import Json

if TYPE_CHECKING:
    from lamer_graph.report.trials import Place, Worth

NAMES = {"variant": "credit"}
"""What a run's settings call otherwise."""


def worth_of(trials: Sequence[Json], settings: Json) -> Mapping[Place, Worth]:
    """The return of every call, and its advantage where more than one trial was sampled on a task.

    Calls without tokens (of a chat model) have returns too. Nothing is said of trials that an error ended, and of
    settings that nobody knows.
    """
    from lamer_trainers.errors import TrainingConfigError, TrainingDataError
    from lamer_trainers.learning.samples import Credit, Estimator, Limits, advantages_of, samples_of

    try:
        credit, estimator = Credit(**_told(Credit, settings)), Estimator(**_told(Estimator, settings))
        samples = samples_of([_with_tokens(trial) for trial in trials], credit, Limits())
    except (TrainingConfigError, TrainingDataError, TypeError):
        return {}
    compared = len({sample.trial for sample in samples}) > 1 and estimator.algorithm != "ppo"
    advantages: Sequence[float | None] = [None] * len(samples)
    if compared:
        advantages = advantages_of(samples, estimator)
    return {
        (sample.trial, sample.kind, sample.episode, sample.turn if sample.kind == "turn" else 0): (
            sample.step_return,
            advantage,
        )
        for sample, advantage in zip(samples, advantages, strict=True)
    }


def _told(kind: Any, settings: Json) -> Json:
    names = {field.name: NAMES.get(field.name, field.name) for field in fields(kind)}
    return {name: settings[told] for name, told in names.items() if settings.get(told) is not None}


def _with_tokens(trial: Json) -> Json:
    """The trial with a token for every call: what it was worth does not depend on how it was said."""
    call = {"prompt_token_ids": [0], "token_ids": [0], "logprobs": [0.0], "policy_version": ""}
    episodes = [
        {**episode, "turns": [{**turn, "call": call} for turn in episode["turns"]]} for episode in trial["episodes"]
    ]
    reflections = [{**made, "call": None if made["call"] is None else call} for made in trial["reflections"]]
    return {**trial, "episodes": episodes, "reflections": reflections}
