"""The compiled graph of an agent: LangGraph's own, that refuses to stop where nothing would keep the stopped trial.

What must stay true: a trial that was stopped can be gone on with. Without a checkpointer LangGraph stops silently, and
what it returns reads like a trial that was lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.runnables.graph import Graph
from langgraph.config import get_config
from langgraph.constants import CONFIG_KEY_CHECKPOINTER
from langgraph.errors import GraphInterrupt
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel.protocol import PregelProtocol

from lamer_graph.errors import ConfigError

UNKEPT = (
    "stops a trial that nothing keeps, so that it could not go on: give a checkpointer to the agent "
    "(checkpointer=InMemorySaver()) or to the graph that it is a node of"
)


class Agent(CompiledStateGraph[Any, Any, Any, Any]):
    """Streams, and so invokes, as every compiled graph does, if it may stop only where it can go on. What its nodes run
    by calls of their own is drawn with `xray=True`."""

    @property
    def inner(self) -> Mapping[str, PregelProtocol[Any, Any, Any, Any]]:
        """The graphs that nodes run by calls of their own, which LangGraph does not see, by node."""
        return {}

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        return CompiledStateGraph.get_graph(self._open() if xray else self, config, xray=xray)

    async def aget_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        return await CompiledStateGraph.aget_graph(self._open() if xray else self, config, xray=xray)

    def _open(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """The same graph, whose nodes say what they run."""
        inner = {name: self.nodes[name].copy({"subgraphs": [graph]}) for name, graph in self.inner.items()}
        return self.copy({"nodes": {**self.nodes, **inner}})

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        self._check_stops(*args, **kwargs)
        return super().stream(*args, **kwargs)

    def astream(self, *args: Any, **kwargs: Any) -> Any:
        self._check_stops(*args, **kwargs)
        return super().astream(*args, **kwargs)

    def _check_stops(self, input: Any, config: Any = None, **kwargs: Any) -> None:
        """Raises ConfigError where it is to stop before or after a node and no checkpointer would know of it."""
        before = kwargs.get("interrupt_before") or self.interrupt_before_nodes
        after = kwargs.get("interrupt_after") or self.interrupt_after_nodes
        if not (before or after) or self.checkpointer not in (None, True, False):
            return
        if self.checkpointer is False or not _of_parent(config):
            raise ConfigError(f"{'interrupt_before' if before else 'interrupt_after'} {UNKEPT}")


@contextmanager
def kept() -> Iterator[None]:
    """For a node, whose policy may ask for an `interrupt()`. Raises ConfigError where no checkpointer would know."""
    try:
        yield
    except GraphInterrupt as stop:
        if not _of_parent(None):
            raise ConfigError(f"an interrupt() {UNKEPT}") from stop
        raise


def _of_parent(config: Any) -> Any:
    """The checkpointer of the graph around this run, or around this node, if there is one."""
    given = ensure_config(config).get("configurable", {})
    if given.get(CONFIG_KEY_CHECKPOINTER):
        return given[CONFIG_KEY_CHECKPOINTER]
    try:
        return get_config().get("configurable", {}).get(CONFIG_KEY_CHECKPOINTER)
    except RuntimeError:  # no graph runs around this one
        return None
