"""Pipelining: a thread that collects the next batches while the trainer updates.

What must stay true: a batch is begun only when the newest weights are at most `most` updates older than the ones that
will be trained with it, so its samples are at most that stale; batches are handed out in order, each once; an error of
the thread is raised where the batch is asked for, and nothing runs on after `close`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from lamer_trainers.sources.batches import Collected


class Ahead:
    """Runs `collect(step)` for one step after the other in a thread, up to and without `end`.

    `newest` counts the updates that the sampler's weights have seen.
    """

    def __init__(
        self, collect: Callable[[int], Coroutine[Any, Any, Collected]], *, most: int, end: int | None = None
    ) -> None:
        self._collect = collect
        self._most = most
        self._end = end
        self._changed = threading.Condition()
        self._newest = -1
        self._done: dict[int, Collected] = {}
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._idle = 0.0

    def advance(self, newest: int) -> None:
        """The sampler has the weights after `newest` updates; the first call starts the thread at that step."""
        with self._changed:
            self._newest = newest
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, args=(newest,), name="lamer-ahead", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def take(self, step: int) -> Collected:
        """Batch `step`, once it is there. Raises what collecting it raised."""
        with self._changed:
            while step not in self._done:
                if self._error is not None:
                    raise self._error
                self._changed.wait()
            return self._done.pop(step)

    def waited(self) -> float:
        """Seconds that the thread had to wait for newer weights since this was last asked."""
        idle, self._idle = self._idle, 0.0
        return idle

    def close(self) -> None:
        """End the thread; a batch that is being collected stays in its folder for a resume."""
        with self._changed:
            self._closed = True
            if self._running is not None:
                loop, task = self._running
                loop.call_soon_threadsafe(task.cancel)
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self, step: int) -> None:
        try:
            while self._end is None or step < self._end:
                begun = time.perf_counter()
                with self._changed:
                    while not self._closed and step - self._newest > self._most:
                        self._changed.wait()
                    if self._closed:
                        return
                    self._idle += time.perf_counter() - begun
                collected = asyncio.run(self._cancellable(step))
                with self._changed:
                    self._done[step] = collected
                    self._changed.notify_all()
                step += 1
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    async def _cancellable(self, step: int) -> Collected:
        task = asyncio.current_task()
        assert task is not None
        with self._changed:
            if self._closed:
                raise asyncio.CancelledError
            self._running = asyncio.get_running_loop(), task
        try:
            return await self._collect(step)
        finally:
            with self._changed:
                self._running = None
