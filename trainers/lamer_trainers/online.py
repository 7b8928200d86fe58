"""Trials played by the policy that is being trained: a source that collects, then waits while the trainer updates.

What must stay true: the trials of update u were all sampled by the weights after u updates (strictly on-policy), under
the version name `policy-v<u>`, and lie in a run folder of their own before they are trained on. Trainer and sampler
share one module: the sampler is paused whenever the trainer may write to it.

A resumed run goes on with the folder of the update that it resumes at, whose finished trials were sampled by exactly
the weights of the checkpoint. Folders of later updates are of weights that were lost with the killed process: they are
put aside, never trained on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lamer_graph.collect import CollectConfig, CollectSummary, collect
from lamer_graph.errors import PolicyError
from lamer_graph.local_policy import LocalPolicy
from lamer_graph.runlog import read_trials
from lamer_graph.trial import Json
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.samples import Trial

UPDATE_FOLDER = "update-{:05d}"
MOST_FAILED = 0.1
"""Share of a batch's trials that may end in an error (they are logged and left out) before the run stops."""


def version_name(update: int) -> str:
    """The policy version after `update` updates."""
    return f"policy-v{update:04d}"


class OnlineCollector:
    """Plays `config.tasks` new tasks of the split per update, `config.trials` trials each, into `folder/update-..`.

    `policy.model` is what the trainer trains. `on_trial` gets every logged line, `concurrency` trials are played at a
    time. Raises TrainingConfigError for sampling whose logprobs cannot be trained on.
    """

    def __init__(
        self,
        policy: LocalPolicy,
        config: CollectConfig,
        folder: str | Path,
        *,
        concurrency: int = 128,
        on_trial: Callable[[Json], None] | None = None,
    ) -> None:
        if config.top_p != 1.0 or config.top_k != 0 or config.temperature <= 0:
            raise TrainingConfigError("training samples with temperature > 0, top_p 1 and top_k 0")
        if config.skip or config.shuffle_reflections:
            raise TrainingConfigError("skip and shuffle_reflections are not for training: tasks are counted by updates")
        self.policy = policy
        self.config = config
        self.folder = Path(folder)
        self.summary: CollectSummary | None = None
        self._concurrency = concurrency
        self._on_trial = on_trial
        self._held: contextlib.ExitStack | None = None
        self._begun = False

    def next_batch(self, step: int) -> list[Trial]:
        """Collect update `step`'s trials, sorted by task and index; afterwards the sampler is paused.

        Raises KeyboardInterrupt if a signal ended the collection (what was logged is kept for a resume), and
        PolicyError if more than a tenth of the trials failed.
        """
        if not self._begun:
            self._put_aside(step)
            self._begun = True
        with self.sampling(step):
            folder = self.folder / UPDATE_FOLDER.format(step)
            config = self.config.model_copy(update={"skip": step * self.config.tasks, "policy": version_name(step)})
            self.summary = asyncio.run(
                collect(
                    config, self.policy, folder, concurrency=self._concurrency, resume=True, on_trial=self._on_trial
                )
            )
        if self.summary.interrupted:
            raise KeyboardInterrupt
        if self.summary.missing > MOST_FAILED * self.summary.requested:
            failed = next((t["error"]["message"] for t in read_trials(folder) if t["error"] is not None), "unknown")
            raise PolicyError(
                f"{self.summary.missing} of {self.summary.requested} trials of update {step} failed, e.g.: {failed}"
            )
        finished = (trial for trial in read_trials(folder) if trial["error"] is None)
        return sorted(finished, key=lambda trial: (trial["task"]["id"], trial["trial"]))

    @contextlib.contextmanager
    def sampling(self, step: int) -> Iterator[LocalPolicy]:
        """While open the policy samples, as the version after `step` updates; then it is paused for the trainer."""
        self.release()
        with self.policy.paused():
            self.policy.version = version_name(step)
        try:
            yield self.policy
        finally:
            self._held = contextlib.ExitStack()
            self._held.enter_context(self.policy.paused())

    def release(self) -> None:
        """Let the policy sample again, e.g. after training; doing it again does nothing."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _put_aside(self, step: int) -> None:
        """Move away what a killed run had collected after the checkpoint that this run starts from."""
        for folder in sorted(self.folder.glob("update-*")):
            number = folder.name.removeprefix("update-")
            if number.isdigit() and int(number) > step:
                folder.rename(folder.with_name(f"abandoned-{time.time_ns()}-{folder.name}"))
