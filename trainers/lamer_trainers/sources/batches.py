"""The trials of each update: `Batches`, and those that are played, in run folders of their own.

What must stay true of played ones: update u's trials are those of tasks u * tasks to (u + 1) * tasks of the split, each
logged once, whoever plays them and however often the run is killed. No trial of weights that were lost with a killed
process is trained on: a batch that holds one is put aside.

With scope "tasks" update u sees of other tasks what the memory of update u - 1 held and what its finished trials wrote,
fixed before its first trial. Batches are collected one after the other, also ahead of the trainer, so this does not
depend on `pipeline`; and since each has a memory of its own, what is put aside takes its records with it.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lamer_graph.collection.collect import CollectSummary, collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.collection.run_memory import Heritage, drop_run_memory
from lamer_graph.errors import PolicyError
from lamer_graph.policies.base import Policy
from lamer_graph.runlog import TRIALS_FILE, read_trials
from lamer_graph.trial.states import Json
from lamer_trainers.learning.samples import Trial, version_number
from lamer_trainers.runfile import Remember

UPDATE_FOLDER = "update-{:05d}"
MOST_FAILED = 0.1
"""Share of a batch's trials that may end in an error (they are logged and left out) before the run stops."""


def version_name(update: int) -> str:
    """The policy version after `update` updates."""
    return f"policy-v{update:04d}"


class Collected(NamedTuple):
    """A batch: its finished trials, sorted by task and index, and how collecting them went (None: they were there)."""

    trials: list[Trial]
    summary: CollectSummary | None


def check_played(summary: CollectSummary, folder: Path, what: str) -> None:
    """Raises KeyboardInterrupt if a signal ended the collection in `folder`, PolicyError if too many trials failed."""
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.missing > MOST_FAILED * summary.requested:
        failed = next((trial["error"]["message"] for trial in read_trials(folder) if trial["error"]), "unknown")
        raise PolicyError(f"{summary.missing} of {summary.requested} trials of {what} failed, e.g.: {failed}")


class Batches(ABC):
    """The trials of update after update; unless they are played, nothing is remembered from one to the next."""

    pipeline = 0
    """How many versions old samples may be."""

    @abstractmethod
    async def collect(self, step: int, policy: Policy) -> Collected:
        """Update `step`'s trials, `policy` playing what is missing of them."""

    @property
    def heritage(self) -> Heritage | None:
        """How much of a memory a later update begins with; None where other tasks are not seen."""
        return None

    def going_on(self, config: CollectConfig, folder: Path, step: int) -> CollectConfig:
        """`config` of a run in `folder` whose memory goes on from what `step` updates have left."""
        return config

    def forget_before(self, step: int) -> None:  # noqa: B027  (nothing may be remembered)
        """Drop the memories of updates that no resume can go back to; the trials stay."""

    def resume_at(self, step: int) -> None:  # noqa: B027  (nothing may be put aside)
        """Put aside what a killed run collected after its checkpoint, of which `step` updates are left."""


class PlayedBatches(Batches):
    """Plays `config.tasks` new tasks of the split per update, `config.trials` trials each, into `folder/update-..`.

    `on_trial` gets every logged line, `concurrency` trials are played at a time, samples may be `pipeline` versions
    old, `remember` bounds a memory of other tasks.
    """

    def __init__(
        self,
        config: CollectConfig,
        folder: str | Path,
        *,
        concurrency: int = 128,
        on_trial: Callable[[Json], None] | None = None,
        pipeline: int = 0,
        remember: Remember | None = None,
    ) -> None:
        self.config = config
        self.folder = Path(folder)
        self.pipeline = pipeline
        self._remember = remember or Remember()
        self._concurrency = concurrency
        self._on_trial = on_trial

    async def collect(self, step: int, policy: Policy) -> Collected:
        """Play what is missing of update `step`'s trials.

        Raises KeyboardInterrupt if a signal ended the collection (what was logged is kept for a resume), and
        PolicyError if more than a tenth of the trials failed.
        """
        folder = self.folder / UPDATE_FOLDER.format(step)
        # What is pipelined may be finished by a later version after a resume; every call names its own.
        name = version_name(step) if self.pipeline == 0 else f"{version_name(max(0, step - self.pipeline))} or later"
        config = self.config.model_copy(update={"skip": step * self.config.tasks, "policy": name})
        summary = await collect(
            self.going_on(config, folder, step),
            policy,
            folder,
            concurrency=self._concurrency,
            resume=True,
            heritage=self.heritage,
            mixed=self.pipeline > 0,
            on_trial=self._on_trial,
        )
        check_played(summary, folder, f"update {step}")
        finished = (trial for trial in read_trials(folder) if trial["error"] is None)
        return Collected(sorted(finished, key=lambda trial: (trial["task"]["id"], trial["trial"])), summary)

    @property
    def heritage(self) -> Heritage | None:
        return None if self.config.scope == "trial" else Heritage(self._remember.budget, self._remember.near)

    def going_on(self, config: CollectConfig, folder: Path, step: int) -> CollectConfig:
        if config.scope == "trial" or step == 0:
            return config
        last = self.folder / UPDATE_FOLDER.format(step - 1)
        return config.model_copy(update={"store": os.path.relpath(last, folder)})

    def forget_before(self, step: int) -> None:
        for folder in self.folder.glob("update-*"):
            number = folder.name.removeprefix("update-")
            if number.isdigit() and int(number) < step - 1:
                drop_run_memory(self.config, folder)

    def resume_at(self, step: int) -> None:
        for folder in sorted(self.folder.glob("update-*")):
            number = folder.name.removeprefix("update-")
            if not number.isdigit() or int(number) <= step:
                continue
            if int(number) > step + self.pipeline or _newest(folder) > step:
                folder.rename(folder.with_name(f"abandoned-{time.time_ns()}-{folder.name}"))


def _newest(folder: Path) -> int:
    """The newest version among a run's calls, -1 if there is none."""
    if not (folder / TRIALS_FILE).exists():
        return -1
    return max((number for trial in read_trials(folder) for number in _versions(trial)), default=-1)


def _versions(trial: Json) -> Iterator[int]:
    made = [turn for episode in trial["episodes"] for turn in episode["turns"]] + trial["reflections"]
    for entry in made:
        number = version_number((entry["call"] or {}).get("policy_version", ""))
        if number is not None:
            yield number
