"""Writes of many callers in few batches: one thread embeds and writes whatever has gathered since its last write.

What must stay true: a call returns after its own records are written, or raises what went wrong with them; writes and
deletes take effect in the order in which they were asked for. A single writer pays the batch of one; 128 concurrent
trials share some 20 batches' cost instead of 128 (group commit, as in databases).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

from lamer_memory.errors import MemoryBackendError, MemoryServerError

MAX_BATCH = 500
"""Rows of one write."""

Row = TypeVar("Row")


class _Job(NamedTuple, Generic[Row]):
    rows: Sequence[Row]
    action: Callable[[], None] | None
    done: Future[None]


class BatchWriter(Generic[Row]):
    """Runs `write(rows)` and actions in one thread, in the order of `put` and `run`."""

    def __init__(self, write: Callable[[list[Row]], None], name: str) -> None:
        self._write = write
        self._name = name
        self._jobs: deque[_Job[Row]] = deque()
        self._wake = threading.Condition()  # reentrant: what is asked for `together` is
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, make_rows: Callable[[], Sequence[Row]]) -> Future[None]:
        """Write the rows; `make_rows` is called under the lock that orders all writes, so it can number them."""
        return self._add(make_rows, None)

    def run(self, action: Callable[[], None]) -> Future[None]:
        """Run `action` after all writes so far and before all later ones."""
        return self._add(lambda: (), action)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What this thread asks for inside is taken up at once, not from the first on."""
        with self._wake:
            yield

    def close(self) -> None:
        """Finish what was asked for, then stop."""
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _add(self, make_rows: Callable[[], Sequence[Row]], action: Callable[[], None] | None) -> Future[None]:
        done: Future[None] = Future()
        with self._wake:
            if self._closed:
                raise RuntimeError("the writer is closed")
            self._jobs.append(_Job(make_rows(), action, done))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._wake.notify()
        return done

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closed:
                    self._wake.wait()
                if not self._jobs:
                    return
                jobs = self._next()
            self._do(jobs)

    def _next(self) -> list[_Job[Row]]:
        """The oldest job, and the writes right behind it that fit into one batch; without cancelled ones."""
        jobs = [self._jobs.popleft()]
        rows = len(jobs[0].rows)
        while jobs[0].action is None and self._jobs and self._jobs[0].action is None:
            rows += len(self._jobs[0].rows)
            if rows > MAX_BATCH:
                break
            jobs.append(self._jobs.popleft())
        return [job for job in jobs if job.done.set_running_or_notify_cancel()]

    def _do(self, jobs: list[_Job[Row]]) -> None:
        if not jobs:
            return
        try:
            if jobs[0].action is not None:
                jobs[0].action()
            else:
                rows = [row for job in jobs for row in job.rows]
                for first in range(0, len(rows), MAX_BATCH):
                    self._write(rows[first : first + MAX_BATCH])
        except Exception as error:
            if len(jobs) == 1 or isinstance(error, MemoryServerError) or not isinstance(error, MemoryBackendError):
                for job in jobs:
                    job.done.set_exception(error)
            else:  # one caller's bad record must not fail the others'
                for job in jobs:
                    self._do([job])
        else:
            for job in jobs:
                job.done.set_result(None)
