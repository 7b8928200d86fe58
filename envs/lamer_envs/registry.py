"""The one registry of environments: built-ins, and plug-ins found through the entry-point group `lamer_graph.envs`.

What must stay true: looking a name up imports that environment and no other, and a spec (`name` or `name:params`)
is all it takes to make an equal environment again: `make(env.spec) == env`.
"""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lamer_envs.base import Env
from lamer_envs.errors import EnvParameterError, UnknownEnvError
from lamer_envs.parameters import known_parameters, nearest

GROUP = "lamer_graph.envs"

BUILT_INS: dict[str, str] = {
    "alfworld": "lamer_envs.alfworld:Alfworld",
    "minesweeper": "lamer_envs.minesweeper:Minesweeper",
    "sokoban": "lamer_envs.sokoban:Sokoban",
    "webshop": "lamer_envs.webshop:Webshop",
}
"""Known without installed metadata, so that a source tree on the path works too. A plug-in cannot replace them."""


@lru_cache(maxsize=1)
def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_INS}


def names() -> list[str]:
    """The names of all environments, built in and installed, sorted."""
    return sorted({*BUILT_INS, *_plugins()})


def env_class(name: str) -> type[Env]:
    """The class behind a name, imported now. Raises UnknownEnvError, and EnvParameterError for a broken plug-in."""
    if name in BUILT_INS:
        module, _, attribute = BUILT_INS[name].partition(":")
        found: Any = getattr(import_module(module), attribute)
    elif name in _plugins():
        point = _plugins()[name]
        try:
            found = point.load()
        except Exception as error:
            raise EnvParameterError(f"environment '{name}' ({point.value}) cannot be loaded: {error}") from error
    else:
        near = get_close_matches(name.lower(), names(), n=1, cutoff=0.0)
        raise UnknownEnvError(
            f"no environment is called '{name[:40]}'; did you mean '{near[0]}'? Known: {', '.join(names())}"
        )
    if not (isinstance(found, type) and issubclass(found, Env)):
        raise EnvParameterError(f"environment '{name}' must name a subclass of lamer_envs.Env, not {found!r}")
    if inspect.isabstract(found):
        lacks = ", ".join(sorted(found.__abstractmethods__))
        raise EnvParameterError(f"environment '{name}' is not whole: {found.__name__} still has to write {lacks}")
    return found


def make(spec: str, /, **params: Any) -> Env:
    """An environment from its name and parameters, or from a spec.

    `make("minesweeper")`, `make("minesweeper", size=6, mines=3)` and `make("minesweeper:6x6-3")` are equal. Raises
    UnknownEnvError for a name that nothing has, naming the nearest, and EnvParameterError for wrong parameters.
    """
    if not isinstance(spec, str):
        raise EnvParameterError(f"an environment is named by text such as 'minesweeper:6x6-3', not {spec!r}")
    name, colon, text = spec.partition(":")
    cls = env_class(name.strip())
    if params and colon:
        raise EnvParameterError(f"'{spec[:60]}' already holds parameters; give the others there or all as keywords")
    known = known_parameters(cls)
    for key in params:
        if key not in known:
            raise EnvParameterError(f"{name} has no parameter '{key}'{nearest(key, known)}")
    made: object = cls(**params) if params else cls.from_spec(text.strip())
    if not isinstance(made, Env):
        raise EnvParameterError(f"`from_spec` of '{name}' must return an environment, not {type(made).__name__}")
    if made.name not in names() and name.strip() in _plugins():
        raise EnvParameterError(f"environment '{name}' calls itself '{made.name}', which nothing is registered as")
    return made
