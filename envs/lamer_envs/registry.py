"""The one registry of environments: built-ins, and plug-ins found through the entry-point group `lamer_graph.envs`.

An environment that nobody packaged is named by where it is, "module:Class" or "module:object", and known from then on.

What must stay true: only `use` imports what a text names, because a person gave that text (on a command line, in code);
`make` never does, whose specs also come out of logs. Looking a name up imports that environment and no other, and a
spec (`name` or `name:params`) is all it takes to make an equal environment again: `make(env.spec) == env`.
"""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lamer_envs.base import Env
from lamer_envs.errors import EnvError, EnvParameterError, UnknownEnvError
from lamer_envs.parameters import known_parameters, nearest

GROUP = "lamer_graph.envs"

BUILT_INS: dict[str, str] = {
    "alfworld": "lamer_envs.alfworld:Alfworld",
    "minesweeper": "lamer_envs.minesweeper:Minesweeper",
    "sokoban": "lamer_envs.sokoban:Sokoban",
    "webshop": "lamer_envs.webshop:Webshop",
}
"""Known without installed metadata, so that a source tree on the path works too. A plug-in cannot replace them."""


_CLASSES: dict[str, type[Env]] = {}
_MADE: dict[str, Env] = {}
_USED: list[str] = []
"""What `use` and `add` have made known in this process: classes by name, environments by spec."""


def add(env: Env, *names: str) -> None:
    """Make an environment known to `make` by its spec, and by other `names`. Raises EnvParameterError for a built-in's
    or plug-in's name."""
    if env.name in BUILT_INS or env.name in _plugins():
        raise EnvParameterError(f"'{env.name}' is an environment that is registered already: give yours another name")
    _CLASSES[env.name] = type(env)
    _MADE.update(dict.fromkeys((env.spec, *names), env))


def use(path: str) -> Env:
    """The environment at "module:Class", "module:Class:parameters" or "module:object", imported now; `make` knows it
    from then on. Only for text that a person gave.

    Raises EnvParameterError where there is none.
    """
    module, _, rest = path.partition(":")
    attribute, _, params = rest.partition(":")
    if not module or not attribute:
        raise EnvParameterError(f"an environment of your own is named as module:object, not '{path[:60]}'")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # what a module of anybody's raises when it is imported
        raise EnvParameterError(f"'{path[:60]}' cannot be imported: {type(error).__name__}: {error}") from error
    if isinstance(found, type) and issubclass(found, Env):
        if inspect.isabstract(found):
            lacks = ", ".join(sorted(found.__abstractmethods__))
            raise EnvParameterError(f"'{path[:60]}' is not whole: {found.__name__} still has to write {lacks}")
        _CLASSES[found.name] = found
        try:
            found = found.from_spec(params.strip())
        except EnvError:
            raise
        except Exception as error:  # what a constructor of anybody's raises
            raise EnvParameterError(f"'{path[:60]}' cannot be made: {type(error).__name__}: {error}") from error
    elif params:
        raise EnvParameterError(f"'{module}:{attribute}' is made already: give no parameters")
    if not isinstance(found, Env):
        raise EnvParameterError(
            f"'{path[:60]}' must be a subclass or an object of lamer_envs.Env, not a {type(found).__name__}"
        )
    add(found, path)
    if path not in _USED:
        _USED.append(path)
    return found


def used() -> tuple[str, ...]:
    """What `use` has imported in this process, for another that is to know the same."""
    return tuple(_USED)


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
    elif name in _CLASSES:
        return _CLASSES[name]
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
    if spec in _MADE and not params:
        return _MADE[spec]
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
