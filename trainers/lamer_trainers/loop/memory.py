"""What a training run holds in memory, and where: the trainer, the sampler, and both on one device.

What must stay true: what stays is what is allocated (a test counts it), a vLLM on a GPU takes what it reserves, and
where that is too little, or the device is, a warning says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lamer_graph.policies.local import CPU_CACHE_BYTES, GPU_CACHE_SHARE
from lamer_graph.policies.room import GIB, check_room, weight_bytes
from lamer_trainers.loop.devices import Device
from lamer_trainers.loop.shapes import Shape
from lamer_trainers.runfile import RunFile
from lamer_trainers.sources.served import gpu_share

VLLM_SHARE = 0.92
"""What vLLM 0.32 reserves of a device unless it is told (`gpu_memory_utilization`, vllm/config/cache.py)."""
VLLM_BESIDES = 4 * GIB
"""What vLLM takes on a GPU beside weights, keys and values: activations and logits of its largest step, CUDA graphs,
adapters. A rule of thumb, not measured here."""


def check_fits(run: RunFile, folder: Path, place: str, processes: int = 1) -> None:
    """Raises ConfigError if what a trainer in `place` holds for certain does not fit there: weights, and of what is
    trained gradients and Adam's moments (an adapter's are not counted), in each of `processes` on this machine."""
    if run.lora is not None:
        frozen = _weight_size(run, cuda=place.startswith("cuda"))
        needs, instead = weight_bytes(folder, frozen), "train a smaller model"
    else:
        # Each a float32: the weight, its gradient and two moments, and with `kl` the reference's.
        needs = weight_bytes(folder, 4) * (5 if run.optimise.kl else 4)
        instead = "train an adapter (lora.rank=32), or a smaller model"
    on_device = place.startswith("cuda")
    check_room(f"training {folder}", needs * (1 if on_device else processes), place, instead)


class TrainerBytes(NamedTuple):
    """What stays, what one pass takes besides, and a copy of what it changes."""

    held: float
    passing: float
    changed: float

    @property
    def total(self) -> float:
        return self.held + self.passing


class SamplerBytes(NamedTuple):
    """Of one device: weights, keys and values if all calls are at their longest at once, and what a vLLM has.

    A vLLM on a GPU takes what it reserves, whatever it needs.
    """

    weights: float
    cache: float
    besides: float = 0.0
    reserved: float | None = None

    @property
    def needs(self) -> float:
        return self.weights + self.cache + self.besides

    @property
    def takes(self) -> float:
        return self.needs if self.reserved is None else self.reserved


def trainer_bytes(run: RunFile, shape: Shape, device: Device) -> TrainerBytes:
    """Weights, for what is trained gradients and Adam's two moments, all float32; PPO's critic; activations and logits.

    With `kl` there is a reference of what is trained. The critic trains a whole body in float32, without gradient
    checkpointing. On a GPU autocast makes 16-bit copies of what is trained.
    """
    optimise = run.optimise
    weights = shape.parameters * _weight_size(run, cuda=device.cuda)
    changed = 4 * (shape.adapter(run.lora.rank, run.lora.modules) if run.lora else shape.parameters)
    held = weights + (4 if run.lora else 3) * changed + (changed if optimise.kl else 0)
    wide, copies = (2, changed / 2) if device.cuda else (4, 0.0)
    batch = optimise.micro_batch_tokens
    block = batch * (10 * shape.hidden + 4 * shape.ffn)
    kept = optimise.gradient_checkpointing
    activations = wide * (block + batch * shape.layers * shape.hidden if kept else shape.layers * block)
    passing = activations + batch * shape.vocabulary * 4 * 2 + copies
    if optimise.algorithm == "ppo":
        held += 4 * shape.body * 4
        passing = max(passing, shape.layers * block * 4)
    return TrainerBytes(held, passing, changed)


def _weight_size(run: RunFile, *, cuda: bool) -> int:
    """Bytes of one of the policy's weights, as `loop.make_policy` loads them: a frozen base's are those of `dtype`, or
    16 bits on a GPU."""
    if run.lora is None:
        return 4
    return {"bfloat16": 2, "float32": 4}[run.dtype] if run.dtype else 2 if cuda else 4


def sampler_bytes(run: RunFile, shape: Shape, length: int, device: Device) -> SamplerBytes:
    """`concurrency` calls of `length` tokens. In process keys and values are of the weights' type and bounded."""
    server, tokens = run.server, run.concurrency * length
    if server is None:
        size = _weight_size(run, cuda=device.cuda)
        weights = float(shape.parameters * size)
        most = GPU_CACHE_SHARE * max(0.0, (device.memory or 0) - weights) if device.cuda else CPU_CACHE_BYTES
        return SamplerBytes(weights, min(tokens * shape.cache_bytes * size / 2, most))
    size = 4 if server.dtype == "float32" or (server.dtype == "auto" and not device.cuda) else 2
    weights = shape.parameters * size / server.tensor_parallel
    cache = tokens * shape.cache_bytes * size / 2 / (server.tensor_parallel * server.data_parallel)
    if not device.cuda:
        return SamplerBytes(weights, cache)
    share = gpu_share(server, cuda=True) or VLLM_SHARE
    return SamplerBytes(weights, cache, VLLM_BESIDES, share * (device.memory or 0))


def placed(run: RunFile, trainer: TrainerBytes, sampler: SamplerBytes) -> tuple[str, float, str]:
    """Where trainer and sampler are, the bytes that the fullest device needs at once, and how they come about."""
    if run.server is None:
        if run.pipeline:
            copied = sampler.weights + trainer.changed
            return "in process", trainer.total + copied + sampler.cache, "the sampler has a copy of the weights"
        return "in process", trainer.total + sampler.cache, "weights are shared"
    reserved = "" if sampler.reserved is None else f"; the server reserves {sampler.reserved / GIB:.1f} GiB"
    if run.server.placement == "colocated":
        return (
            "colocated",
            max(trainer.total, trainer.held + sampler.takes),
            f"in turns: the trainer's weights and states stay, the server's go{reserved}",
        )
    if run.server.devices is not None:
        says = f"on two devices, the server on {run.server.devices}{reserved}"
        return "apart", max(trainer.total, sampler.takes), says
    return "apart", trainer.total + sampler.takes, f"both at once on one device{reserved}"


def memory_warnings(run: RunFile, sampler: SamplerBytes, peak: float, device: Device) -> list[str]:
    """What does not fit into the server's reservation, or on the device."""
    found: list[str] = []
    if sampler.reserved is not None and sampler.needs > sampler.reserved:
        says = (
            f"the server needs {sampler.needs / GIB:.1f} GiB for {run.concurrency} of the longest calls at once and "
            f"reserves {sampler.reserved / GIB:.1f} GiB: "
        )
        left = int((sampler.reserved - sampler.weights - sampler.besides) / sampler.cache * run.concurrency)
        if left < 1:
            found.append(says + "vLLM will not start; raise server.gpu_memory")
        else:
            found.append(says + f"only {left} fit, others wait; raise server.gpu_memory or lower concurrency")
    if device.memory is not None and peak > device.memory:
        where = "a device" if device.cuda else "a machine"
        found.append(
            f"{peak / GIB:.1f} GiB do not fit on {where} of {device.memory / GIB:.0f} GiB: lower {_smaller(run)}"
        )
    return found


def _smaller(run: RunFile) -> str:
    """What to make smaller where a device is too small."""
    if run.server is not None and run.server.devices is None:
        return "server.gpu_memory or optimise.micro_batch_tokens, or give the server a device (server.devices)"
    if run.lora is None:
        return "optimise.micro_batch_tokens, or train an adapter (lora.rank)"
    return "optimise.micro_batch_tokens"
