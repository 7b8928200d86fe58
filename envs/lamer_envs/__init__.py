"""lamer_envs: text environments behind one protocol, as pure transition functions over JSON states.

    env = make("minesweeper:6x6-3")
    state = env.reset(seed=7)
    step = env.step(state, "(1, 2)")

What must stay true: importing this package imports no environment and nothing heavy; `make` imports the one it is
asked for. The gymnasium adapter is `lamer_envs.gymnasium` and needs the extra `gym`.
"""

from lamer_envs.base import MAX_ACTION_CHARS, Env, State, Step
from lamer_envs.errors import EnvError, EnvParameterError, InstanceError, UnknownEnvError
from lamer_envs.registry import env_class, make, names

__all__ = [
    "MAX_ACTION_CHARS",
    "Env",
    "EnvError",
    "EnvParameterError",
    "InstanceError",
    "State",
    "Step",
    "UnknownEnvError",
    "env_class",
    "make",
    "names",
]
