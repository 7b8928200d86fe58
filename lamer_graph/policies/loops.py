"""A sync door to coroutines: event loops that are kept, because connections belong to the loop that opened them.

What must stay true: a loop is run by one thread at a time, and in the caller's own thread wherever that runs no loop
already, because handing a call to another thread and back costs more than the graph's turn. A loop that has finished a
call waits for the next one, of whatever thread: threads come and go (each `.batch` has new ones), loops and what is
connected on them stay. Inside a running loop (a notebook, an async app) a kept thread runs the call.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

T = TypeVar("T")

MOST_IDLE = 64
"""Loops that are kept for later calls; each holds three file descriptors and its connections."""
MOST_THREADS = 1024
"""Calls at once from inside running loops, nested ones counted. A thread is made only where none is free."""


class _Loop(asyncio.SelectorEventLoop):
    """A loop that takes a call's first step at once: one that waits for nothing costs no turn of the loop, which costs
    more than many a call (select, twice). A call that waits, or has left something for later, is run as ever."""

    def __init__(self) -> None:
        super().__init__()
        self._step: Callable[[], Any] | None = None
        self._catching = self._left = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._catching, self._left = True, False
        task = self.create_task(coroutine)
        step, self._step = self._step, None
        if step is None:  # a task factory that does otherwise
            return self.run_until_complete(task)
        asyncio._set_running_loop(self)
        try:
            step()
        except BaseException:  # an interrupt goes out through the step, and is the task's outcome too
            if task.done() and not task.cancelled():
                task.exception()
            raise
        finally:
            asyncio._set_running_loop(None)
        if self._left or not task.done():
            return self.run_until_complete(task)
        return task.result()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if not self._catching:
            self._left = True
            return super().call_soon(callback, *args, context=context)
        self._catching = False
        context = context or contextvars.copy_context()
        self._step = partial(context.run, callback, *args)
        return asyncio.Handle(callback, args, self, context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        self._left = True
        return super().call_at(when, callback, *args, context=context)


class _Kept:
    """The loops nobody runs now, newest last, and the threads for calls from inside a running loop."""

    def __init__(self) -> None:
        self.idle: deque[_Loop] = deque()
        self.threads = ThreadPoolExecutor(MOST_THREADS, "lamer-sync")

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it in this thread, on the loop that was used last of those that are free."""
        try:
            loop = self.idle.pop()
        except IndexError:
            loop = _Loop()
        try:
            return loop.run(coroutine)
        except (KeyboardInterrupt, SystemExit):
            # The call is unfinished, and must not go on inside somebody else's.
            if left := asyncio.all_tasks(loop):
                for task in left:
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            raise
        finally:
            if len(self.idle) < MOST_IDLE:
                self.idle.append(loop)
            else:
                loop.close()


_kept = _Kept()
_before_fork: list[_Kept] = []


def _after_fork() -> None:
    """A child has no threads, and its copies of the loops share the parent's selectors: it starts anew."""
    global _kept
    _before_fork.append(_kept)  # closing them here would unregister the parent's descriptors
    _kept = _Kept()


os.register_at_fork(after_in_child=_after_fork)


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from sync code, also from inside a running event loop's thread.

    The caller's context variables go along, so LangChain callbacks and tracing see the call.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _kept.run(coroutine)
    # Inside a running loop, whose thread is blocked meanwhile: another thread has to run it.
    return _kept.threads.submit(contextvars.copy_context().run, _kept.run, coroutine).result()


async def run_on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on `loop`: to its end here or where the loop is idle, else by whoever runs that.

    Drops it where the loop is closed.
    """
    if loop is asyncio.get_running_loop():
        await coroutine
        return
    try:
        _kept.idle.remove(loop)  # type: ignore[arg-type]  # it is ours now
    except ValueError:
        try:
            asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:
            coroutine.close()
        return
    try:
        await asyncio.to_thread(loop.run_until_complete, coroutine)
    finally:
        _kept.idle.append(cast(_Loop, loop))
