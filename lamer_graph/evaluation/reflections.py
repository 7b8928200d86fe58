"""How many reflections state a true fact: of those that could have, judged by the environment itself (`Env.judge`).

What must stay true: only what the policy wrote is judged (not what a person wrote or another trial handed over), on
failed episodes that showed something that could be stated; an episode is played again from its logged actions, which an
environment's purity allows, so a finished run's log alone gives the reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lamer_envs.base import Env
from lamer_graph.evaluation.stats import Instances, ratio, wilson
from lamer_graph.trial.tasks import start_of


class Truth(NamedTuple):
    """Share of the `judged` reflections that state something true and nothing false, with its 95 % interval."""

    value: float
    low: float
    high: float
    judged: int


class Judge:
    """Adds up verdicts on logged trials of `env`, trial by trial; of an environment that judges nothing, none."""

    def __init__(self, env: Env) -> None:
        self._env = env if env.offers("judge") else None
        self._verdicts: dict[str, list[bool]] = {}

    def add(self, trial: Mapping[str, Any]) -> None:
        """Judge the reflections of a trial that no error ended."""
        if self._env is None or trial.get("error") is not None or not trial["reflections"]:
            return
        if isinstance(trial["task"].get("instance"), str):  # a path, in old logs: text opens no file
            return
        start = start_of(self._env, trial["task"])
        for made in trial["reflections"]:
            episode = trial["episodes"][made["episode"]]
            if made["call"] is None or episode["success"]:
                continue
            actions = [turn["action"] or "" for turn in episode["turns"]]
            verdict = self._env.judge(start, actions, made["text"])
            if verdict is not None:
                self._verdicts.setdefault(trial["task"]["id"], []).append(verdict)

    def truth(self, instances: Instances) -> Truth | None:
        """The reading; None where no reflection could be judged."""
        judged = sum(map(len, self._verdicts.values()))
        if not judged:
            return None
        share = ratio(((task, sum(made), len(made)) for task, made in self._verdicts.items()), instances)
        low, high = share.low, share.high
        if share.value in (0.0, 1.0):  # every draw is the same; Wilson still says how little so many instances prove
            count = len({instances.get(task, task) for task in self._verdicts})
            low, high = wilson(share.value * count, count)
        return Truth(share.value, low, high, judged)
