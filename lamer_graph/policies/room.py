"""Whether weights fit the memory that is free, known from their files' headers before any is read.

What must stay true: what is said to be needed is allocated for certain (weights in the type that they are loaded in,
and what their caller adds), so nothing that would fit is refused; what is free is free now, of the machine or of the
container that this runs in.
"""

from __future__ import annotations

import math
from pathlib import Path

from lamer_graph.errors import ConfigError
from lamer_graph.policies.fingerprint import tensors_of

GIB = 2**30
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of safetensors' types that loading turns into the one that is asked for."""
CGROUP = Path("/sys/fs/cgroup")


def weight_bytes(folder: Path, size: int | None = None) -> int:
    """Bytes of a model folder's weights with `size` for each (None: as they are stored). Raises ConfigError."""
    stored = tensors_of(folder).values()
    if size is None:
        return sum(tensor.size for tensor in stored)
    return sum(math.prod(tensor.shape) * size if tensor.dtype in FLOATS else tensor.size for tensor in stored)


def free_bytes(place: str = "cpu") -> int:
    """Bytes that are free on a device of torch: `cpu`, `cuda`, `cuda:1`."""
    if not place.startswith("cpu"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(place))[0])
    import psutil

    return min(int(psutil.virtual_memory().available), _left_to_the_container())


def check_room(what: str, needs: int, place: str, instead: str) -> None:
    """Raises ConfigError if `what` needs more bytes than are free at `place`; `instead` says what could be done."""
    free = free_bytes(place)
    if needs > free:
        raise ConfigError(
            f"{what} needs {needs / GIB:.1f} GiB of memory on {place}, where {free / GIB:.1f} GiB are free: {instead}"
        )


def _left_to_the_container(root: Path = CGROUP) -> int:
    """What control groups (version 2) leave to this process, files in the cache counted as free; else a lot."""
    try:
        most = int((root / "memory.max").read_text())
        used = int((root / "memory.current").read_text())
        lines = (root / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return 2**62
    cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return max(0, most - used + cached)
