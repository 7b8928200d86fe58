"""The memory protocol: records in namespaces, written by upsert under deterministic keys.

What must stay true: a record's key depends only on (trial, episode, kind), so a node that runs again after a crash
writes the same record over itself; text comes back verbatim (so whoever has just written a record may take it as read);
a namespace never sees another's records.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

from lamer_memory.errors import MemoryBackendError

Namespace = tuple[str, ...]
Kind = Literal["trajectory", "reflection"]
MetadataValue = str | int | float | bool | None
T = TypeVar("T")
Question = TypeVar("Question")
Answer = TypeVar("Answer")

EVERYTHING = 1_000_000_000
"""A limit that no namespace reaches."""


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """One remembered text: what happened in an episode (trajectory) or what was learned from it (reflection).

    `success` says of a trajectory that its episode was won, of a reflection that its trial was in the end.
    """

    key: str
    task_id: str
    episode: int
    kind: Kind
    text: str
    success: bool
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-plain dict; `from_json` is its inverse."""
        return {
            "key": self.key,
            "task_id": self.task_id,
            "episode": self.episode,
            "kind": self.kind,
            "text": self.text,
            "success": self.success,
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MemoryRecord:
        return cls(**data)


class ScoredRecord(NamedTuple):
    """A found record and its similarity in [0, 1], None where the answer was not ranked by similarity."""

    record: MemoryRecord
    score: float | None


def annotated(record: MemoryRecord, note: Mapping[str, MetadataValue]) -> MemoryRecord:
    """The record with `note` merged into its metadata."""
    return replace(record, metadata={**record.metadata, **note})


def record_key(trial_id: str, episode: int, kind: Kind) -> str:
    """The deterministic key of a record."""
    return f"{trial_id}/{episode}/{kind}"


class MemoryBackend(ABC):
    """Where records are kept. Subclasses implement the sync four; the async four run them in a thread by default.

    All methods raise MemoryClosedError after `close` and MemoryBackendError when the store fails.
    """

    persistent: bool = True
    """False if records die with the process: the graph then keeps a trial's records in its own state."""

    frozen: bool = False
    """True if what is seen of other tasks' records is fixed, their values included."""

    @abstractmethod
    def put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        """Upsert: a record replaces the one with its key and counts as newest."""

    @abstractmethod
    def search(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        """At most `limit` records of exactly this namespace.

        `filter` is equality on record fields and metadata keys, all must hold (a record field wins over a metadata key
        of the same name). `query=None`: newest first. A backend without vectors answers a query by newest first too,
        with score None.
        """

    @abstractmethod
    def delete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        """Forget these keys, or the whole namespace; unknown keys are ignored."""

    def annotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> None:
        """Merge notes into the metadata of the records with these keys; a key that is not there is ignored.

        A backend that can change metadata alone keeps the record's place in the order; by default it is put again, and
        counts as newest.
        """
        for key, note in notes.items():
            found = self.search(namespace, filter={"key": key}, limit=1)
            self.put(namespace, [annotated(entry.record, note) for entry in found])

    @abstractmethod
    def close(self) -> None:
        """Release what is held; calling it again does nothing."""

    async def aput(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        await asyncio.to_thread(self.put, namespace, records)

    async def aput_all(self, writes: Sequence[tuple[Namespace, Sequence[MemoryRecord]]]) -> list[Exception | None]:
        """Several puts at once, in their order; of each None once it is done, or the MemoryBackendError it came to."""
        outcomes: list[Exception | None] = []
        for namespace, records in writes:
            try:
                await self.aput(namespace, records)
            except MemoryBackendError as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        return outcomes

    async def asearch(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        return await asyncio.to_thread(self.search, namespace, query, filter, limit)

    async def adelete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        await asyncio.to_thread(self.delete, namespace, keys)

    async def aannotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> None:
        await asyncio.to_thread(self.annotate, namespace, notes)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


class Search(NamedTuple):
    """The arguments of one `MemoryBackend.search`."""

    namespace: Namespace
    query: str | None = None
    filter: Mapping[str, MetadataValue] | None = None
    limit: int = 10


Asking = Generator[Search, list[ScoredRecord], T]
"""What needs several searches, written once for both worlds: it yields each search, is sent its answer, returns T."""


def ask(backend: MemoryBackend, asking: Asking[T]) -> T:
    """What `asking` returns once `backend` has answered its searches."""
    return drive(asking, lambda search: backend.search(*search))


async def aask(backend: MemoryBackend, asking: Asking[T]) -> T:
    """`ask`, async."""
    return await adrive(asking, lambda search: backend.asearch(*search))


def drive(asking: Generator[Question, Answer, T], answer: Callable[[Question], Answer]) -> T:
    """What `asking` returns once each question that it yields has been answered."""
    try:
        question = next(asking)
        while True:
            question = asking.send(answer(question))
    except StopIteration as done:
        result: T = done.value
        return result


async def adrive(asking: Generator[Question, Answer, T], answer: Callable[[Question], Awaitable[Answer]]) -> T:
    """`drive`, async."""
    try:
        question = next(asking)
        while True:
            question = asking.send(await answer(question))
    except StopIteration as done:
        result: T = done.value
        return result
