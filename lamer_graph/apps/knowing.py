"""What a trial of an application is known by and comes to: small pure functions of its state."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.errors import GraphBubbleUp

from lamer_graph.apps import lessons
from lamer_graph.apps.states import Attempt, RetryState
from lamer_graph.errors import ConfigError
from lamer_graph.trial.states import Json

TRIAL_KEY = "lamer_trial"
"""Key of `config["configurable"]` under which a collection says what a trial is known by."""


FORMAT = 1
"""Of a trial's state. A version that cannot go on with what another has begun raises it."""


class Known(NamedTuple):
    """What a trial is known by: see `opening`."""

    task_id: str
    trial_id: str
    namespace: Sequence[str]
    place: int
    """Its number among the trials of its task, from 0."""


PLAYING_KEY = "lamer_playing"
"""Key of `config["configurable"]` under which an attempt says to its tools which one it is."""


class Playing(NamedTuple):
    """Which attempt of which trial is played. `started` tells the trial from others that are known by the same id, in
    another run for one; all of it is the same when a killed process goes on."""

    task_id: str
    trial_id: str
    started: float
    episode: int


def check_format(s: RetryState) -> None:
    """Raises ConfigError for a trial that another version has begun and this one cannot go on with."""
    if (found := s["trial"].get("format", FORMAT)) != FORMAT:
        raise ConfigError(
            f"the trial on this thread was begun by another version (format {found}, this one has {FORMAT}) and cannot "
            "be gone on with: ask again, on a new thread"
        )


def of_theirs(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of the application's returns. Raises ConfigError: it is no fault of the attempt."""
    try:
        return function(*arguments)
    except GraphBubbleUp:
        raise
    except Exception as error:
        raise ConfigError(f"{name}= failed: {type(error).__name__}: {str(error)[:500]}") from error


def error_of(error: Exception, s: RetryState) -> Json:
    """What a log says of the error that ended a trial, and behind how many attempts it struck."""
    return {"type": type(error).__name__, "message": str(error)[:2_000], "episode": len(s["attempts"]), "turn": None}


def opening(task_id: str, trial_id: str, namespace: Sequence[str], index: int = 0, number: int = 1) -> Json:
    """What a trial is known by, and nothing played of it."""
    return {
        "format": FORMAT,
        "task_id": task_id,
        "trial_id": trial_id,
        "index": index,
        "number": number,
        "namespace": list(namespace),
        "started": time.time(),
        "memory": [],
        "reads": [],
        "writes": [],
        "records": [],
        "reflections": [],
    }


def about(s: RetryState) -> str:
    """The task in words: what other tasks' records are compared with."""
    return lessons.shortened("\n".join(lessons.text_of(m) for m in s["messages"]), lessons.MAX_MESSAGE_CHARS)


def answer_of(attempt: Attempt) -> list[AnyMessage]:
    """The attempt's last word: none that still waits for a tool, which no conversation could go on from."""
    said = [
        m for m in attempt["messages"] if isinstance(m, AIMessage) and not m.tool_calls and not m.invalid_tool_calls
    ]
    return [*said[-1:]]
