"""Memory writes of many concurrent trials, gathered: a trial plays on while its records are on their way to the store.

What must stay true: a write is settled (its future done) only when the backend has acknowledged it, and whoever logs a
trial waits for that first, so a logged trial's records are in the store; one trial's failed write is no other's. Stores
take many records at once for little more than one (group commit), and here nobody waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from lamer_memory import MemoryBackend, MemoryRecord
from lamer_memory.base import Namespace

LINGER = 0.1
"""Seconds in which writes gather before they go out together: a few turns of a fast policy."""


class WriteBehind:
    """Puts into `backend`, `linger` seconds' worth at a time, one batch after the other. For one event loop."""

    def __init__(self, backend: MemoryBackend, linger: float = LINGER) -> None:
        self._backend = backend
        self._linger = linger
        self._waiting: list[tuple[Namespace, Sequence[MemoryRecord], asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> asyncio.Future[None]:
        """Have the records written; the future is done when they are, or has the backend's error."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((namespace, records, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return done

    def hurry(self) -> None:
        """Nothing more begins, and soon somebody waits for the last writes: from now on they go out as they come."""
        self._hurry.set()

    async def aclose(self) -> None:
        """Drop what has not gone out yet (its trials were cut short) and wait for what has."""
        for _, _, done in self._waiting:
            done.cancel()
        if self._task is not None:
            await self._task

    async def _work(self) -> None:
        while self._waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._linger)
            batch = [entry for entry in self._waiting if not entry[2].done()]
            self._waiting = []
            try:
                outcomes = await self._backend.aput_all([(namespace, records) for namespace, records, _ in batch])
            except Exception as error:  # a defect of the backend's: every trial that waits learns of it
                outcomes = [error] * len(batch)
            for (_, _, done), outcome in zip(batch, outcomes, strict=True):
                if done.done():
                    continue
                if outcome is None:
                    done.set_result(None)
                else:
                    done.set_exception(outcome)
