"""Trials of an application's tasks, logged like any other.

What must stay true: a trial's id and memory are those that its task and index give it in every run, and its line says
which task, split and sampling it was, as an environment's does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from lamer_graph.apps.knowing import Known
from lamer_graph.apps.tasks import TaskApp, TaskEnv
from lamer_graph.runlog import RunLog
from lamer_graph.trial.driver import TRIAL_ERRORS
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.states import Json
from lamer_graph.trial.tasks import start_of, task_id_of, trial_id_of
from lamer_memory.base import Namespace


class AppTrials:
    """Plays tasks of the harness's application. `logged` is told of every line."""

    def __init__(
        self, h: Harness, log: RunLog, split: str, namespace: Namespace, logged: Callable[[Json], None]
    ) -> None:
        self._h = h
        self._env = cast(TaskEnv, h.env)
        self._log = log
        self._split = split
        self._namespace = namespace
        self._told = logged
        self._app = TaskApp.of(self._env, h, self)
        self._tasks: dict[str, Json] = {}

    async def play(self, task: Json) -> None:
        """One trial. An error that ends it is logged with what had been played, and is not raised."""
        task_id = task_id_of(self._env, task)
        trial = trial_id_of(task_id, task["trial"])
        known = Known(task_id, trial, self._namespace, task["trial"])
        self._tasks[trial] = task
        try:
            await self._app.play(start_of(self._env, task), known)
        except TRIAL_ERRORS:
            if trial in self._tasks:  # it struck before there was anything to log
                raise
        finally:
            self._tasks.pop(trial, None)

    # -- the log, as the application sees it --------------------------------------------------------------------------

    @property
    def config_hash(self) -> str:
        return self._log.config_hash

    def name_of(self, trial: Mapping[str, Any]) -> str:
        return self._log.name_of(trial)

    def append(self, trial: Mapping[str, Any]) -> bool:
        line = self._line(trial)
        return self._noted(line, self._log.append(line))

    async def aappend(self, trial: Mapping[str, Any]) -> bool:
        line = self._line(trial)
        return self._noted(line, await self._log.aappend(line))

    def _line(self, trial: Mapping[str, Any]) -> Json:
        task = self._tasks[trial["trial_id"]]
        told = {"id": trial["task"]["id"], "env": self._env.spec, "split": self._split}
        return {
            **trial,
            "task": {**told, "seed": task.get("seed"), "instance": task.get("instance")},
            "sampling": self._h.policy.as_sent(self._h.sampling),
        }

    def _noted(self, line: Json, new: bool) -> bool:
        self._tasks.pop(line["trial_id"], None)
        if new:
            self._told(line)
        return new
