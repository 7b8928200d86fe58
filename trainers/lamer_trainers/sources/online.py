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
from collections.abc import Callable, Iterator
from pathlib import Path

from lamer_graph.collection.collect import CollectSummary
from lamer_graph.collection.config import CollectConfig
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.trial.steps import Json
from lamer_trainers.learning.samples import Trial
from lamer_trainers.runfile import Remember
from lamer_trainers.sources.batches import Batches, version_name


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
        remember: Remember | None = None,
        on_trial: Callable[[Json], None] | None = None,
    ) -> None:
        self.policy = policy
        self.batches = Batches(config, folder, concurrency=concurrency, remember=remember, on_trial=on_trial)
        self.summary: CollectSummary | None = None
        self.metrics: dict[str, float] = {}
        self._held: contextlib.ExitStack | None = None
        self._begun = False

    def next_batch(self, step: int) -> list[Trial]:
        """Collect update `step`'s trials, sorted by task and index; afterwards the sampler is paused.

        Raises KeyboardInterrupt if a signal ended the collection (what was logged is kept for a resume), and
        PolicyError if more than a tenth of the trials failed.
        """
        if not self._begun:
            self.batches.resume_at(step)
            self._begun = True
        with self.sampling(step) as policy:
            trials, self.summary = asyncio.run(self.batches.collect(step, policy))
        return trials

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
