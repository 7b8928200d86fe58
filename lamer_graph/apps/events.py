"""What a watcher is told while an application is tried: JSON-plain, and bounded whatever a tool returns."""

from __future__ import annotations

from langchain_core.messages import AIMessage, BaseMessage

from lamer_graph.apps import lessons
from lamer_graph.apps.states import Attempt
from lamer_graph.trial.states import Json


def turn_event(attempt: int, message: BaseMessage) -> Json:
    """A message that an attempt has written."""
    event = {"event": "turn", "attempt": attempt, "type": message.type}
    event["text"] = lessons.shortened(lessons.text_of(message), lessons.MAX_MESSAGE_CHARS)
    if isinstance(message, AIMessage) and message.tool_calls:
        event["tool_calls"] = [{"name": call["name"], "args": call["args"]} for call in message.tool_calls]
    return event


def attempt_event(number: int, attempt: Attempt) -> Json:
    """What an attempt came to."""
    return {
        "event": "attempt",
        "attempt": number,
        "success": attempt["success"],
        "score": attempt["score"],
        "feedback": attempt["feedback"],
        "error": attempt["error"],
    }


def reflection_event(attempt: int, text: str) -> Json:
    """What an attempt has taught."""
    return {"event": "reflection", "attempt": attempt, "text": text}
