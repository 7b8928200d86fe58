"""A node of a graph with a sync and an async door.

What must stay true: it is a bare Runnable, because LangGraph's wrappers cost more than a node's own work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig


class Node(Runnable[Any, Any]):
    """Runs `sync` or `async_` on the graph's state."""

    def __init__(self, name: str, sync: Callable[[Any], Any], async_: Callable[[Any], Awaitable[Any]]) -> None:
        self.name = name
        self.sync = sync
        self.async_ = async_

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self.sync(input)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return await self.async_(input)
