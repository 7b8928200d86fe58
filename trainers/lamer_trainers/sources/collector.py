"""The source of a run's trials, an update at a time: a `Sampler` (who plays) and `Batches` (what is played, or read).

What must stay true: update u's batch is sampled by weights at most `batches.pipeline` updates old, with 0 by exactly
those that are trained next; each is handed out once, in order, after what no resume may use was put aside. Whatever a
run starts for this has ended when `collecting` is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from lamer_graph.collection.collect import CollectSummary
from lamer_graph.policies.base import Policy
from lamer_graph.policies.local import LocalPolicy
from lamer_trainers.learning.samples import Trial
from lamer_trainers.runfile import RunFile
from lamer_trainers.sources.ahead import Ahead
from lamer_trainers.sources.batches import Batches, Collected, PlayedBatches
from lamer_trainers.sources.in_process import CopyInProcess, InProcess
from lamer_trainers.sources.offline import LoggedBatches
from lamer_trainers.sources.sampler import Sampler
from lamer_trainers.sources.served import Served, make_server, probe_tolerance
from lamer_trainers.sources.sync import AdapterSync

ADAPTERS, SERVER = "adapters", "server"


class Collector:
    """What a trainer asks for trials, and what its loop validates with. `updates` is how many will be asked for.

    `summary` and `metrics` say how the last batch was collected.
    """

    def __init__(self, sampler: Sampler, batches: Batches, *, updates: int | None = None) -> None:
        self.sampler = sampler
        self.batches = batches
        self.summary: CollectSummary | None = None
        self.metrics: dict[str, float] = {}
        self._ahead = Ahead(self._collect, most=batches.pipeline, end=updates) if batches.pipeline else None
        self._begun = False

    def next_batch(self, step: int) -> list[Trial]:
        """Bring the weights after `step` updates to the sampler and return that update's trials.

        Raises what `Batches.collect` and `Sampler.bring` raise.
        """
        if not self._begun:
            self.batches.resume_at(step)
            self._begun = True
        with self.sampler.turn():
            self.metrics = self.sampler.bring(step)
            if self._ahead is None:
                trials, self.summary = asyncio.run(self._collect(step))
            else:
                begun = time.perf_counter()
                self._ahead.advance(step)
                trials, self.summary = self._ahead.take(step)
                self.metrics |= {"idle/trainer": time.perf_counter() - begun, "idle/sampler": self._ahead.waited()}
        return trials

    @contextlib.contextmanager
    def sampling(self, step: int) -> Iterator[Policy]:
        """The policy after `step` updates, e.g. for a validation."""
        with self.sampler.turn(), self.sampler.validating(step) as policy:
            yield policy

    def release(self) -> None:
        """Stop collecting, and let go of the policy; doing it again does nothing."""
        if self._ahead is not None:
            self._ahead.close()
        self.sampler.close()

    async def _collect(self, step: int) -> Collected:
        async with self.sampler.playing() as policy:
            return await self.batches.collect(step, policy)


@contextlib.contextmanager
def collecting(run: RunFile, policy: LocalPolicy, folder: Path, trials: Path) -> Iterator[Collector]:
    """The source that `run` asks for, for the trainer of `policy.model`; on leaving, all that it started has ended.

    `folder` takes the server's log and the adapters, `trials` what is collected. Raises ConfigError and ServeError if
    the server cannot be started, WeightSyncError if it cannot serve what is trained.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(policy.close)
        batches: Batches
        if run.logs:
            batches = LoggedBatches(run)
        else:
            batches = PlayedBatches(
                run.collect, trials, concurrency=run.concurrency, pipeline=run.pipeline, remember=run.remember
            )
        sampler: Sampler
        if run.server is not None:
            server = stack.enter_context(make_server(run, folder / SERVER))
            shutil.rmtree(folder / ADAPTERS, ignore_errors=True)  # a killed run's: its server is gone
            tolerance = probe_tolerance(server, run)
            sync = AdapterSync(
                server,
                policy.model,
                folder / ADAPTERS,
                keep=run.pipeline + 1,
                tolerance=tolerance,
                copies=run.server.data_parallel,
                card=run.card,
            )
            sampler = Served(sync, colocated=run.server.placement == "colocated")
        else:
            sampler = CopyInProcess(policy) if run.pipeline else InProcess(policy)
        collector = Collector(sampler, batches, updates=run.optimise.updates)
        stack.callback(collector.release)
        yield collector
