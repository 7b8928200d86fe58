"""What a run may see of other tasks, fixed before its first trial.

What must stay true: whatever is written after the view was made is invisible to its searches, with one exception, a
trial's own records (a search that filters on the trial's id), without which no trial could learn from its failures.
So the trials of a group never see each other's records, and a collection sees the same in whatever order it is played.

Two ways to say what is visible. `visible` names records of the namespace itself by their digests: one that is
overwritten after the view was made is neither shown as it was nor as it is. `before` is another namespace, which nobody
writes to once the run plays. There an answer depends on its records and the query alone, with an `embedder` to the last
place: a store's index of nearest neighbours is approximate, and has to choose among records that are equally near (all
that a group wrote about one task are), so every record is compared, and of equals the newest comes first. Training that
is resumed then sees what it would have seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lamer_memory.base import (
    EVERYTHING,
    Asking,
    MemoryBackend,
    MemoryRecord,
    MetadataValue,
    Namespace,
    ScoredRecord,
    Search,
    aask,
    ask,
)
from lamer_memory.embedders import Embedder
from lamer_memory.encoding import about, digest, encode, storable
from lamer_memory.errors import MemoryClosedError
from lamer_memory.hygiene import all_namespaces, read_all
from lamer_memory.in_context import matches
from lamer_memory.recall import TRIAL_KEY
from lamer_memory.utility import PREFIX

if TYPE_CHECKING:
    import numpy as np

RANKINGS = 64
"""Latest queries whose rankings are kept."""
DECIMALS = 9
"""Similarities that differ by less are equal: what is beyond is the noise of adding up."""


class FrozenView(MemoryBackend):
    """`backend` with its `namespace` frozen; other namespaces, a trial's own included, and all writes pass through.

    Shown is what `visible` says (another view's, for a process that goes on with its work), or what is in `before`, by
    default the namespace as it is now. Without an `embedder` the backend ranks. Closing the view leaves the backend
    open. Making it takes its time: with an event loop running use `afrozen_view`.
    """

    frozen = True

    def __init__(
        self,
        backend: MemoryBackend,
        namespace: Namespace,
        visible: Mapping[str, str] | None = None,
        *,
        before: Namespace | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self.persistent = backend.persistent
        self._backend = backend
        self._namespace = namespace
        self._source = namespace if before is None else before
        self._visible = visible_now(backend, namespace) if visible is None and before is None else visible
        self._exact = None if embedder is None else self._compared(embedder)
        self._closed = False

    def put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        self._open().put(namespace, records)

    async def aput(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        await self._open().aput(namespace, records)

    async def aput_all(self, writes: Sequence[tuple[Namespace, Sequence[MemoryRecord]]]) -> list[Exception | None]:
        return await self._open().aput_all(writes)

    def search(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        return ask(self._open(), self._asking(Search(namespace, query, filter, limit)))

    async def asearch(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        return await aask(self._open(), self._asking(Search(namespace, query, filter, limit)))

    def delete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        self._open().delete(namespace, keys)

    async def adelete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        await self._open().adelete(namespace, keys)

    def annotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> None:
        self._open().annotate(namespace, notes)

    async def aannotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> None:
        await self._open().aannotate(namespace, notes)

    def namespaces(self) -> list[Namespace]:
        """The backend's."""
        return all_namespaces(self._open())

    def close(self) -> None:
        self._closed = True

    def _asking(self, search: Search) -> Asking[list[ScoredRecord]]:
        if search.namespace != self._namespace or TRIAL_KEY in (search.filter or {}):
            return (yield search)
        if self._exact is not None and search.query is not None:
            return self._exact.search(search.query, search.filter, search.limit)
        shown: list[ScoredRecord] = []
        for size in _sizes(search.limit):
            found = yield search._replace(namespace=self._source, limit=size)
            shown = [entry for entry in found if self._shows(entry.record)]
            if len(shown) >= search.limit or len(found) < size:
                break
        return shown[: max(0, search.limit)]

    def _shows(self, record: MemoryRecord) -> bool:
        return self._visible is None or self._visible.get(record.key) == _version(record)

    def _compared(self, embedder: Embedder) -> _Exact:
        return _Exact([record for record in read_all(self._backend, self._source) if self._shows(record)], embedder)

    def _open(self) -> MemoryBackend:
        if self._closed:
            raise MemoryClosedError("the frozen view was closed; make a new one of the backend")
        return self._backend


async def afrozen_view(backend: MemoryBackend, namespace: Namespace) -> FrozenView:
    """A FrozenView made without holding up the event loop."""
    return await asyncio.to_thread(FrozenView, backend, namespace)


def visible_now(backend: MemoryBackend, namespace: Namespace) -> dict[str, str]:
    """What a view made now would show: the digest of each record under its key."""
    return {record.key: _version(record) for record in read_all(backend, namespace)}


def _version(record: MemoryRecord) -> str:
    """What changes when the record is put anew; what was noted about its worth makes no other of it."""
    said = {name: value for name, value in record.metadata.items() if not name.startswith(PREFIX)}
    return digest(encode(replace(record, metadata=said)), record.text)


def _sizes(limit: int) -> Iterator[int]:
    """Wider and wider: what is new since the view was made is often what matches best."""
    size = max(1, limit)
    while size < EVERYTHING:
        yield size
        size *= 4
    yield EVERYTHING


class _Exact:
    """Records that do not change, ranked by cosine similarity, all of them for every query."""

    def __init__(self, records: Sequence[MemoryRecord], embedder: Embedder) -> None:
        """`records` come newest first."""
        self._records = records
        self._embedder = embedder
        self._vectors: np.ndarray | None = None
        self._rankings: dict[str, _Ranking] = {}

    def search(self, query: str, filter: Mapping[str, MetadataValue] | None, limit: int) -> list[ScoredRecord]:
        found: list[ScoredRecord] = []
        if not self._records or limit < 1:
            return found
        ranking = self._ranking(query)
        for place, score in zip(ranking.places, ranking.scores, strict=True):
            if matches(self._records[place], filter):
                found.append(ScoredRecord(self._records[place], float(score)))
                if len(found) == limit:
                    break
        return found

    def _ranking(self, query: str) -> _Ranking:
        """Every episode of a group asks the same again."""
        if query not in self._rankings:
            import numpy as np

            if self._vectors is None:
                self._vectors = np.asarray(self._embedder.embed([storable(about(record)) for record in self._records]))
            # Row by row, so that equal rows score equally wherever they stand (a matrix product does not promise that).
            target = np.asarray(self._embedder.embed([storable(query)])[0])
            scores = (self._vectors * target).sum(axis=1).round(DECIMALS)
            places = np.argsort(-scores, kind="stable")
            while len(self._rankings) >= RANKINGS:
                del self._rankings[next(iter(self._rankings))]
            self._rankings[query] = _Ranking(places, scores[places].clip(0.0, 1.0))
        return self._rankings[query]


class _Ranking(NamedTuple):
    """Places of all records, the best first, and their scores."""

    places: np.ndarray
    scores: np.ndarray
