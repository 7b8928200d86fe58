"""`with_retries`: any compiled graph as the episode of a trial.

`open -> attempt -> grade -> (finish | reflect -> [review] -> remember -> attempt ..)`.

What must stay true: every attempt starts from the caller's messages, never from a failed transcript; only the final
answer is added to them. The attempt is a nested graph, grade, reflection and a person's review are steps of their own,
so that a killed application goes on at the last one that was finished. State is what any checkpointer holds: messages
and JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast, get_args

from langchain_core.messages import AnyMessage
from langchain_core.runnables import Runnable
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import PregelProtocol
from langgraph.types import Checkpointer
from typing_extensions import TypedDict

from lamer_graph.agent.node import Node
from lamer_graph.agent.person import Review, check_review
from lamer_graph.agent.stops import Agent
from lamer_graph.apps.attempt import OnError, Runner
from lamer_graph.apps.checking import check_graph, check_numbers, through_of
from lamer_graph.apps.grading import Grader, check_function
from lamer_graph.apps.lessons import Inject
from lamer_graph.apps.lines import Lines
from lamer_graph.apps.nodes import Nodes, Ways
from lamer_graph.apps.states import RetryInput, RetryOutput, RetryState
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Policy
from lamer_graph.trial.keeping import Keeper
from lamer_graph.trial.whose import as_namespace
from lamer_memory import MemoryConfig

TIMEOUT_S = 120.0
"""How long a grader or a reflector may take."""


def with_retries(
    graph: PregelProtocol[Any, Any, Any, Any],
    *,
    grade: Grader,
    reflect: Runnable[Any, Any] | Policy | Callable[[str, str], Any] | None = None,
    max_attempts: int = 3,
    attempt_timeout: float | None = None,
    recursion_limit: int = 25,
    inject: Inject = "system",
    memory: str | MemoryConfig = "reflection",
    user: str = "user_id",
    namespace: str | Sequence[str] | None = None,
    log: Lines | None = None,
    on_error: OnError = "fail_attempt",
    review: Review | None = None,
    timeout: float = TIMEOUT_S,
    enter: Callable[[list[AnyMessage], list[str]], Any] | None = None,
    leave: Callable[[Any], Any] | None = None,
    checkpointer: Checkpointer = None,
    name: str | None = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The graph with retries: it tries a task up to `max_attempts` times, and each failure teaches the next attempt.

    `graph` is a compiled LangGraph graph over `messages`, unchanged, of `create_agent` for one. `grade(task, result)`
    says what an attempt came to: `task` is what the application was invoked with, as far as the graph's state has keys
    for it (what else a grader must know it finds with LangGraph's `get_config`), `result` the graph's final state; it
    returns a Grade, a bool or a number (1 solves the task), sync or async. A grader that raises, hangs for `timeout`
    seconds or returns NaN raises GradeError, and never counts as a failure.

    `reflect` writes what a failed attempt has taught: a chat model, a Policy, or a function
    `(transcript, feedback) -> text`; memory "none" and "trajectory" take none. Lessons enter the next attempt by
    `inject`: as one message ahead of the others ("system" or "user"), through a function `(messages, lessons) ->
    messages`, or as a text under another key of the graph's state. `memory` is contents or a MemoryConfig; of scope
    "tasks" it also recalls what other tasks of this application (its `name`) taught, within the namespace of the user
    that `config={"configurable": {user: ..}}` names, else `namespace`.

    A tool's exception, `recursion_limit` steps or `attempt_timeout` seconds make a failed attempt with its `error`
    (`on_error="raise"` raises it; a tool that is not async goes on in its thread until it returns); a model server's or
    memory's failure raises, and the same thread goes on with `invoke(None, config)`. What was in flight runs again:
    tools find the attempt's id, the same both times, in `config["configurable"]["attempt_id"]`. `review="reflection"`
    stops with an `interrupt` that carries the proposed reflection; `Command(resume=text)` is what is remembered, a
    blank text nothing.

    For graphs without `messages`: `enter(messages, lessons)` gives the graph's input, `leave(result)` the messages of
    an attempt that has come to its end, or its answer as a text. Other keys of the graph's input and output pass
    through. `log` keeps every trial. Without a `checkpointer` the graph's own is used.

    Returns a compiled graph: `invoke({"messages": [("user", "..")]})` gives `{"messages", "attempts", "reflections",
    "success"}`; the custom stream has an event per message, attempt and reflection. Raises ConfigError and
    MemoryConfigError for what cannot work.
    """
    check_graph(graph, enter, leave, inject)
    check_function("grade", grade, "task, result")
    check_numbers(max_attempts, attempt_timeout, recursion_limit, timeout)
    if on_error not in get_args(OnError):
        raise ConfigError(f"on_error must be one of {', '.join(get_args(OnError))}, not {on_error!r}")
    config = MemoryConfig.of(memory)
    keeper = Keeper(memory=config, backend=config.open())
    if keeper.reflects and reflect is None:
        raise ConfigError(
            f"memory '{config.contents}' keeps reflections and nobody writes any: give reflect=model, or a function "
            "(transcript, feedback) -> text; or memory='trajectory'"
        )
    if reflect is not None and not (isinstance(reflect, Policy | Runnable) or callable(reflect)):
        raise ConfigError(
            f"reflect must be a chat model, a Policy or a function (transcript, feedback) -> text, not {reflect!r:.100}"
        )
    if name is not None and not (isinstance(name, str) and name.strip() and name.isprintable()):
        raise ConfigError(f"name must be a text that is not empty, not {name!r:.100}")
    if not (checkpointer is None or isinstance(checkpointer, bool | BaseCheckpointSaver)):
        raise ConfigError(f"checkpointer must be a saver of LangGraph's, not a {type(checkpointer).__name__}")
    if reflect is not None and not keeper.reflects:
        raise ConfigError(f"reflect= would do nothing: memory '{config.contents}' keeps no reflections")
    check_review(review, keeper)
    if log is not None and not isinstance(log, Lines):
        raise ConfigError(f"log must be a RunLog, such as RunLog.create('runs/prod', resume=True), not {log!r:.100}")
    if not isinstance(user, str) or not user:
        raise ConfigError(f"user names the key of config['configurable'] that says whose memory it is, not {user!r}")
    own = graph.checkpointer if isinstance(graph, Pregel) else None
    if isinstance(graph, Pregel) and graph.checkpointer:
        # One thread's attempts must not see each other's state: their checkpoints belong to this graph's.
        graph = graph.copy({"checkpointer": None})
    nodes = Nodes(
        runner=Runner(graph, recursion_limit, attempt_timeout, on_error),
        ways=Ways(grade, reflect, inject, enter, leave, review, timeout),
        keeper=keeper,
        user=user,
        namespace=None if namespace is None else as_namespace(namespace, "namespace"),
        log=log,
        max_attempts=max_attempts,
        through=through_of(graph),
        name=name or _name_of(graph),
    )
    if checkpointer is None and isinstance(own, BaseCheckpointSaver):
        checkpointer = own
    return _compiled(nodes, graph, checkpointer)


def _name_of(graph: Any) -> str:
    """The graph's name, unless it is LangGraph's for one without."""
    given = getattr(graph, "name", None)
    return given if isinstance(given, str) and given not in ("", "LangGraph") else "app"


class RetryApp(Agent):
    """The compiled graph, with room for all its attempts whatever recursion limit a caller or a parent graph has."""

    @property
    def _ours(self) -> Nodes:
        return cast(Nodes, cast(Any, self.nodes["open"].bound).sync.__self__)

    @property
    def inner(self) -> Mapping[str, PregelProtocol[Any, Any, Any, Any]]:
        return {"attempt": self._ours.runner.graph}

    @property
    def steps_needed(self) -> int:
        """Supersteps that a trial takes at most: every node once an attempt, and a few."""
        return 5 + len(self.nodes) * self._ours.max_attempts

    @property
    def user_key(self) -> str:
        """The key of `config["configurable"]` that says whose memory it is."""
        return self._ours.user

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        return super().stream(input, self._roomy(config), **kwargs)

    def astream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        return super().astream(input, self._roomy(config), **kwargs)

    def _roomy(self, config: Any) -> Any:
        given = dict(config or {})
        return {**given, "recursion_limit": max(given.get("recursion_limit") or 0, self.steps_needed)}


def _compiled(nodes: Nodes, graph: PregelProtocol[Any, Any, Any, Any], checkpointer: Checkpointer) -> RetryApp:
    def schema(base: type, extra: Sequence[str]) -> Any:
        return TypedDict(base.__name__, {**base.__annotations__, **dict.fromkeys(extra, Any)}, total=False)  # type: ignore[operator]

    ins, outs = nodes.through
    built: StateGraph[Any, Any, Any, Any] = StateGraph(
        schema(RetryState, [*dict.fromkeys((*ins, *outs))]),
        context_schema=getattr(graph, "context_schema", None),
        input_schema=schema(RetryInput, ins),
        output_schema=schema(RetryOutput, outs),
    )
    built.add_node("open", Node("open", nodes.open, nodes.aopen))
    built.add_node("attempt", Node("attempt", nodes.attempt, nodes.aattempt))
    built.add_node("grade", Node("grade", nodes.grade, nodes.agrade))
    built.add_node("finish", Node("finish", nodes.finish, nodes.afinish))
    built.add_edge(START, "open")
    built.add_edge("open", "attempt")
    built.add_edge("attempt", "grade")
    built.add_edge("finish", END)
    path = ["attempt"]
    if nodes.keeper.remembers:
        built.add_node("remember", Node("remember", nodes.remember, nodes.aremember))
        path = ["remember", *path]
    if nodes.ways.review:
        built.add_node("review", Node("review", nodes.review, nodes.areview))
        path = ["review", *path]
    if nodes.keeper.reflects:
        built.add_node("reflect", Node("reflect", nodes.reflect, nodes.areflect))
        path = ["reflect", *path]
    teaching = nodes.keeper.memory.lessons == "all"
    for here, there in pairwise(path):
        if here == "remember" and teaching:
            built.add_conditional_edges(
                here, lambda state: "finish" if nodes.is_over(state) else "attempt", ["finish", "attempt"]
            )
        else:
            built.add_edge(here, there)

    def route(state: RetryState) -> str:
        return "finish" if nodes.is_over(state) and not nodes.teaches(state) else path[0]

    built.add_conditional_edges("grade", route, ["finish", path[0]])
    compiled = built.compile(
        checkpointer=checkpointer,
        store=getattr(graph, "store", None),
        cache=getattr(graph, "cache", None),
        name=nodes.name,
    )
    return RetryApp(**vars(compiled))
