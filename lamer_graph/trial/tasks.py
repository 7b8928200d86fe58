"""What a task is, and its first state.

What must stay true: a task is data from outside (an agent's input, a line of a log), so its types are checked before
anything is played and no text in it is ever the name of a file: files are read where a person named one, in code or on
a command line, and what they hold is then given as an instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from lamer_envs.base import Env, State
from lamer_graph.errors import ConfigError
from lamer_graph.text import plain, plain_json
from lamer_graph.types import stable_seed

_FORM = '{"seed": int} or {"instance": {...}}, one of the two'


def checked(task: Any) -> dict[str, Any]:
    """The task, where it is one: `{"seed": int}` or `{"instance": {...}}`, optionally `"trial": int`.

    Raises ConfigError for anything else.
    """
    if not isinstance(task, Mapping) or (task.get("seed") is None) == (task.get("instance") is None):
        raise ConfigError(f"a task is {_FORM}, not {_shown(task)}")
    index = task.get("trial", 0)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1 << 63:
        raise ConfigError(f"task['trial'] must be a whole number of at least 0, not {_shown(index)}")
    if task.get("seed") is not None:
        check_seed("task['seed']", task["seed"])
        return plain_json(dict(task))
    return plain_json({**task, "instance": instance_of(task["instance"])})


def check_seed(name: str, seed: Any) -> None:
    """Raises ConfigError for what is no seed: a whole number of 64 bits, the most that checkpoints and logs hold."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not -(1 << 63) <= seed < 1 << 63:
        raise ConfigError(f"{name} must be a whole number (of at most 64 bits), not {_shown(seed)}")


def start_of(env: Env, task: Mapping[str, Any]) -> State:
    """The first state of a checked task. Raises ConfigError and the environment's errors."""
    given = task.get("instance")
    return env.reset(task["seed"]) if given is None else env.load(instance_of(given))


def instance_of(given: Any) -> dict[str, Any]:
    """An explicit instance as the object that it must be. Raises ConfigError, for a path above all."""
    data = given
    if isinstance(given, str):
        try:
            data = orjson.loads(given)
        except ValueError:
            data = None
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise ConfigError(
            f"task['instance'] must be a JSON object, not {_shown(given)}; of a file give what it holds, not its path"
        )
    return dict(data)


def task_id_of(env: Env, task: Mapping[str, Any]) -> str:
    """Stable name of a task: the environment's spec and the seed, or a digest of the explicit instance."""
    if task.get("instance") is not None:
        try:
            text = orjson.dumps(plain_json(instance_of(task["instance"])), option=orjson.OPT_SORT_KEYS).decode()
        except TypeError as error:
            raise ConfigError(f"task['instance'] must be a JSON object: {error}") from None
        return f"{env.spec}/i{stable_seed(text):016x}"
    return f"{env.spec}/{task['seed']}"


def trial_id_of(task_id: str, index: int, unique: str = "", number: int = 1) -> str:
    """What a trial is known by, in logs, memories and resumes: task, index, and the thread or run that it belongs to.

    `number` counts the trials of a thread, of which none may pass for another.
    """
    return f"{task_id}#{index}" + (f".{number}" if number > 1 else "") + (f"@{plain(unique)}" if unique else "")


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else text[:100] + ".."
