"""Training of what lamer_graph logs: credit across episodes, advantages, TRL trainers, weight sync, warm starts.

`credit` and `advantages` are pure numpy and may be used alone. Importing this package loads nothing; each name below
is imported from its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamer_trainers.learning.config import LamerConfig as LamerConfig
    from lamer_trainers.learning.source import Source as Source
    from lamer_trainers.learning.trainer import LamerTrainer as LamerTrainer
    from lamer_trainers.loop.train import train as train
    from lamer_trainers.runfile import RunFile as RunFile
    from lamer_trainers.runfile import load_run as load_run
    from lamer_trainers.sources.logs import LoggedRuns as LoggedRuns

_HOMES = {
    "LamerConfig": "lamer_trainers.learning.config",
    "LamerTrainer": "lamer_trainers.learning.trainer",
    "LoggedRuns": "lamer_trainers.sources.logs",
    "RunFile": "lamer_trainers.runfile",
    "Source": "lamer_trainers.learning.source",
    "load_run": "lamer_trainers.runfile",
    "train": "lamer_trainers.loop.train",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lamer_trainers' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
