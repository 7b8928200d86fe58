"""What a trial of an application is between two steps: messages and JSON, which any checkpointer holds."""

from __future__ import annotations

from typing import Annotated, Any

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from lamer_graph.trial.states import Json

OURS = frozenset({"messages", "attempts", "reflections", "success", "trial", "result", "reflection", "best"})
"""Keys of the state that an application's own graph may not have, but for `messages`."""


class Attempt(TypedDict):
    """One attempt. `messages` are those that it wrote, `given` the message with lessons that it was given, if any;
    `error` says what ended it early: {"type", "message"}."""

    messages: list[AnyMessage]
    given: list[AnyMessage]
    success: bool
    score: float
    feedback: str
    error: Json | None
    attempt_id: str


class RetryState(TypedDict, total=False):
    """The state of a trial of an application. `messages` are the caller's, with the final answer at the end; of the
    rest, `attempts`, `reflections` and `success` are the result's and the others our own."""

    messages: Annotated[list[AnyMessage], add_messages]
    attempts: list[Attempt]
    reflections: list[str]
    success: bool
    trial: Json
    result: Any
    reflection: str | None
    best: Json | None


class RetryInput(TypedDict):
    """`{"messages": [("user", "..")]}`, as for any chat graph."""

    messages: Annotated[list[AnyMessage], add_messages]


class RetryOutput(TypedDict):
    """What the trial came to."""

    messages: Annotated[list[AnyMessage], add_messages]
    attempts: list[Attempt]
    reflections: list[str]
    success: bool
