"""What is remembered and where: a frozen memory configuration, and backends by name.

What must stay true: a configuration that exists is a possible one (every field is checked when it is made, and two
fields that contradict each other are both named), and equal settings give equal `to_json`, so a run log can compare
them. Names of backends come from the table below and from the entry-point group `lamer_graph.memory`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, get_args

from lamer_memory.base import MemoryBackend
from lamer_memory.errors import MemoryBackendError, MemoryConfigError
from lamer_memory.utility import Select, check_share

Contents = Literal["none", "trajectory", "reflection", "both"]
Scope = Literal["trial", "tasks"]
Outcomes = Literal["any", "solved", "failed", "balanced"]
Lessons = Literal["failed", "all"]

ENTRY_POINT_GROUP = "lamer_graph.memory"
DEFAULT_K = 3
MIN_CHARS = 16
"""Smallest `max_chars`: a cut text must have room for the mark that says so."""

_BUILT_IN = {
    "in-context": "lamer_memory.in_context:InContextMemory",
    "chroma": "lamer_memory.chroma.memory:ChromaMemory",
    "store": "lamer_memory.store:StoreMemory",
}


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Contents x backend x scope. Raises MemoryConfigError where a field or a combination makes no sense.

    `contents` is what later episodes see of earlier ones; `scope="trial"` is the paper's (only this trial's own
    episodes), `"tasks"` adds up to `k` records of other trials, the most similar first: whatever they came to, or only
    of `outcomes` "solved" or "failed", or as many of the one as of the other ("balanced"). `select` says which of the
    similar ones are shown: the most similar, those of the highest measured "value", or "ucb", which weighs both and
    tries what is new; `control` is the share of trials that are shown none, so that the values of those that are shown
    can be measured (see `utility`). `lessons="all"` also asks for a reflection after a trial that was won, for other
    tasks' sake. `max_chars` bounds each recalled text. `same_task=True` recalls, under scope "tasks", what other trials
    of the very same task have left too: for an application whose users come back with it; in training the trials of a
    group would read each other's answers. `backend` is a name for `open_backend` or an open backend, which the caller
    then closes.
    """

    contents: Contents = "reflection"
    backend: str | MemoryBackend = "in-context"
    scope: Scope = "trial"
    k: int = DEFAULT_K
    max_chars: int = 2000
    outcomes: Outcomes = "any"
    same_task: bool = False
    select: Select = "similar"
    control: float = 0.0
    lessons: Lessons = "failed"

    def __post_init__(self) -> None:
        _check_choice("contents", self.contents, get_args(Contents))
        _check_choice("scope", self.scope, get_args(Scope))
        _check_choice("outcomes", self.outcomes, get_args(Outcomes))
        _check_choice("select", self.select, get_args(Select))
        _check_choice("lessons", self.lessons, get_args(Lessons))
        check_share(self.control)
        _check_least("k", self.k, 1)
        _check_least("max_chars", self.max_chars, MIN_CHARS)
        if not isinstance(self.backend, MemoryBackend) and not (isinstance(self.backend, str) and self.backend):
            raise MemoryConfigError(f"memory backend must be a name or a MemoryBackend, not {self.backend!r}")
        if self.contents == "none" and self.scope == "tasks":
            raise MemoryConfigError(
                "memory contents 'none' and scope 'tasks' exclude each other: with nothing remembered there is nothing "
                "to recall from other tasks; use scope 'trial', or contents 'trajectory', 'reflection' or 'both'"
            )
        if self.k != DEFAULT_K and self.scope == "trial":
            raise MemoryConfigError(
                f"memory k {self.k} and scope 'trial' exclude each other: it counts other tasks' records, which are "
                "not seen; use scope 'tasks'"
            )
        if self.scope == "trial":
            for name, idle, what in (
                ("outcomes", "any", "they choose among other tasks' records"),
                ("select", "similar", "it chooses among other tasks' records"),
                ("control", 0, "it holds back other tasks' records"),
                ("lessons", "failed", "what a won trial teaches is for other tasks"),
            ):
                if (value := getattr(self, name)) != idle:
                    raise MemoryConfigError(
                        f"memory {name} {value!r} and scope 'trial' exclude each other: {what}, which are not seen; "
                        "use scope 'tasks'"
                    )
        if self.lessons == "all" and self.contents == "trajectory":
            raise MemoryConfigError(
                "memory lessons 'all' and contents 'trajectory' exclude each other: a won trial would be reflected on "
                "and the reflection not kept; use contents 'reflection' or 'both'"
            )
        if not isinstance(self.same_task, bool):
            raise MemoryConfigError(f"memory same_task must be True or False, not {self.same_task!r}")
        if self.same_task and self.scope == "trial":
            raise MemoryConfigError(
                "memory same_task and scope 'trial' exclude each other: other trials' records are not seen; use scope "
                "'tasks'"
            )

    @property
    def learns(self) -> bool:
        """Whether values of records are kept: someone chooses by them, or measures them."""
        return self.select != "similar" or self.control > 0

    @classmethod
    def of(cls, value: str | MemoryConfig) -> MemoryConfig:
        """A configuration from "none", "trajectory", "reflection", "both", or itself."""
        if isinstance(value, MemoryConfig):
            return value
        return cls(contents=value)  # type: ignore[arg-type]  # checked in __post_init__

    def open(self) -> MemoryBackend:
        """The backend itself: the given one, or a new one by name."""
        return self.backend if isinstance(self.backend, MemoryBackend) else open_backend(self.backend)

    def to_json(self) -> dict[str, Any]:
        """A JSON-plain dict; a backend object appears under its registered name, or as "module:Class".

        What says nothing beyond the default is left out, so that a configuration of before it is still the same.
        """
        backend = self.backend if isinstance(self.backend, str) else _name_of(type(self.backend))
        return {
            "contents": self.contents,
            "backend": backend,
            "scope": self.scope,
            "k": self.k,
            "max_chars": self.max_chars,
            **({} if self.outcomes == "any" else {"outcomes": self.outcomes}),
            **({"same_task": True} if self.same_task else {}),
            **({} if self.select == "similar" else {"select": self.select}),
            **({"control": self.control} if self.control else {}),
            **({} if self.lessons == "failed" else {"lessons": self.lessons}),
        }


def backend_names() -> list[str]:
    """Every name that `open_backend` knows here, sorted."""
    return sorted({*_BUILT_IN, *entry_points(group=ENTRY_POINT_GROUP).names})


def open_backend(name: str, **options: Any) -> MemoryBackend:
    """A new backend by name; `options` go to its constructor, and so does what follows a colon, as first argument.

    "chroma" is an ephemeral Chroma, "chroma:runs/memory" one in a directory, "chroma:http://host:8000" a server's.
    Raises MemoryConfigError for an unknown name or an option the backend does not have, MemoryBackendError where it
    cannot be imported (an extra is missing).
    """
    kind, arguments = _find(name)
    try:
        inspect.signature(kind).bind(*arguments, **options)
    except TypeError as error:
        raise MemoryConfigError(f"memory backend '{name}': {error}; it takes {inspect.signature(kind)}") from None
    return kind(*arguments, **options)


def check_backend(name: str) -> None:
    """Raises what `open_backend` raises for a name, without opening anything."""
    _find(name)


def _find(name: str) -> tuple[type[MemoryBackend], tuple[str, ...]]:
    """A backend's class and its first argument."""
    known, _, place = (name, "", "") if name in backend_names() else name.partition(":")
    kind = _load(known)
    if not (isinstance(kind, type) and issubclass(kind, MemoryBackend)):
        raise MemoryConfigError(f"memory backend '{name}' is {kind!r}; it must be a subclass of MemoryBackend")
    return kind, (place,) if place else ()


def _load(name: str) -> object:
    try:
        if name in _BUILT_IN:
            module, _, attribute = _BUILT_IN[name].partition(":")
            return getattr(import_module(module), attribute)
        for entry in entry_points(group=ENTRY_POINT_GROUP, name=name):
            return entry.load()
    except ImportError as error:
        raise MemoryBackendError(
            f"memory backend '{name}' cannot be imported ({error}); install what it needs"
        ) from error
    names = backend_names()
    near = get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise MemoryConfigError(f"unknown memory backend '{name}'; {hint}known: {', '.join(names)}")


def _name_of(kind: type) -> str:
    path = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, target in _BUILT_IN.items() if target == path), path)


def _check_choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = get_close_matches(str(value), choices, n=1, cutoff=0.4)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise MemoryConfigError(f"memory {field} must be one of {', '.join(choices)}, not {value!r}{hint}")


def _check_least(field: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise MemoryConfigError(f"memory {field} must be a whole number of at least {least}, not {value!r}")
