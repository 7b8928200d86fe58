"""A Chroma directory that a process of its own keeps, for whoever has an event loop to run meanwhile.

Chroma's embedded client holds Python's lock for as long as a write takes (measured: 85 % of it), so a thread of its own
does not help: everything else in the process stands still. Here the writes are those of another process, started once
for all the stores that are opened so; it ends with the one that started it. They talk in lines of JSON over pipes.

What must stay true: as with `ChromaMemory` a put that returned is durable and writes take effect in the order in which
they were asked for; if either process dies, nothing acknowledged is lost, and nobody waits for an answer that cannot
come.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lamer_memory import errors
from lamer_memory.base import MemoryBackend, MemoryRecord, MetadataValue, Namespace, ScoredRecord
from lamer_memory.errors import MemoryBackendError, MemoryClosedError, MemoryServerError

Json = dict[str, Any]

# -P: nothing is imported from the folder in which we happen to be.
COMMAND = [sys.executable, "-P", "-m", "lamer_memory.chroma.keeper"]
ANSWER_SECONDS = 300.0
"""After this the process counts as hung: the largest write takes a second, opening on a busy machine some ten."""


class ChromaProcess(MemoryBackend):
    """Records in the Chroma directory `location`, written and read by another process.

    Otherwise like `ChromaMemory`, whose `embedder` it takes by name. Raises what that raises, and MemoryServerError
    where the process ended or does not answer.
    """

    def __init__(self, location: str | os.PathLike[str], *, embedder: str | None = "hashing") -> None:
        self.location = str(Path(location).expanduser().absolute())
        self._closed = False
        self._close_lock = threading.Lock()
        self._keeper = _keeper()
        self._number = self._answer("open", self.location, embedder)

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        (outcome,) = self._answer("put_all", self._number, _writes([(namespace, records)]))
        _raise(outcome)

    async def aput(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        (outcome,) = await self._aanswer("put_all", self._number, _writes([(namespace, records)]))
        _raise(outcome)

    async def aput_all(self, writes: Sequence[tuple[Namespace, Sequence[MemoryRecord]]]) -> list[Exception | None]:
        outcomes = await self._aanswer("put_all", self._number, _writes(writes))
        return [None if outcome is None else error_of(outcome) for outcome in outcomes]

    def delete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        self._answer("delete", self._number, namespace, keys)

    async def adelete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        await self._aanswer("delete", self._number, namespace, keys)

    def close(self) -> None:
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        if self._keeper.process_id == os.getpid():
            with contextlib.suppress(MemoryServerError):  # it ended, and the store with it
                self._keeper.wait(self._keeper.ask("close", self._number))

    # -- reading ------------------------------------------------------------------------------------------------------

    def search(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        return _found(self._answer("search", self._number, namespace, query, dict(filter or {}), limit))

    async def asearch(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        return _found(await self._aanswer("search", self._number, namespace, query, dict(filter or {}), limit))

    def namespaces(self) -> list[Namespace]:
        """Every namespace that holds a record, sorted."""
        return [tuple(name) for name in self._answer("namespaces", self._number)]

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, *request: Any) -> Future[Any]:
        with self._close_lock:
            if self._closed:
                raise MemoryClosedError(f"the memory in {self.location} was closed; open it again with ChromaProcess")
            if self._keeper.process_id != os.getpid():
                raise MemoryBackendError(
                    f"the memory in {self.location} was opened before this process was forked; open it here"
                )
            return self._keeper.ask(*request)

    def _answer(self, *request: Any) -> Any:
        return self._keeper.wait(self._ask(*request))

    async def _aanswer(self, *request: Any) -> Any:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.wrap_future(self._ask(*request))
        except TimeoutError:
            raise self._keeper.hung() from None


# -- what travels ------------------------------------------------------------------------------------------------------


def error_line(error: BaseException) -> Json:
    """An error as JSON; `error_of` makes it one of the same class again where it is the memory's."""
    return {"type": type(error).__name__, "message": str(error)}


def error_of(said: Json) -> Exception:
    kind = getattr(errors, said["type"], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return kind(said["message"])
    return RuntimeError(f"{said['type']}: {said['message']}")


def _raise(outcome: Json | None) -> None:
    if outcome is not None:
        raise error_of(outcome)


def _writes(writes: Sequence[tuple[Namespace, Sequence[MemoryRecord]]]) -> list[Any]:
    return [[namespace, [record.to_json() for record in records]] for namespace, records in writes]


def _found(lines: Sequence[tuple[Json, float | None]]) -> list[ScoredRecord]:
    return [ScoredRecord(MemoryRecord.from_json(record), score) for record, score in lines]


# -- the other process -------------------------------------------------------------------------------------------------


class _Keeper:
    """The process that keeps stores, and who waits for which of its answers."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # what interrupts us at a terminal is ours to deal with: writes on their way still count
        )
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._ended: str | None = None
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        for work in (self._send, self._receive):
            threading.Thread(target=work, name="memory in another process", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._ended is None and self._process.poll() is None

    def ask(self, *request: Any) -> Future[Any]:
        number, answer = next(self._numbers), Future[Any]()
        line = json.dumps([number, *request]).encode() + b"\n"
        with self._lock:
            if self._ended is not None:
                raise MemoryServerError(self._ended)
            self._waiting[number] = answer
            self._outbox.put(line)
        return answer

    def wait(self, answer: Future[Any]) -> Any:
        try:
            return answer.result(ANSWER_SECONDS)
        except TimeoutError:
            raise self.hung() from None

    def hung(self) -> MemoryServerError:
        return MemoryServerError(
            f"the process that keeps the memory ({self._process.pid}) has not answered for {ANSWER_SECONDS:g} s; "
            "end it, then go on: what was acknowledged is kept"
        )

    def _send(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it ended: `_receive` sees that too, and tells
            while (line := self._outbox.get()) is not None:
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def _receive(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith(b"\n"):  # it ended in the middle of an answer
                break
            number, outcome, error = json.loads(line)
            with self._lock:
                answer = self._waiting.pop(number)
            if not answer.set_running_or_notify_cancel():
                continue
            if error is None:
                answer.set_result(outcome)
            else:
                answer.set_exception(error_of(error))
        code = self._process.wait()
        with self._lock:
            self._ended = (
                f"the process that keeps the memory ended (exit status {code}); what was acknowledged is kept: go on "
                "with what is missing"
            )
            self._outbox.put(None)
            left, self._waiting = list(self._waiting.values()), {}
        for answer in left:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(MemoryServerError(self._ended))


_current: _Keeper | None = None
_current_lock = threading.Lock()


def _keeper() -> _Keeper:
    """This process's keeper, a new one where there is none (any more)."""
    global _current
    with _current_lock:
        if _current is None or _current.process_id != os.getpid() or not _current.alive:
            _current = _Keeper()
        return _current
