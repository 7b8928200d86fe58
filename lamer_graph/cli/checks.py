"""What several commands refuse before any work, and the folder that a run gets where none is named."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from lamer_graph.errors import ConfigError

TRAINING_NEEDS = ("torch", "transformers", "trl", "peft")
"""What a training imports."""


def check_installed(what: str, modules: Iterable[str]) -> None:
    """Raises ConfigError where one of the libraries of the extra `train`, which `what` needs, is not here."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"{what} needs {module}: run `make setup`, or pip install 'lamer-graph[train]'")


def check_new(folder: Path, instead: str = "choose another folder") -> None:
    """Raises ConfigError, and says what to do `instead`, where there is something at --out already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out {folder} exists already; {instead}")


def run_folder(out: Path | None, kind: str, resume: bool = False) -> Path:
    """--out, or a new folder of its `kind` under runs/. Raises ConfigError for a --resume of no folder."""
    if resume and out is None:
        raise ConfigError("--resume needs --out DIR, the folder of the run to go on with")
    return out or Path("runs") / f"{kind}-{datetime.now():%Y%m%d-%H%M%S-%f}"
