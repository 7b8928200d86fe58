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
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lamer_graph.policies.control import CONTROL_TOKENS
from lamer_graph.types import Completion, Message, Sampling

T = TypeVar("T")


class Policy(ABC):
    """Something that answers chat messages. Implementations are safe for concurrent calls."""

    context_window: int | None = None
    """Prompt plus completion tokens the model can take; None if unknown (prompts are then never trimmed)."""
    control_tokens: frozenset[str] = CONTROL_TOKENS
    """Texts that the tokenizer turns into control tokens: none of them enters a prompt (`trial.quoting`)."""
    opens_thought: bool = False
    """True where the chat template opens a thought, so that an answer begins inside one (`trial.answers`)."""

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


class _OwnLoop(threading.local):
    """An event loop for each thread that calls synchronously, so that pooled connections outlive a call.

    In the caller's own thread, because handing a call to another thread and back costs more than the graph's turn.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def __del__(self) -> None:
        if not self.loop.is_running():
            self.loop.close()


_own = _OwnLoop()


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from sync code, also from inside a running event loop's thread.

    The caller's context variables go along, so LangChain callbacks and tracing see the call.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _own.loop.run_until_complete(coroutine)
    # Inside a running loop, whose thread is blocked meanwhile: another thread has to run it.
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, "lamer-sync") as executor:
        return executor.submit(context.run, asyncio.run, coroutine).result()
