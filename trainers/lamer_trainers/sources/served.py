"""Sampling from a running vLLM that serves the adapter being trained: collect, train, swap.

What must stay true: every batch is sampled by a version that the sync has proved, at most `pipeline` updates old; with
`pipeline` 0 by exactly the weights that are trained next. The server is ours: started for the run, logging into its
folder, gone with it. If it dies it is started again once, with the adapters it had, and calls outlast that.

Adapters of a killed run are written anew from the checkpoint, never read.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import torch

from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.serving.vllm import VllmServer, vllm_flavour
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.runfile import RunFile, Server
from lamer_trainers.sources.sampler import Sampler
from lamer_trainers.sources.sync import RESTART_S, TOLERANCE, AdapterSync

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as its largest rank; it reserves that much for every adapter."""
SHARED_GPU_MEMORY = 0.5
"""Share of a device that a server takes beside the trainer. By default vLLM takes nearly all of it, and does not start
where less is free: the trainer's weights are there first."""


class Served(Sampler):
    """`sync.server` plays with the adapter of `sync`'s model; `colocated`: it sleeps whenever it does not play."""

    def __init__(self, sync: AdapterSync, *, colocated: bool = False) -> None:
        self.sync = sync
        self._colocated = colocated

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """The server has the device's memory while this is open. After an error it stays awake: the run is over."""
        if not self._colocated:
            yield
            return
        torch.cuda.empty_cache()  # what the trainer has freed but holds on to
        self.sync.server.wait_ready(RESTART_S)
        self.sync.server.wake()
        yield
        self.sync.server.sleep()

    def bring(self, step: int) -> dict[str, float]:
        """Raises what `AdapterSync.push` raises."""
        self.sync.push(step)
        swap = {} if self.sync.swap is None else self.sync.swap.metrics()
        return {**swap, "server/restarts": float(self.sync.server.restarts)}

    @contextlib.asynccontextmanager
    async def playing(self) -> AsyncIterator[OpenAIPolicy]:
        with self.sync.using() as policy:
            try:
                yield policy
            finally:
                await policy.aclose()

    @contextlib.contextmanager
    def validating(self, step: int) -> Iterator[OpenAIPolicy]:
        self.sync.push(step)
        with self.sync.using() as policy:
            yield policy


def make_server(run: RunFile, folder: Path) -> VllmServer:
    """The server of `run`, not yet started, logging into `folder`. Raises ConfigError."""
    assert run.server is not None
    assert run.lora is not None
    rank = next((size for size in LORA_RANKS if size >= run.lora.rank), LORA_RANKS[-1])
    return VllmServer(
        run.base,
        max_adapters=run.pipeline + 2,
        max_lora_rank=rank,
        run_dir=folder,
        max_model_len=run.server.max_model_len,
        devices=run.server.devices,
        can_sleep=run.server.placement == "colocated",
        template_args=run.template_args,
        tensor_parallel=run.server.tensor_parallel,
        data_parallel=run.server.data_parallel,
        dtype=run.server.dtype,
        gpu_memory=gpu_share(run.server, cuda=torch.cuda.is_available() and vllm_flavour() == "gpu"),
        extra_args=run.server.extra_args,
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
    asked += [f"server.{name}" for name in ("tensor_parallel", "data_parallel") if getattr(server, name) > 1]
    asked += ["server.placement=colocated"] if server.placement == "colocated" else []
    if asked and not cuda:
        raise TrainingConfigError(
            f"{' and '.join(asked)} need a CUDA device and vLLM's build for it: leave them out here"
        )
    if server.devices is None:
        if (used := server.tensor_parallel * server.data_parallel) > 1:
            raise TrainingConfigError(
                f"server.tensor_parallel x server.data_parallel uses {used} devices: name them in server.devices, "
                "apart from the trainer's"
            )
        return
    own = {device.strip() for device in (visible or "").split(",")} - {""}
    if not own or own & {*server.devices.split(",")}:
        raise TrainingConfigError(
            f"the server is to be alone on server.devices={server.devices}, but the trainer sees "
            f"{'all devices' if not own else visible}: start it with CUDA_VISIBLE_DEVICES set to another device"
        )


def probe_tolerance(server: VllmServer, run: RunFile) -> float:
    """How far the server's logprobs may be from the trainer's, in nats: as the run says, or by what it computes in."""
    assert run.server is not None
    return run.server.tolerance or TOLERANCE["float32" if server.dtype == "float32" else "bfloat16"]
