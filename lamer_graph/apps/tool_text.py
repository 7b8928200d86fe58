"""Tools in plain chat messages: how they are told of, how a policy calls them, and how its answer is read.

What must stay true: what a policy has said stands in later prompts as it was sampled, so that the prompt of a call
begins with that of the call before it and its answer; what tools and people say holds no control token and no mark of
a call. Reading never evaluates anything: a call is JSON or it is not readable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from lamer_graph.policies.thoughts import thoughts
from lamer_graph.policies.tool_form import CALL, CALLED, ToolForm
from lamer_graph.text import plain
from lamer_graph.trial.answers import conclusion
from lamer_graph.trial.quoting import neutral
from lamer_graph.types import Message

MAX_CALLS = 16
"""Most calls of one answer that are read."""
MAX_ARGUMENTS = 20_000
"""Longest text of a call that is read."""

TOOLS = """\
You can use these tools, each described by a line of JSON:
{tools}

To use one, write its name and its arguments as JSON between tags:
{call}{{"name": "the tool's name", "arguments": {{"an argument": "its value"}}}}{called}
Its answer comes back to you. Without such tags, what you write is your final answer."""
RESULT = "The tool {name} answers:\n{text}"
FAILED = "The tool {name} failed:\n{text}"

_CALL = re.compile(rf"{CALL}(.{{0,{MAX_ARGUMENTS}}}?){CALLED}", re.DOTALL)


def system_of(said: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """The system's words with the tools (in OpenAI's form) behind them."""
    if not tools:
        return said
    lines = "\n".join(orjson.dumps(tool.get("function", tool)).decode() for tool in tools)
    return "\n\n".join(part for part in (said, TOOLS.format(tools=lines, call=CALL, called=CALLED)) if part)


def said_first(messages: Sequence[BaseMessage], control: frozenset[str]) -> str:
    """The system's words."""
    return "\n\n".join(neutral(plain(str(m.text)), control) for m in messages if m.type == "system")


def chat_of(
    messages: Sequence[BaseMessage],
    tools: Sequence[Mapping[str, Any]],
    control: frozenset[str],
    raw_key: str,
    form: ToolForm | None = None,
) -> list[Message]:
    """LangChain's messages as a policy reads them: one system message, then user and assistant in turns.

    `form` is the policy's own for these tools and `said_first`, where it has one, ours else. What others wrote holds
    none of the `control` tokens; an answer's own words, as they were sampled, are under `raw_key` of its
    `response_metadata` where they are known.
    """
    chat: list[Message] = []
    control |= frozenset() if form is None else form.marks

    def say(role: Any, text: str, joint: str = "\n\n") -> None:
        if chat and chat[-1]["role"] == role:
            chat[-1] = Message(role=role, content=f"{chat[-1]['content']}{joint}{text}")
        else:
            chat.append(Message(role=role, content=text))

    for message in messages:
        said = plain(str(message.text))
        if message.type == "system":
            continue
        if isinstance(message, AIMessage):
            say("assistant", _answer_of(message, control, raw_key))
        elif isinstance(message, ToolMessage) and form is not None:
            say("user", f"{form.before}{neutral(said, control)}{form.behind}", form.between)
        elif isinstance(message, ToolMessage):
            ours = FAILED if message.status == "error" else RESULT
            say("user", ours.format(name=neutral(str(message.name or ""), control), text=neutral(said, control)))
        else:
            say("user", neutral(said, control))
    rules = system_of(said_first(messages, control), tools) if form is None else form.rules
    return [Message(role="system", content=rules), *chat] if rules else chat


def _answer_of(message: AIMessage, control: frozenset[str], raw_key: str) -> str:
    raw = message.response_metadata.get(raw_key)
    if isinstance(raw, str):
        return plain(raw)
    calls = [
        f"{CALL}{orjson.dumps({'name': call['name'], 'arguments': call['args']}).decode()}{CALLED}"
        for call in message.tool_calls
    ]
    return "\n".join(part for part in (neutral(plain(str(message.text)), control), *calls) if part)


def read(text: str, name: str) -> dict[str, Any]:
    """The fields of an AIMessage that says `text`: `content`, `tool_calls` and `invalid_tool_calls`.

    Nothing inside a thought is a call. Ids begin with `name`, so that they are the same when a step runs again.
    """
    spans = thoughts(text)
    calls: list[dict[str, Any]] = []
    broken: list[dict[str, Any]] = []
    found = [one for one in _CALL.finditer(text) if not any(begin <= one.start() < end for begin, end in spans)]
    for number, one in enumerate(found[:MAX_CALLS]):
        ident = f"{name}-{number}"
        call = _parsed(one[1])
        if call is None:
            broken.append({"name": None, "args": one[1], "id": ident, "error": "not JSON with name and arguments"})
        else:
            calls.append({"name": call[0], "args": call[1], "id": ident, "type": "tool_call"})
    content = text if not found else text[: found[0].start()]
    return {"content": plain(conclusion(content)).strip(), "tool_calls": calls, "invalid_tool_calls": broken}


def _parsed(text: str) -> tuple[str, dict[str, Any]] | None:
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        return None
    arguments = data.get("arguments", {})
    return (plain(data["name"]), arguments) if isinstance(arguments, dict) else None
