"""A store as it was at one moment, for training: what a collection may see is fixed before its first trial.

What must stay true: whatever is written after the view was made is invisible to its searches, with one exception, a
trial's own records (a search that filters on the trial's id), without which no trial could learn from its failures.
So the trials of a group never see each other's records, and a collection sees the same in whatever order it is played.
A record that is overwritten after the view was made is neither shown as it was nor as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from lamer_memory.base import MemoryBackend, MemoryRecord, MetadataValue, Namespace, ScoredRecord
from lamer_memory.encoding import digest, encode
from lamer_memory.errors import MemoryClosedError
from lamer_memory.recall import TRIAL_KEY

EVERYTHING = 1_000_000_000


class FrozenView(MemoryBackend):
    """`backend` with its `namespace` frozen as it is now; other namespaces, a trial's own included, pass through.

    Writes go to the backend. Closing the view leaves the backend open. Reading the namespace takes its time: with an
    event loop running use `afrozen_view`. `visible` is another view's, for a process that goes on with its work.
    """

    def __init__(self, backend: MemoryBackend, namespace: Namespace, visible: Mapping[str, str] | None = None) -> None:
        self.persistent = backend.persistent
        self._backend = backend
        self._namespace = namespace
        self._visible = visible_now(backend, namespace) if visible is None else dict(visible)
        self._closed = False

    def __len__(self) -> int:
        """The number of records of the namespace that are visible."""
        return len(self._visible)

    def put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        self._check_open()
        self._backend.put(namespace, records)

    async def aput(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        self._check_open()
        await self._backend.aput(namespace, records)

    async def aput_all(self, writes: Sequence[tuple[Namespace, Sequence[MemoryRecord]]]) -> list[Exception | None]:
        self._check_open()
        return await self._backend.aput_all(writes)

    def search(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        self._check_open()
        if self._passes(namespace, filter):
            return self._backend.search(namespace, query, filter, limit)
        shown: list[ScoredRecord] = []
        for size in _sizes(limit):
            found = self._backend.search(namespace, query, filter, size)
            shown = self._shown(found)
            if len(shown) >= limit or len(found) < size:
                break
        return shown[: max(0, limit)]

    async def asearch(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        self._check_open()
        if self._passes(namespace, filter):
            return await self._backend.asearch(namespace, query, filter, limit)
        shown: list[ScoredRecord] = []
        for size in _sizes(limit):
            found = await self._backend.asearch(namespace, query, filter, size)
            shown = self._shown(found)
            if len(shown) >= limit or len(found) < size:
                break
        return shown[: max(0, limit)]

    def delete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        self._check_open()
        self._backend.delete(namespace, keys)

    async def adelete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        self._check_open()
        await self._backend.adelete(namespace, keys)

    def close(self) -> None:
        self._closed = True

    def _passes(self, namespace: Namespace, filter: Mapping[str, MetadataValue] | None) -> bool:
        return namespace != self._namespace or TRIAL_KEY in (filter or {})

    def _shown(self, found: Sequence[ScoredRecord]) -> list[ScoredRecord]:
        return [entry for entry in found if self._visible.get(entry.record.key) == _version(entry.record)]

    def _check_open(self) -> None:
        if self._closed:
            raise MemoryClosedError("the frozen view was closed; make a new one of the backend")


async def afrozen_view(backend: MemoryBackend, namespace: Namespace) -> FrozenView:
    """A FrozenView made without holding up the event loop."""
    return await asyncio.to_thread(FrozenView, backend, namespace)


def visible_now(backend: MemoryBackend, namespace: Namespace) -> dict[str, str]:
    """What a view made now would show: the digest of each record under its key."""
    return {entry.record.key: _version(entry.record) for entry in backend.search(namespace, limit=EVERYTHING)}


def _version(record: MemoryRecord) -> str:
    return digest(encode(record), record.text)


def _sizes(limit: int) -> Iterator[int]:
    """Wider and wider: what is new since the view was made is often what matches best."""
    size = max(1, limit)
    while size < EVERYTHING:
        yield size
        size *= 4
    yield EVERYTHING
