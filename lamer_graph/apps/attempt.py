"""One attempt: a user's graph run once, nested, with its own limits, and whose fault it is where it ends in an error.

What must stay true: a tool's exception, the recursion limit and the attempt's own time-out make a failed attempt; what
a model's server or a memory does not answer is raised, because playing on would blame the agent for it. What a killed
process had finished of the attempt is in the checkpoints of the nested graph, which goes on from there.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import openai
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AnyMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp, GraphRecursionError
from langgraph.pregel.protocol import PregelProtocol
from pydantic import ValidationError

from lamer_graph.apps.knowing import PLAYING_KEY, Playing
from lamer_graph.apps.once import CUT_KEY, acut_calls, cut_calls
from lamer_graph.errors import LamerError, PromptTooLongError
from lamer_graph.text import plain
from lamer_graph.trial.states import Json

OnError = Literal["fail_attempt", "raise"]
ATTEMPT_ID = "attempt_id"
"""Key of the attempt's id in `config["configurable"]`: an idempotency key for tools, the same when a killed process
runs a step again."""
ATTEMPT_METADATA = "lamer_attempt_id"
"""Key of the same in a run's metadata, which reaches every model and every trace."""
MAX_ERROR_CHARS = 2_000
OWN_FAULT = frozenset({400, 413, 422})
"""Statuses with which a server refuses a request for what it says (too long above all): no retry mends that."""


@dataclass
class Running:
    """One attempt: what it starts from, and what has been seen of it."""

    number: int
    trial: Json
    input: Any
    known: frozenset[str]
    """Ids of messages that the attempt did not write: the caller's, the lessons."""
    given: list[AnyMessage]
    """The message with the lessons, if there is one."""
    leave: Callable[[Any], Sequence[AnyMessage]] | None
    """The messages of a final state; None where the state has them under `messages`, step by step."""
    tell: Callable[[AnyMessage], None]
    values: Any = None
    abandoned: bool = False
    _written: dict[str, AnyMessage] = field(default_factory=dict)

    @property
    def attempt_id(self) -> str:
        """The same when a killed process runs a step of it again."""
        return f"{self.trial['trial_id']}/{self.number}"

    @property
    def playing(self) -> Playing:
        """What its tools may know of it."""
        trial = self.trial
        return Playing(trial["task_id"], trial["trial_id"], trial["started"], self.number - 1)

    def seen(self, values: Any) -> None:
        """The graph's state after a step. What the attempt wrote is kept also where the graph forgets it again."""
        if self.abandoned:
            return
        self.values = values
        if self.leave is None:
            self._write(messages_in(values))

    def ended(self) -> None:
        """The graph has come to its end, with the last state that was seen."""
        if self.leave is not None:
            self._write(self.leave(self.values))

    def _write(self, messages: Sequence[AnyMessage]) -> None:
        for place, message in enumerate(messages):
            name = message.id or f"#{place}"
            if name in self.known:
                continue
            new = name not in self._written
            self._written[name] = message
            if new:
                self.tell(message)

    @property
    def messages(self) -> list[AnyMessage]:
        """What the attempt has written, in the order in which it did."""
        return list(self._written.values())


class Runner:
    """Runs attempts of one graph."""

    def __init__(
        self, graph: PregelProtocol[Any, Any, Any, Any], recursion_limit: int, timeout: float | None, on_error: OnError
    ) -> None:
        self.graph = graph
        self._limit = recursion_limit
        self._timeout = timeout
        self._on_error = on_error

    def run(self, run: Running) -> Json | None:
        """Play the attempt; the error that made it fail, if one did. Raises what is not the attempt's own fault."""
        blame = Blame()
        config = self._config(run, blame, cut_calls())

        def play() -> None:
            for values in self.graph.stream(run.input, config, stream_mode="values"):
                if run.abandoned:
                    return
                run.seen(values)

        try:
            if self._timeout is None:
                play()
            else:
                _within(self._timeout, play, run)
        except _Expired:
            return self._timed_out()
        except Exception as error:
            return self._failure(error, blame)
        return None

    async def arun(self, run: Running) -> Json | None:
        """`run`, async."""
        blame = Blame()
        config = self._config(run, blame, await acut_calls())
        try:
            async with asyncio.timeout(self._timeout) as limit:
                async for values in self.graph.astream(run.input, config, stream_mode="values"):
                    run.seen(values)
        except TimeoutError as error:
            return self._timed_out() if limit.expired() else self._failure(error, blame)
        except Exception as error:
            return self._failure(error, blame)
        return None

    def _config(self, run: Running, blame: Blame, cut: frozenset[str]) -> RunnableConfig:
        told = {ATTEMPT_ID: run.attempt_id, PLAYING_KEY: run.playing, **({CUT_KEY: sorted(cut)} if cut else {})}
        own: RunnableConfig = {
            "callbacks": [blame],
            "configurable": told,
            "metadata": {"lamer_attempt": run.number, ATTEMPT_METADATA: run.attempt_id},
        }
        config = merge_configs(get_config(), own)
        config["recursion_limit"] = self._limit  # merging takes 25 for "not said"
        return config

    def _timed_out(self) -> Json:
        message = f"the attempt did not end within {self._timeout:g} s"
        if self._on_error == "raise":
            raise TimeoutError(message)
        return {"type": "TimeoutError", "message": message}

    def _failure(self, error: Exception, blame: Blame) -> Json:
        """The error as a failed attempt's. Raises it where it is no fault of the attempt."""
        if isinstance(error, GraphBubbleUp) or self._on_error == "raise" or blame.raises(error):
            raise error
        if isinstance(error, GraphRecursionError):
            return {"type": "GraphRecursionError", "message": f"no answer after {self._limit} steps (recursion_limit)"}
        return {"type": type(error).__name__, "message": plain(str(error))[:MAX_ERROR_CHARS]}


class Blame(BaseCallbackHandler):
    """Hears which errors came out of a model, so that a server's failure is told from a tool's."""

    run_inline = True

    def __init__(self) -> None:
        self._models: list[BaseException] = []

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self._models.append(error)

    def raises(self, error: Exception) -> bool:
        """Whether it is none of the attempt's: a model's server failed, or a part of ours (memory, policy, log)."""
        if isinstance(error, PromptTooLongError | ValidationError):  # too much was said, or what LangChain cannot read
            return False
        if isinstance(error, LamerError):
            return True
        if getattr(error, "status_code", None) in OWN_FAULT:
            return False
        return isinstance(error, openai.OpenAIError) or any(error is heard for heard in self._models)


class _Expired(Exception):
    pass


def _within(timeout: float, play: Callable[[], None], run: Running) -> None:
    """Play in a thread, which can be left behind where it hangs. Raises _Expired, and what playing raises."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            play()
        except BaseException as error:
            raised.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="lamer-attempt", daemon=True)
    thread.start()
    try:
        thread.join(timeout)
        if thread.is_alive():
            raise _Expired
    finally:
        run.abandoned = thread.is_alive()
    if raised:
        raise raised[0]


def messages_in(values: Any) -> list[AnyMessage]:
    """The messages of a graph's state; a remote graph's come as JSON."""
    found = values.get("messages", []) if isinstance(values, dict) else []
    return cast(list[AnyMessage], convert_to_messages(found))
