"""Environments and tasks that a person has in a module of the current folder: "module:object" on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamer_envs.errors import EnvError, EnvParameterError
from lamer_graph.errors import ConfigError

if TYPE_CHECKING:
    from lamer_envs import Env


def own(path: str) -> Env:
    """The environment or the tasks that a person named as "module:object", a module of the current folder too.

    Raises EnvParameterError.
    """
    from lamer_envs.registry import use

    _look_here(path)
    return use(path)


def imported(path: str) -> Any:
    """What a person named as "module:object", a module of the current folder too. Raises ConfigError."""
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise ConfigError(f"an app of your own is named as module:object, not {path[:100]!r}")
    _look_here(path)
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # what a module of anybody's raises when it is imported
        raise ConfigError(f"{path[:100]!r} cannot be imported: {type(error).__name__}: {error}") from error


def _look_here(path: str) -> None:
    """Let modules of the current folder be found. Raises ConfigError for a file's name."""
    if path.partition(":")[0].endswith(".py"):
        raise ConfigError(f"modules are named as they are imported: {path.replace('.py:', ':', 1)}, not {path}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def named(spec: str, *, look: bool = True) -> str:
    """The specification that a person gave; where it names a module and what is in there, that is imported, and looked
    at for a moment, so that one that cannot be played fails here and by name. Raises EnvError."""
    from lamer_envs import names

    first, _, rest = spec.partition(":")
    if not rest or first in names() or not all(part.isidentifier() for part in first.split(".")):
        return spec
    try:
        found = own(spec)
    except EnvError:
        if importlib.util.find_spec(first.partition(".")[0]) is not None:
            raise
        if rest.isidentifier() and rest[0].isupper():  # a class, not the settings of a name
            raise EnvParameterError(
                f"no module '{first}' lies in {Path.cwd()} or is installed: start in the folder that {first}.py lies in"
            ) from None
        return spec  # a misspelt name: `make` knows the nearest
    if look:
        _glance(found, spec)
    return found.spec


def _glance(env: Env, spec: str) -> None:
    from lamer_envs.errors import EnvCheckError
    from lamer_envs.watched import glance

    try:
        glance(env)
    except EnvCheckError as error:
        raise EnvCheckError(f"{error}; `lamer-graph env check {spec}` tries all that it promises") from None
