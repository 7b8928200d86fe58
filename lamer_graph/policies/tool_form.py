"""Tools in the words of a policy's own chat template, where it has some: what it was trained on.

A template is asked with tools and without, and what it says of them is taken out of what it renders. So prompts stay
messages of a role and a text, which render to what the template makes of tools.

What must stay true: a form is used only where it was found to render to the very same text; else there is none, and
tools are told of in words of ours (`apps.tool_text`). Calls are read in one form, Hermes' and Qwen's (JSON between
tags).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lamer_graph.types import Message

CALL, CALLED = "<tool_call>", "</tool_call>"
_WORDS = "What somebody says: 7303."
_ANSWER = "What the policy says: 7304."
_FIRST, _SECOND = "What a tool says: 7305.", "What another says: 7306."
_MARK = re.compile(r"</?\w+>")

Render = Callable[[Sequence[Any], Sequence[Mapping[str, Any]] | None], str]
"""The text that a template makes of messages (also of role "tool") and tools. Raises what templates raise."""


class ToolForm(NamedTuple):
    """`rules` is the system message of some words and the tools; a tool's answer is a user message between `before`
    and `behind`, several are joined by `between`. `marks` may stand in no text of others."""

    rules: str
    before: str
    behind: str
    between: str
    marks: frozenset[str]


def tool_form(render: Render, said: str, tools: Sequence[Mapping[str, Any]]) -> ToolForm | None:
    """The form of the template behind `render` for a system message that says `said`; None where it has none that is
    read here, or takes no system message."""
    try:
        rules = _between(render, tools, [_system(said)] if said else [])
        first = _answer(render, [_tool(_FIRST)])
        both = _answer(render, [_tool(_FIRST), _tool(_SECOND)])
    except Exception:  # templates raise whatever jinja or their own rules say
        return None
    if rules is None or first is None or both is None or CALL not in rules:
        return None
    before, found, behind = first.partition(_FIRST)
    head, tail = f"{before}{_FIRST}{behind}", f"{before}{_SECOND}{behind}"
    if not found or not (both.startswith(head) and both.endswith(tail) and len(both) >= len(head) + len(tail)):
        return None
    between = both[len(head) : len(both) - len(tail)]
    return ToolForm(rules, before, behind, between, frozenset(_MARK.findall(before + behind)))


def _between(render: Render, tools: Sequence[Mapping[str, Any]], system: list[Message]) -> str | None:
    """The text of the system message that the template makes of `system` and the tools."""
    user = [Message(role="user", content=_WORDS)]
    whole = render([*system, *user], tools)
    head, found, tail = render([_system(_FIRST), *user], None).partition(_FIRST)
    if not found or not (whole.startswith(head) and whole.endswith(tail)):
        return None
    rules = whole[len(head) : len(whole) - len(tail)]
    return rules if render([_system(rules), *user], None) == whole else None


def _answer(render: Render, results: list[Any]) -> str | None:
    """The text of the user message that the template makes of tools' answers."""
    chat = [Message(role="user", content=_WORDS), Message(role="assistant", content=_ANSWER)]
    whole = render([*chat, *results], None)
    head, found, tail = render([*chat, Message(role="user", content=_SECOND * 2)], None).partition(_SECOND * 2)
    if not found or not (whole.startswith(head) and whole.endswith(tail)):
        return None
    text = whole[len(head) : len(whole) - len(tail)]
    return text if render([*chat, Message(role="user", content=text)], None) == whole else None


def _system(said: str) -> Message:
    return Message(role="system", content=said)


def _tool(said: str) -> dict[str, str]:
    return {"role": "tool", "name": "search", "content": said}
