"""Trials played by a running vLLM that serves the adapter being trained: collect, train, swap.

What must stay true: every batch is sampled by a version that the sync has proved, at most `pipeline` updates old; with
`pipeline` 0 by exactly the weights that are trained next. The server is ours: started for the run, logging into its
folder, gone with it. If it dies it is started again once, with the adapters it had, and calls outlast that.

Resuming as in `online`; adapters of a killed run are written anew from the checkpoint, never read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from lamer_graph.collection.collect import CollectSummary
from lamer_graph.collection.config import CollectConfig
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.serving.vllm import VllmServer, vllm_flavour
from lamer_graph.trial.steps import Json
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.learning.samples import Trial
from lamer_trainers.runfile import Remember, RunFile, Server
from lamer_trainers.sources.ahead import Ahead, PipelinedCollector, waits
from lamer_trainers.sources.batches import Batches, Collected
from lamer_trainers.sources.offline import LoggedCollector
from lamer_trainers.sources.online import OnlineCollector
from lamer_trainers.sources.sync import RESTART_S, TOLERANCE, AdapterSync

ADAPTERS, SERVER = "adapters", "server"
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as its largest rank; it reserves that much for every adapter."""
SHARED_GPU_MEMORY = 0.5
"""Share of a device that a server takes beside the trainer. By default vLLM takes nearly all of it, and does not start
where less is free: the trainer's weights are there first."""


class ServedCollector:
    """Plays `config.tasks` new tasks of the split per update through `sync.server`, into `folder/update-..`.

    `pipeline` batches may be collected ahead while the trainer updates; `updates` is how many will be asked for.
    With `colocated` (and `pipeline` 0) the server sleeps whenever it does not play.
    """

    def __init__(
        self,
        sync: AdapterSync,
        config: CollectConfig,
        folder: str | Path,
        *,
        pipeline: int = 0,
        updates: int | None = None,
        concurrency: int = 128,
        remember: Remember | None = None,
        on_trial: Callable[[Json], None] | None = None,
        colocated: bool = False,
    ) -> None:
        self.sync = sync
        self._colocated = colocated
        self.batches = Batches(
            config, folder, concurrency=concurrency, remember=remember, on_trial=on_trial, pipeline=pipeline
        )
        self.summary: CollectSummary | None = None
        self.metrics: dict[str, float] = {}
        self._ahead = Ahead(self._collect, most=pipeline, end=updates) if pipeline else None
        self._begun = False

    def next_batch(self, step: int) -> list[Trial]:
        """Bring the weights after `step` updates to the server and return update `step`'s trials.

        Raises what `AdapterSync.push` and `Batches.collect` raise.
        """
        if not self._begun:
            self.batches.resume_at(step)
            self._begun = True
        with self._awake():
            self.sync.push(step)
            self.metrics = self.sync.swap.metrics() if self.sync.swap is not None else {}
            self.metrics["server/restarts"] = float(self.sync.server.restarts)
            if self._ahead is None:
                trials, self.summary = asyncio.run(self._collect(step))
            else:
                begun = time.perf_counter()
                self._ahead.advance(step)
                trials, self.summary = self._ahead.take(step)
                self.metrics |= waits(self._ahead, begun)
        return trials

    @contextlib.contextmanager
    def sampling(self, step: int) -> Iterator[OpenAIPolicy]:
        """The served policy after `step` updates, e.g. for a validation."""
        with self._awake():
            self.sync.push(step)
            with self.sync.using() as policy:
                yield policy

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        """The server has the device's memory while this is open. After an error it stays awake: the run is over."""
        if not self._colocated:
            yield
            return
        torch.cuda.empty_cache()  # what the trainer has freed but holds on to
        self.sync.server.wait_ready(RESTART_S)
        self.sync.server.wake()
        yield
        self.sync.server.sleep()

    def release(self) -> None:
        """Stop collecting ahead."""
        if self._ahead is not None:
            self._ahead.close()

    async def _collect(self, step: int) -> Collected:
        with self.sync.using() as policy:
            try:
                return await self.batches.collect(step, policy)
            finally:
                await policy.aclose()


Collector = LoggedCollector | OnlineCollector | PipelinedCollector | ServedCollector


@contextlib.contextmanager
def collecting(run: RunFile, policy: LocalPolicy, folder: Path, batches: Path) -> Iterator[Collector]:
    """The source that `run` asks for, for the trainer of `policy.model`; on leaving, all that it started has ended.

    `folder` takes the server's log and the adapters, `batches` the trials. Raises ConfigError and ServeError if the
    server cannot be started, WeightSyncError if it cannot serve what is trained.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(policy.close)
        collector: Collector
        if run.logs:
            collector = LoggedCollector(run, policy)
        elif run.server is None and run.pipeline == 0:
            collector = OnlineCollector(
                policy, run.collect, batches, concurrency=run.concurrency, remember=run.remember
            )
        elif run.server is None:
            collector = PipelinedCollector(
                policy,
                run.collect,
                batches,
                pipeline=run.pipeline,
                updates=run.optimise.updates,
                concurrency=run.concurrency,
                remember=run.remember,
            )
        else:
            server = stack.enter_context(make_server(run, folder / SERVER))
            shutil.rmtree(folder / ADAPTERS, ignore_errors=True)  # a killed run's: its server is gone
            tolerance = run.server.tolerance
            if tolerance is None:
                tolerance = TOLERANCE["float32" if served_type(server, run) == "float32" else "bfloat16"]
            sync = AdapterSync(server, policy.model, folder / ADAPTERS, keep=run.pipeline + 1, tolerance=tolerance)
            collector = ServedCollector(
                sync,
                run.collect,
                batches,
                pipeline=run.pipeline,
                updates=run.optimise.updates,
                concurrency=run.concurrency,
                remember=run.remember,
                colocated=run.server.placement == "colocated",
            )
        stack.callback(collector.release)
        yield collector


def make_server(run: RunFile, folder: Path) -> VllmServer:
    """The server of `run`, not yet started, logging into `folder`. Raises ConfigError."""
    assert run.server is not None
    assert run.lora is not None
    rank = next((size for size in LORA_RANKS if size >= run.lora.rank), LORA_RANKS[-1])
    extra = [] if run.server.dtype == "auto" else ["--dtype", run.server.dtype]
    if run.server.template:
        extra += ["--default-chat-template-kwargs", json.dumps(run.server.template)]
    share = gpu_share(run.server, cuda=torch.cuda.is_available() and vllm_flavour() == "gpu")
    if share is not None:
        extra += ["--gpu-memory-utilization", str(share)]
    return VllmServer(
        run.policy,
        max_adapters=run.pipeline + 2,
        max_lora_rank=rank,
        run_dir=folder,
        max_model_len=run.server.max_model_len,
        devices=run.server.devices,
        can_sleep=run.server.placement == "colocated",
        extra_args=extra,
    )


def gpu_share(server: Server, *, cuda: bool) -> float | None:
    """The share of its device that the server is told to reserve; None leaves vLLM's default.

    `cuda` says whether trainer and server run on such devices.
    """
    shared = server.placement == "colocated" or (cuda and server.devices is None)
    return SHARED_GPU_MEMORY if server.gpu_memory is None and shared else server.gpu_memory


def check_placement(server: Server, *, cuda: bool, visible: str | None) -> None:
    """Raises TrainingConfigError for a placement that this machine cannot have.

    `cuda` says whether it has such devices and a vLLM for them, `visible` is the trainer's CUDA_VISIBLE_DEVICES.
    """
    asked = [f"server.{name}" for name in ("devices", "gpu_memory") if getattr(server, name) is not None]
    asked += ["server.placement=colocated"] if server.placement == "colocated" else []
    if asked and not cuda:
        raise TrainingConfigError(
            f"{' and '.join(asked)} need a CUDA device and vLLM's build for it: leave them out here"
        )
    if server.devices is None:
        return
    own = {device.strip() for device in (visible or "").split(",")} - {""}
    if not own or own & {*server.devices.split(",")}:
        raise TrainingConfigError(
            f"the server is to be alone on server.devices={server.devices}, but the trainer sees "
            f"{'all devices' if not own else visible}: start it with CUDA_VISIBLE_DEVICES set to another device"
        )


def served_type(server: VllmServer, run: RunFile) -> str:
    """The type that the server computes in."""
    assert run.server is not None
    return server.dtype if run.server.dtype == "auto" else run.server.dtype
