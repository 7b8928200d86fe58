"""The policy protocol: one async call that turns messages into exact tokens, and a sync door to it.

What must stay true: `generate` either returns a Completion drawn from `sampling` or raises a PolicyError; it never
re-tokenises text to invent token ids, and its `policy_version` is the version that really answered.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from lamer_graph.types import Completion, Message, Sampling

T = TypeVar("T")


class Policy(ABC):
    """Something that answers chat messages. Implementations are safe for concurrent calls."""

    context_window: int | None = None
    """Prompt plus completion tokens the model can take; None if unknown (prompts are then never trimmed)."""

    @abstractmethod
    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One completion. Raises PolicyError."""

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered chat prompt, generation prefix included, by the serving model's own tokenizer."""
        raise NotImplementedError(f"{type(self).__name__} has a context window but cannot count tokens")

    def generate_sync(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """`generate` for callers without an event loop."""
        return run_sync(self.generate(messages, sampling))

    async def aclose(self) -> None:  # noqa: B027  (most policies hold nothing)
        """Release connections and threads; calling it again does nothing."""


_loop: asyncio.AbstractEventLoop | None = None
_loop_lock = threading.Lock()


def _background_loop() -> asyncio.AbstractEventLoop:
    """One daemon event loop for all sync callers, so that pooled connections outlive a call."""
    global _loop
    with _loop_lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="lamer-sync", daemon=True).start()
        return _loop


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from sync code, also from inside a running event loop's thread.

    The caller's context variables go along, so LangChain callbacks and tracing see the call.
    """
    loop = _background_loop()
    context = contextvars.copy_context()
    future: Future[T] = Future()

    def start() -> None:
        task = loop.create_task(coroutine, context=context)

        def finish(done: asyncio.Task[T]) -> None:
            if done.cancelled():
                future.cancel()
            elif (error := done.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result())

        task.add_done_callback(finish)

    loop.call_soon_threadsafe(start)
    return future.result()
