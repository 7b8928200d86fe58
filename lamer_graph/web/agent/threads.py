"""How a request goes on with its thread: what of its messages is new there.

What must stay true: clients send all of a conversation, its end, or only what is new, and each makes the same thread of
it. A conversation that is not the thread's is refused, and never mixed into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from langchain_core.messages import AnyMessage, BaseMessage
from starlette.exceptions import HTTPException

from lamer_graph.apps.lessons import text_of


class Step(NamedTuple):
    """What to do: "say" the messages, "reply" to what the graph has asked, "go on" with what was cut short, or "answer
    again" what is answered already."""

    do: Literal["say", "reply", "go on", "answer again"]
    messages: Sequence[AnyMessage] = ()
    left_out: bool = False
    """A system message was not taken: the thread keeps the one that it began with."""


def next_step(
    before: Sequence[BaseMessage], asked: Sequence[AnyMessage], *, waits: bool, cut: bool, retried: bool
) -> Step:
    """`before` are the thread's messages; `waits`: it has asked a person; `cut`: it was cut short; `retried`: the
    client says that it has sent this before. Raises HTTPException (409) for another conversation."""
    if waits:
        return Step("reply", asked[-1:])
    if not before:
        return Step("say", asked)
    have = _said(before)
    if cut and have[-1:] == _said(asked)[-1:]:
        return Step("go on")
    talk = [message for message in asked if message.type != "system"]
    systems = {text_of(m) for m in asked if m.type == "system"}
    left_out = bool(systems - {text_of(m) for m in before if m.type == "system"})
    if all(message.type == "human" for message in talk):
        if retried and have[-1:] == _said(talk)[-1:]:
            return Step("answer again", left_out=left_out)
        return Step("say", talk, left_out)
    given = _said(talk)
    known = next((k for k in range(min(len(have), len(given)), 0, -1) if have[-k:] == given[:k]), 0)
    if not known:
        raise HTTPException(
            409, "the thread has another conversation than this: send what is new alone, or use another thread"
        )
    new = [message for message in talk if message.type == "human"][known:]
    return Step("say", new, left_out) if new else Step("answer again", left_out=left_out)


def _said(messages: Sequence[BaseMessage]) -> list[str]:
    """What people said: a client may have the agent's words in another form, or words that the thread has not."""
    return [text_of(message).strip() for message in messages if message.type == "human"]
