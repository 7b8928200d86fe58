"""Tools that must not run again: a payment, a letter, whatever cannot be taken back.

What must stay true: a call of such a tool that was in flight when its process died is not made again. The agent is told
that nobody knows whether it took effect. A call that has an answer in the checkpoint is never made again anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.config import get_config
from langgraph.constants import CONFIG_KEY_CHECKPOINTER

from lamer_graph.errors import ConfigError

T = TypeVar("T", bound=BaseTool)
INTERRUPT = "__interrupt__"
"""LangGraph's channel of what a step asks a person."""
CUT_KEY = "lamer_cut_calls"
"""Key of `config["configurable"]` under which the ids of the calls are that were in flight when the attempt was cut
short."""
UNKNOWN = (
    "This call was cut short by a restart, and is not made again. Whether it took effect is not known: find that out "
    "before you call it once more."
)


def once(tool: T) -> T:
    """The tool, whose calls are never repeated when a killed attempt is gone on with; the agent is told so instead.

    It takes a checkpointer: nobody else knows which calls were in flight. `task_agent` does this to every tool whose
    `metadata` or `extras` say `restorable: False`. Raises ConfigError for what is no tool of LangChain's.
    """
    if not isinstance(tool, BaseTool):
        raise ConfigError(f"once= takes a tool of LangChain's, made by @tool for one, not a {type(tool).__name__}")
    made = tool.model_copy()
    # Its own class, with a door: agents look at a tool's schema, function and annotations, which all stay.
    made.__class__ = type(type(tool).__name__, (_Once, type(tool)), {"__module__": __name__})
    return made


def is_marked(tool: Any) -> bool:
    """Whether a tool says of itself that it must not run again."""
    marks = (getattr(tool, "metadata", None), getattr(tool, "extras", None))
    return any(isinstance(one, Mapping) and one.get("restorable") is False for one in marks)


class _Once(BaseTool):
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        refusal = self._refusal(input, config)
        return super().invoke(input, config, **kwargs) if refusal is None else refusal

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        refusal = self._refusal(input, config)
        return await super().ainvoke(input, config, **kwargs) if refusal is None else refusal

    def _refusal(self, input: Any, config: RunnableConfig | None) -> ToolMessage | None:
        cut = ((config or {}).get("configurable") or {}).get(CUT_KEY, ())
        name = input.get("id") if isinstance(input, Mapping) else None
        if name is None or name not in cut:
            return None
        return ToolMessage(UNKNOWN, tool_call_id=name, name=self.name, status="error")


def cut_calls() -> frozenset[str]:
    """The calls that were in flight when the attempt that now goes on was cut short; for the attempt's node."""
    saver, config = _where()
    return frozenset() if saver is None else _in_flight(saver.get_tuple(config))


async def acut_calls() -> frozenset[str]:
    """`cut_calls`, async."""
    saver, config = _where()
    return frozenset() if saver is None else _in_flight(await saver.aget_tuple(config))


def _where() -> tuple[BaseCheckpointSaver[Any] | None, RunnableConfig]:
    """The checkpointer of the running node, and where the graph that it runs has its checkpoints."""
    configurable = get_config().get("configurable", {})
    saver, place = configurable.get(CONFIG_KEY_CHECKPOINTER), configurable.get("checkpoint_ns")
    thread = configurable.get("thread_id")
    kept = isinstance(saver, BaseCheckpointSaver) and place and thread is not None
    return (saver if kept else None), {"configurable": {"thread_id": thread, "checkpoint_ns": place}}


def _in_flight(found: CheckpointTuple | None) -> frozenset[str]:
    """The tool calls of a checkpoint that have no answer. None where it stopped to ask a person: what asked goes on by
    being run again."""
    if found is None or any(channel == INTERRUPT for _, channel, _ in found.pending_writes or ()):
        return frozenset()
    messages = found.checkpoint["channel_values"].get("messages", ())
    asked = [call["id"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls if call["id"]]
    answered = {m.tool_call_id for m in messages if isinstance(m, ToolMessage)}
    return frozenset(asked) - answered
