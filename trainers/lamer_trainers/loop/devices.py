"""What a plan is reckoned for: a device of a data sheet, or the one that is here, as a short probe finds it.

What must stay true: rates are sustained ones, of products of matrices as large as the model's; how much of them a step
of a model gets is `plan`'s to say. A probe takes a second and leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from lamer_graph.policies.local import SMALL
from lamer_graph.policies.room import GIB, free_bytes
from lamer_trainers.loop.shapes import Shape


@dataclass(frozen=True)
class Device:
    """Sustained arithmetic in FLOP/s, memory traffic in bytes/s and memory in bytes, as used here.

    Of a GPU's memory the contexts of two processes are taken off; None: it is not looked at. `measured` rates are those
    of a product of matrices, others are what a model's step gets.
    """

    flops: float
    bandwidth: float
    says: str
    memory: float | None = None
    cuda: bool = True
    measured: bool = False


DeviceName = Literal["cpu", "a100", "h100", "h200"]
_SHARE = 0.4
DEVICES: dict[str, Device] = {
    "cpu": Device(7e10, 2e10, "one CPU core, about what the preset minesweeper-cpu gets", cuda=False),
    "a100": Device(312e12 * _SHARE, 2.0e12 * _SHARE, "one A100 of 80 GB at 40% of its data sheet", 78 * GIB),
    "h100": Device(989e12 * _SHARE, 3.35e12 * _SHARE, "one H100 at 40% of its data sheet", 78 * GIB),
    "h200": Device(989e12 * _SHARE, 4.8e12 * _SHARE, "one H200 at 40% of its data sheet", 138 * GIB),
}
CONTEXTS = 2 * GIB
"""Of a GPU's memory, what the contexts of a trainer and a server take."""
ROWS, FEW = 1024, 16
"""Rows of the products that are timed: a pass of training, and a step of sampling."""
MATRICES = 8
"""Matrices of the first: enough to time, whatever they are multiplied by."""
PROBE_S = 0.3
"""Seconds that each of them is timed for, at least."""


def here(shape: Shape) -> Device:
    """The device that a model of this shape would be trained on here: CUDA's first, or else the processor."""
    if torch.cuda.is_available():
        rate, traffic = _rates(shape, "cuda", torch.bfloat16)
        name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1] - CONTEXTS
        return Device(rate, traffic, _says(name, rate, traffic), memory, measured=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if shape.parameters < SMALL else threads)  # as `train` has it
    try:
        rate, traffic = _rates(shape, "cpu", torch.float32)
        name = f"this machine's processor ({torch.get_num_threads()} threads)"
    finally:
        torch.set_num_threads(threads)
    return Device(rate, traffic, _says(name, rate, traffic), float(free_bytes()), cuda=False, measured=True)


def _says(name: str, rate: float, traffic: float) -> str:
    return f"{name}, {rate / 1e9:,.0f} GFLOP/s and {traffic / 1e9:,.1f} GB/s as measured"


def _rates(shape: Shape, place: str, kind: torch.dtype) -> tuple[float, float]:
    """FLOP/s of products of many rows, and bytes/s of weights that products of few rows read."""
    # As many matrices as no cache holds, or as the model has: a step reads each once.
    count = max(1, min(shape.layers * 3, 2**28 // (shape.hidden * shape.ffn * kind.itemsize)))
    weights = [torch.randn(shape.hidden, shape.ffn, dtype=kind, device=place) for _ in range(count)]
    many = torch.randn(ROWS, shape.hidden, dtype=kind, device=place)

    def product(rows: torch.Tensor, of: list[torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            for weight in of:
                rows @ weight
            if place == "cuda":
                torch.cuda.synchronize()

        return run

    size, some = shape.hidden * shape.ffn, weights[:MATRICES]
    rate = 2 * ROWS * size * len(some) / _seconds(product(many, some))
    return rate, size * count * kind.itemsize / _seconds(product(many[:FEW], weights))


def _seconds(run: Callable[[], None]) -> float:
    """Of the fastest of several runs: others on this machine make some of them slower."""
    run()
    best, until = float("inf"), time.perf_counter() + PROBE_S
    while time.perf_counter() < until:
        begun = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begun)
    return best
