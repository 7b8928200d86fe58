"""lamer_envs: text environments behind one protocol, as pure transition functions over JSON states.

    env = make("minesweeper:6x6-3")
    state = env.reset(seed=7)
    step = env.step(state, "(1, 2)")

What must stay true: importing this package imports no environment and nothing heavy; `make` imports the one it is
asked for, `check_env` is loaded when it is used. Adapters: `lamer_envs.gymnasium` (extra `gym`) and
`lamer_envs.openenv` (extra `openenv`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lamer_envs.base import MAX_ACTION_CHARS, Env, State, Step
from lamer_envs.errors import (
    EnvCheckError,
    EnvError,
    EnvParameterError,
    InstanceError,
    NotOfferedError,
    UnknownEnvError,
)
from lamer_envs.registry import env_class, make, names

if TYPE_CHECKING:
    from lamer_envs.checker import check_env

__all__ = [
    "MAX_ACTION_CHARS",
    "Env",
    "EnvCheckError",
    "EnvError",
    "EnvParameterError",
    "InstanceError",
    "NotOfferedError",
    "State",
    "Step",
    "UnknownEnvError",
    "check_env",
    "env_class",
    "make",
    "names",
]


def __getattr__(name: str) -> Any:
    if name == "check_env":
        from lamer_envs.checker import check_env

        return check_env
    raise AttributeError(f"module 'lamer_envs' has no attribute {name!r}")
