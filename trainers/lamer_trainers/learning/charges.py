"""What a trainer charges for an invalid action, beside what the environment does.

What must stay true: an environment's own rewards are left as they are; what is taken off besides is known from its
class alone, and is nothing only where the environment charges more for an invalid turn than for any legal one. The
authors' code takes 0.5 off in Sokoban, too, where an invalid turn costs 0.1 and three moves cost 0.3.
"""

from __future__ import annotations

import functools

from lamer_envs.errors import EnvError
from lamer_envs.registry import env_class
from lamer_trainers.errors import TrainingDataError

APPLICATIONS = frozenset({"app", "task"})
"""How specs begin of logs of applications (`lamer_graph.apps`), which charge for nothing by themselves."""


def penalty_of(spec: str, penalty: float) -> float:
    """Of the `penalty` for an invalid action what this environment leaves to the trainer: all or nothing.

    Raises TrainingDataError for an unknown environment.
    """
    return 0.0 if penalty == 0 or charges_enough(spec) else penalty


@functools.lru_cache(maxsize=64)
def charges_enough(spec: str) -> bool:
    """Whether the environment itself charges for an invalid action, and more than for any legal turn.

    Raises TrainingDataError for an unknown one.
    """
    if spec.partition(":")[0] in APPLICATIONS:
        return False
    try:
        env = env_class(spec.partition(":")[0])
    except EnvError as error:
        raise TrainingDataError(f"the log is of environment '{spec}', which is not installed here: {error}") from None
    return env.penalises_invalid and not env.invalid_is_cheap
