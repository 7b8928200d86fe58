"""Tool calls as models write them, in OpenAI's form: what LangChain takes, and what it would stumble over.

What must stay true: what a model got wrong is a call that is not readable, never an error of whoever reads it. The
arguments of a call are an object in JSON; models also write other JSON, and no JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, InvalidToolCall, convert_to_messages

from lamer_graph.text import loads


def readable(calls: Any) -> tuple[list[Any], list[InvalidToolCall]]:
    """The calls that can be read, and the others as LangChain notes them."""
    good: list[Any] = []
    bad: list[InvalidToolCall] = []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(arguments, dict) or (isinstance(arguments, str) and _is_object(arguments)):
            good.append(call)
            continue
        name = function.get("name") if isinstance(function, dict) else None
        told = arguments if isinstance(arguments, str) else str(arguments)
        why = "arguments are no JSON object"
        ident = call.get("id") if isinstance(call, dict) else None
        bad.append(InvalidToolCall(name=name, args=told, id=ident, error=why, type="invalid_tool_call"))
    return good, bad


def as_messages(given: Sequence[Any]) -> list[BaseMessage]:
    """OpenAI's messages as LangChain's. An assistant that calls tools need not say anything. Raises what LangChain
    raises for what is no message."""
    found: list[BaseMessage] = []
    for one in given:
        bad: list[InvalidToolCall] = []
        if isinstance(one, dict) and one.get("tool_calls"):
            good, bad = readable(one["tool_calls"])
            one = {"content": "", **one, "tool_calls": good or None}
        (message,) = convert_to_messages([one])
        if bad and isinstance(message, AIMessage):
            message.invalid_tool_calls = bad
        found.append(message)
    return found


def _is_object(text: str) -> bool:
    try:
        return isinstance(loads(text.encode()), dict)
    except ValueError:
        return False
