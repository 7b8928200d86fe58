"""Look-ups of many concurrent callers in few reads: one thread asks for whatever has gathered since its last read.

What must stay true: a read starts after the look-up was asked for, so it sees everything acknowledged before; each
caller gets its own answer or its own error. A read of 40 look-ups costs Chroma some four times one of a single look-up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

MAX_BATCH = 200
"""Look-ups of one read."""

Key = TypeVar("Key")
Answer = TypeVar("Answer")


class BatchReader(Generic[Key, Answer]):
    """Answers `ask(key)` through `read(keys)`, which gives one answer per key, in order."""

    def __init__(self, read: Callable[[Sequence[Key]], Sequence[Answer]], name: str) -> None:
        self._read = read
        self._name = name
        self._asked: list[tuple[Key, Future[Answer]]] = []
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, key: Key) -> Future[Answer]:
        answer: Future[Answer] = Future()
        with self._wake:
            if self._closed:
                raise RuntimeError("the reader is closed")
            self._asked.append((key, answer))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._wake.notify()
        return answer

    def close(self) -> None:
        """Answer what was asked, then stop."""
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._asked and not self._closed:
                    self._wake.wait()
                if not self._asked:
                    return
                batch, self._asked = self._asked[:MAX_BATCH], self._asked[MAX_BATCH:]
            batch = [entry for entry in batch if entry[1].set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                answers = self._read([key for key, _ in batch])
            except Exception as error:
                for _, answer in batch:
                    answer.set_exception(error)
            else:
                for (_, answer), found in zip(batch, answers, strict=True):
                    answer.set_result(found)
