"""What a run sees of other tasks, apart from what it writes: similar records come from a namespace of their own.

What must stay true: nobody writes to that namespace once the run plays, so an answer depends on its records and the
query alone, not on what the run has written meanwhile, nor on the order or the process it is asked in. A store's index
of nearest neighbours is approximate, and has to choose among records that are equally near (all that a group wrote
about one task are), so with an `embedder` every record is compared, and of equals the newest comes first: training
that is resumed sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lamer_memory.base import MemoryBackend, MemoryRecord, MetadataValue, Namespace, ScoredRecord
from lamer_memory.embedders import Embedder
from lamer_memory.encoding import about, storable
from lamer_memory.hygiene import read_all
from lamer_memory.in_context import matches
from lamer_memory.recall import TRIAL_KEY

if TYPE_CHECKING:
    import numpy as np

RANKINGS = 64
"""Latest queries whose rankings are kept."""
DECIMALS = 9
"""Similarities that differ by less are equal: what is beyond is the noise of adding up."""


class Snapshot(MemoryBackend):
    """`backend`, with searches of `namespace` answered from `before`; a trial's own records and writes pass through.

    Without an `embedder` the backend searches `before` itself. Closing the snapshot leaves the backend open.
    """

    def __init__(
        self, backend: MemoryBackend, namespace: Namespace, before: Namespace, embedder: Embedder | None = None
    ) -> None:
        self.persistent = backend.persistent
        self._backend = backend
        self._namespace = namespace
        self._before = before
        self._exact = None if embedder is None else _Exact(read_all(backend, before), embedder)

    def put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        self._backend.put(namespace, records)

    async def aput(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        await self._backend.aput(namespace, records)

    async def aput_all(self, writes: Sequence[tuple[Namespace, Sequence[MemoryRecord]]]) -> list[Exception | None]:
        return await self._backend.aput_all(writes)

    def search(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        place = self._place(namespace, filter)
        if self._exact is not None and place == self._before and query is not None:
            return self._exact.search(query, filter, limit)
        return self._backend.search(place, query, filter, limit)

    async def asearch(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        place = self._place(namespace, filter)
        if self._exact is not None and place == self._before and query is not None:
            return self._exact.search(query, filter, limit)
        return await self._backend.asearch(place, query, filter, limit)

    def delete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        self._backend.delete(namespace, keys)

    async def adelete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        await self._backend.adelete(namespace, keys)

    def close(self) -> None:
        """Nothing: the backend is its owner's."""

    def _place(self, namespace: Namespace, filter: Mapping[str, MetadataValue] | None) -> Namespace:
        return self._before if namespace == self._namespace and TRIAL_KEY not in (filter or {}) else namespace


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
