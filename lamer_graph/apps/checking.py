"""What `with_retries` is given, checked before anything is played."""

from __future__ import annotations

from typing import Any, NamedTuple

from langgraph.graph import StateGraph
from langgraph.pregel.protocol import PregelProtocol

from lamer_graph.apps.grading import check_function
from lamer_graph.apps.states import OURS
from lamer_graph.errors import ConfigError


class Through(NamedTuple):
    """Keys of the graph's state beside messages that come in with the caller's input, and go out with the result."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def check_numbers(max_attempts: Any, attempt_timeout: Any, recursion_limit: Any, timeout: Any) -> None:
    for name, value in (("max_attempts", max_attempts), ("recursion_limit", recursion_limit)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
    for name, value in (("attempt_timeout", attempt_timeout), ("timeout", timeout)):
        if value is None and name == "attempt_timeout":
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e9:
            raise ConfigError(f"{name} must be a number of seconds above 0, not {value!r}")


def check_graph(graph: Any, enter: Any, leave: Any, inject: Any) -> None:
    if isinstance(graph, StateGraph):
        raise ConfigError("graph is not compiled: with_retries(graph.compile(), ..)")
    if not isinstance(graph, PregelProtocol):
        raise ConfigError(f"graph must be a compiled LangGraph graph, not a {type(graph).__name__}")
    for name, function, takes in (("enter", enter, "messages, lessons"), ("leave", leave, "result")):
        if function is not None:
            check_function(name, function, takes)
    channels = _keys_of(graph)
    if channels is not None and "messages" not in channels and (enter is None or leave is None):
        raise ConfigError(
            f"the graph's state has no 'messages', but {', '.join(sorted(channels))}: give enter=(messages, lessons) "
            "-> its input and leave=(result) -> messages, or the answer as a text"
        )
    if channels is not None and (clash := sorted((channels - {"messages"}) & OURS)) and enter is None:
        raise ConfigError(f"the graph's state has keys of ours ({', '.join(clash)}): give enter= and leave=")
    if not callable(inject) and not (isinstance(inject, str) and inject):
        raise ConfigError(f"inject must be 'system', 'user', a function or a key of the graph's state, not {inject!r}")
    if isinstance(inject, str) and inject not in ("system", "user") and channels is not None and inject not in channels:
        raise ConfigError(
            f"inject {inject!r} is neither 'system', 'user' nor a key of the graph's state, which has "
            f"{', '.join(sorted(channels))}"
        )
    if enter is not None and inject != "system":
        raise ConfigError("inject= would do nothing: enter= is given the lessons and makes the whole input")


def _keys_of(graph: Any) -> set[str] | None:
    """The keys of a graph's state, where it can be looked at."""
    builder = getattr(graph, "builder", None)
    return set(builder.channels) if builder is not None else None


def through_of(graph: Any) -> Through:
    """What of the graph's input and output passes through, beside messages."""
    builder = getattr(graph, "builder", None)
    if builder is None or "messages" not in builder.channels:
        return Through()
    ins = builder.schemas.get(builder.input_schema, {})
    outs = builder.schemas.get(builder.output_schema, {})
    return Through(tuple(k for k in ins if k not in OURS), tuple(k for k in outs if k not in OURS))
