"""What an attempt came to: a grade, from whatever form a grader gives it in.

What must stay true: a grader that fails is never a failed attempt. It raises, hangs or returns what is no grade, and
the trial stops there and can be resumed.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from langgraph.errors import GraphBubbleUp

from lamer_graph.errors import ConfigError, GradeError
from lamer_graph.text import plain

MAX_FEEDBACK_CHARS = 4_000
SOLVED = 1.0
"""The score from which on an attempt has succeeded, where the grade does not say."""


@dataclass(frozen=True, slots=True)
class Grade:
    """An attempt's grade: `score` is its reward (1 solves the task, unless `success` says otherwise), `feedback` what
    the reflection is told of it, at most `MAX_FEEDBACK_CHARS`. `Grade(True)` and `Grade(0.4, "no unit")` both work.

    Raises GradeError for a score that is no finite number.
    """

    score: float
    feedback: str = ""
    success: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.score, bool | int | float) or not math.isfinite(self.score):
            raise GradeError(f"a grade's score must be a finite number or a bool, not {self.score!r}")
        if not isinstance(self.feedback, str):
            raise GradeError(f"a grade's feedback must be a text, not a {type(self.feedback).__name__}")
        if self.success is not None and not isinstance(self.success, bool):
            raise GradeError(f"a grade's success must be True, False or None, not {self.success!r}")
        object.__setattr__(self, "score", float(self.score))
        object.__setattr__(self, "feedback", plain(self.feedback)[:MAX_FEEDBACK_CHARS])
        if self.success is None:
            object.__setattr__(self, "success", self.score >= SOLVED)

    @classmethod
    def of(cls, given: Any) -> Grade:
        """A grade from itself, a bool or a number. Raises GradeError for anything else, NaN above all."""
        if isinstance(given, Grade):
            return given
        if isinstance(given, bool | int | float):
            return cls(given)
        raise GradeError(
            f"the grader returned {str(given)[:100]!r} of {type(given).__name__}: return a Grade, a bool or a number"
        )


Grader = Callable[[Any, Any], Any]
"""`grade(task, result)` gives a Grade, a bool or a number, or a coroutine of one."""


async def graded(grade: Grader, task: Any, result: Any, timeout: float) -> Grade:
    """What the grader says. Raises GradeError where it raises, hangs for `timeout` seconds, or gives no grade."""
    name = getattr(grade, "__name__", type(grade).__name__)
    try:
        return Grade.of(await called(grade, (task, result), timeout))
    except GraphBubbleUp:  # a grader may ask a person, with `interrupt()`
        raise
    except GradeError:
        raise
    except OutOfTime:
        raise GradeError(
            f"grader {name} gave no grade within {timeout:g} s; resume to grade the attempt again"
        ) from None
    except Exception as error:
        raise GradeError(
            f"grader {name} failed: {type(error).__name__}: {str(error)[:500]}; resume to grade the attempt again"
        ) from error


class OutOfTime(Exception):
    """A user's function took too long; one of its own TimeoutErrors is not this."""


async def called(function: Callable[..., Any], arguments: tuple[Any, ...], timeout: float) -> Any:
    """What a user's function returns, sync (in a thread of its own) or async. Raises OutOfTime, and what it raises.

    A thread cannot be stopped: one that hangs is left behind.
    """
    try:
        async with asyncio.timeout(timeout) as limit:
            if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
                return await function(*arguments)
            found = await asyncio.to_thread(function, *arguments)
            return await found if isinstance(found, Awaitable) else found
    except TimeoutError as error:
        if limit.expired():
            raise OutOfTime from error
        raise


def check_function(name: str, given: Any, takes: str) -> None:
    """Raises ConfigError where a user's function is none. `takes` says its arguments."""
    if not callable(given):
        raise ConfigError(f"{name} must be a function {name}({takes}), not a {type(given).__name__}")
