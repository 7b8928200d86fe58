"""Memory in Chroma: survives the process, ranks by similarity, can be shared through a server.

What must stay true: a put that returned is durable, and every later search of any client sees it; records of two
namespaces never meet (each row carries its namespace's digest, and every read and delete names it); an answer by
similarity has `limit` records wherever the namespace has that many that match.

One collection holds all namespaces, because making a collection costs more than a trial may and most namespaces hold a
handful of records. A row is the text as document, the record's other fields as JSON, and four digests to look up by. A
trial's own records are read by an exact `get`. A query first takes the nearest rows of all namespaces and keeps those
that match; only where too few do are the namespace's vectors compared one by one (Chroma's own filtered query costs ten
times an unfiltered one, and returns too few for rare matches).

A collection without vectors (`embedder=None`) is for who reads by trial, task or key alone: half of what an upsert
costs is the vector's index, and a fifth to a third the document's, which nobody here searches by; so there the text is
a field.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, TypeVar, cast

from lamer_memory.base import MemoryBackend, MemoryRecord, MetadataValue, Namespace, ScoredRecord
from lamer_memory.chroma.batch_reader import BatchReader
from lamer_memory.chroma.batch_writer import BatchWriter
from lamer_memory.chroma.client import NO_VECTORS, READ_CHUNK, Location, chunks
from lamer_memory.chroma.opening import connect, disconnect
from lamer_memory.chroma.rows import (
    NOTES,
    Found,
    LookUp,
    Row,
    Wanted,
    found_rows,
    latest,
    notes_of,
    record_of,
    write_rows,
)
from lamer_memory.embedders import Embedder, Vector, embedder_of, open_embedder
from lamer_memory.encoding import (
    WriteOrder,
    detached,
    load_namespace,
    namespace_digest,
    record_digest,
    storable,
)
from lamer_memory.errors import MemoryBackendError, MemoryClosedError
from lamer_memory.in_context import matches

T = TypeVar("T")

DEFAULT_COLLECTION = "lamer-memory"
KIND = "memory"

WHOLE = 512
"""A namespace of fewer rows than this is read in one go; of a larger one the fields are read first."""
NEAREST = (64, 512)
"""How many nearest rows of all namespaces a query looks through before it compares the namespace's own."""


class ChromaMemory(MemoryBackend):
    """Records in a Chroma collection at `location`: None (ephemeral), a directory, or a server's URL.

    `embedder` is "hashing", "minilm", "URL#MODEL" or an Embedder; a collection remembers which one filled it and
    refuses another. None takes a collection as it was filled, and a new one keeps no vectors: writing is cheaper
    there, and the answer to a query is not ranked, the newest come first. Operations on a server are tried again for
    `retry_s` seconds. A `read_only` store must be there, refuses writes, and a directory stays untouched: what is read
    is a copy of how it was when it was opened (unless this process has it open for writing).

    Raises MemoryLockedError (another process has the directory), MemoryServerError (the server does not answer),
    EmbedderError, MemoryBackendError (damaged, foreign or newer store).
    """

    def __init__(
        self,
        location: Location = None,
        *,
        embedder: str | Embedder | None = "hashing",
        collection: str = DEFAULT_COLLECTION,
        retry_s: float = 20.0,
        read_only: bool = False,
    ) -> None:
        self.persistent = location is not None
        self.read_only = read_only
        self._embedder = None if embedder is None else open_embedder(embedder)
        self._connection = connect(location, read_only=read_only, retry_s=retry_s)
        self._closed = False
        self._close_lock = threading.Lock()
        try:
            wanted = None if self._embedder is None else self._embedder.fingerprint
            self._collection = self._connection.collection(collection, KIND, wanted, make=not read_only)
            self._filled_by = str((self._collection.metadata or {})["lamer_embedder"])
            if self._embedder is None:
                self._embedder = embedder_of(self._filled_by)
            self._order = WriteOrder()
            self._order.seen(latest(self._connection, self._collection, self._order))
        except BaseException:
            disconnect(self._connection)
            raise
        self._writer = BatchWriter[Row](self._write, f"memory writer of {self._connection.name}")
        self._reader = BatchReader[LookUp, list[Found] | None](
            self._look_up, f"memory reader of {self._connection.name}"
        )

    @property
    def location(self) -> str:
        """The directory or URL, or words for an ephemeral store."""
        return self._connection.name

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        self._put(namespace, records).result()

    async def aput(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        await asyncio.wrap_future(self._put(namespace, records))

    async def aput_all(self, writes: Sequence[tuple[Namespace, Sequence[MemoryRecord]]]) -> list[Exception | None]:
        self._check_writable()
        kept = [(namespace, [detached(record) for record in records]) for namespace, records in writes]

        def put_all() -> list[Future[None]]:
            with self._writer.together():  # one upsert for all
                return [self._queue(namespace, records) for namespace, records in kept]

        asked = self._submit(put_all)
        outcomes = await asyncio.gather(*map(asyncio.wrap_future, asked), return_exceptions=True)
        defects = [found for found in outcomes if found is not None and not isinstance(found, MemoryBackendError)]
        if defects:
            raise defects[0]
        return cast(list[Exception | None], outcomes)

    def delete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        self._delete(namespace, keys).result()

    async def adelete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        await asyncio.wrap_future(self._delete(namespace, keys))

    def annotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> None:
        self._annotate(namespace, notes).result()

    async def aannotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> None:
        await asyncio.wrap_future(self._annotate(namespace, notes))

    def close(self) -> None:
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        self._writer.close()
        self._reader.close()
        try:
            if self._connection.ephemeral:
                self._connection.drop(self._collection.name)
        finally:
            disconnect(self._connection)

    def _put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> Future[None]:
        self._check_writable()
        kept = [detached(record) for record in records]
        return self._submit(lambda: self._queue(namespace, kept))

    def _queue(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> Future[None]:
        def rows() -> list[Row]:
            numbers = self._order.take(len(records))
            return [Row(namespace, record, number) for record, number in zip(records, numbers, strict=True)]

        return self._writer.put(rows) if records else _done()

    def _delete(self, namespace: Namespace, keys: Sequence[str] | None) -> Future[None]:
        self._check_writable()
        ids = None if keys is None else [record_digest(namespace, key) for key in keys]

        def delete() -> None:
            if ids is None:
                self._call(self._collection.delete, where={"space": namespace_digest(namespace)})
                return
            for part in chunks(ids):
                self._call(self._collection.delete, ids=part)

        return self._submit(lambda: self._writer.run(delete)) if ids is None or ids else _done()

    def _annotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> Future[None]:
        self._check_writable()
        by_id = {record_digest(namespace, key): dict(note) for key, note in notes.items()}

        def annotate() -> None:
            # Chroma updates what is there and adds nothing, so a record that is deleted meanwhile stays deleted.
            for part in chunks(list(by_id)):
                found = self._get(ids=part, include=["metadatas"])
                merged = [
                    {NOTES: json.dumps({**notes_of(fields), **by_id[id]}, sort_keys=True)}
                    for id, fields in zip(found["ids"], found["metadatas"], strict=True)
                ]
                if merged:
                    self._call(self._collection.update, ids=found["ids"], metadatas=merged)

        return self._submit(lambda: self._writer.run(annotate)) if by_id else _done()

    def _submit(self, ask: Callable[[], T]) -> T:
        with self._close_lock:  # a close that comes first is said as such, one that comes later waits for this write
            self._check_open()
            return ask()

    @property
    def vectors(self) -> bool:
        """Whether records have vectors here, so that the answer to a query is ranked by similarity."""
        return self._filled_by != NO_VECTORS

    def _write(self, rows: list[Row]) -> None:
        write_rows(self._connection, self._collection, self._embedding() if self.vectors else None, rows)

    def _embedding(self) -> Embedder:
        if self._embedder is None:
            raise MemoryBackendError(
                f"{self._connection.name} was embedded with {self._filled_by}: name that embedder to search it by "
                "similarity or to write to it"
            )
        return self._embedder

    # -- reading ------------------------------------------------------------------------------------------------------

    def search(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        self._check_open()
        if limit < 1:
            return []
        wanted = Wanted(namespace, dict(filter or {}))
        if query is None or not self.vectors:
            return [ScoredRecord(record, None) for record in self._newest(wanted, limit)]
        (vector,) = self._embedding().embed([storable(query)])
        nearest = self._nearest(wanted, vector, limit)
        if nearest is None:
            near = self._compared(wanted, vector, limit)
            records = self._by_ids([id for id, _ in near])  # one that was deleted in between is left out
            nearest = [(records[id], distance) for id, distance in near if id in records]
        return [ScoredRecord(record, min(1.0, max(0.0, 1.0 - distance))) for record, distance in nearest]

    async def asearch(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        unranked = query is None or not self.vectors
        look_up = Wanted(namespace, dict(filter or {})).look_up() if unranked and limit > 0 else None
        if look_up is not None:  # what every trial asks for before every episode: read for many at once
            with self._close_lock:
                self._check_open()
                asked = self._reader.ask(look_up)
            found = await asyncio.wrap_future(asked)
            if found is not None:
                return [ScoredRecord(record, None) for record in self._ordered(found, dict(filter or {}), limit)]
        return await super().asearch(namespace, query, filter, limit)

    def _look_up(self, asked: Sequence[LookUp]) -> list[list[Found] | None]:
        """The rows of each look-up; None where there may be more than one read gives."""
        rows: dict[LookUp, list[Found]] = {look_up: [] for look_up in asked}
        complete = True
        for field in {look_up.field for look_up in rows}:
            digests = [look_up.digest for look_up in rows if look_up.field == field]
            size = WHOLE * len(digests)
            where = {field: {"$in": digests}}
            found = self._get(where=where, include=self._row, limit=size)
            complete = complete and len(found["ids"]) < size
            for row in found_rows(found):
                rows[LookUp(field, row.fields[field])].append(row)
        return [rows[look_up] if complete else None for look_up in asked]

    def _ordered(self, found: Sequence[Found], filter: Mapping[str, MetadataValue], limit: int) -> list[MemoryRecord]:
        """The newest that match."""
        self._order.seen(fields["seq"] for fields, _ in found)
        newest_first = sorted(found, key=lambda row: int(row.fields["seq"]), reverse=True)
        records = (self._decode(fields, text) for fields, text in newest_first)
        return list(islice((record for record in records if matches(record, filter)), limit))

    def _newest(self, wanted: Wanted, limit: int) -> list[MemoryRecord]:
        found = self._get(**wanted.rows(), include=self._row, limit=WHOLE)
        if len(found["ids"]) < WHOLE:
            return self._ordered(list(found_rows(found)), wanted.filter, limit)
        # Perhaps more: order the fields of all, then read the texts of those that count.
        found = self._get(**wanted.rows(), include=["metadatas"])
        self._order.seen(fields["seq"] for fields in found["metadatas"])
        places = sorted(range(len(found["ids"])), key=lambda place: found["metadatas"][place]["seq"], reverse=True)
        ids = [found["ids"][place] for place in places if wanted.may_be(self._decode(found["metadatas"][place], ""))]
        newest: list[MemoryRecord] = []
        for first in range(0, len(ids), READ_CHUNK):
            if len(newest) >= limit:
                break
            chunk = ids[first : first + (READ_CHUNK if wanted.by_text else min(READ_CHUNK, limit - len(newest)))]
            records_of = self._by_ids(chunk)
            newest += [records_of[id] for id in chunk if id in records_of and matches(records_of[id], wanted.filter)]
        return newest[:limit]

    def _nearest(self, wanted: Wanted, vector: Vector, limit: int) -> list[tuple[MemoryRecord, float]] | None:
        """Records and distances out of the nearest of all namespaces; None if that leaves fewer than `limit`."""
        for size in NEAREST:
            if size >= limit:
                found: Any = self._call(
                    self._collection.query, query_embeddings=[vector], n_results=size, include=["distances"]
                )
                kept = self._kept(wanted, found["ids"][0], found["distances"][0], limit)
                if len(kept) == limit:
                    return kept
                if len(found["ids"][0]) < size:
                    break
        return None

    def _kept(
        self, wanted: Wanted, ids: Sequence[str], distances: Sequence[float], limit: int
    ) -> list[tuple[MemoryRecord, float]]:
        """The first that match; more and more are read, because mostly the first few are enough."""
        kept: list[tuple[MemoryRecord, float]] = []
        first, step = 0, 2 * limit
        while first < len(ids) and len(kept) < limit:
            rows = self._rows(ids[first : first + step])
            for id, distance in zip(ids[first : first + step], distances[first : first + step], strict=True):
                if id in rows and rows[id].fields["space"] == wanted.space:
                    record = self._decode(*rows[id])
                    if matches(record, wanted.filter):
                        kept.append((record, distance))
            first, step = first + step, 4 * step
        return kept[:limit]

    def _compared(self, wanted: Wanted, vector: Vector, limit: int) -> list[tuple[str, float]]:
        """The same by comparing every row of the namespace that matches."""
        import numpy as np

        target = np.asarray(vector, dtype=np.float32)
        include = ["metadatas", "embeddings", *(["documents"] if wanted.by_text else [])]
        near: list[tuple[str, float]] = []
        ids = self._get(**wanted.rows(), include=[])["ids"]
        for part in chunks(ids):
            found = self._get(ids=part, include=include)
            if not found["ids"]:
                continue
            texts = found["documents"] or [""] * len(found["ids"])
            matrix = np.asarray(found["embeddings"], dtype=np.float32)
            distances = (1.0 - matrix @ target / np.linalg.norm(matrix, axis=1)).tolist()
            near += [
                (id, distance)
                for id, fields, text, distance in zip(found["ids"], found["metadatas"], texts, distances, strict=True)
                if wanted.may_be(self._decode(fields, text))
            ]
        near.sort(key=lambda entry: entry[1])
        return near[:limit]

    def namespaces(self) -> list[Namespace]:
        """Every namespace that holds a record, sorted."""
        self._check_open()
        names = {fields["namespace"] for rows in self._all_rows() for fields in rows["metadatas"]}
        return sorted(load_namespace(name) for name in names)

    def _all_rows(self) -> Iterator[Any]:
        for part in chunks(self._get(include=[])["ids"]):
            yield self._get(ids=part, include=["metadatas"])

    def _by_ids(self, ids: Sequence[str]) -> dict[str, MemoryRecord]:
        return {id: self._decode(*row) for id, row in self._rows(ids).items()}

    def _rows(self, ids: Sequence[str]) -> dict[str, Found]:
        rows: dict[str, Found] = {}
        for part in chunks(ids):
            found = self._get(ids=part, include=self._row)
            rows.update(zip(found["ids"], found_rows(found), strict=True))
        return rows

    @property
    def _row(self) -> list[str]:
        """What of a row makes a record."""
        return ["metadatas", "documents"] if self.vectors else ["metadatas"]

    def _get(self, **arguments: Any) -> Any:
        return self._call(self._collection.get, **arguments)

    def _decode(self, fields: Mapping[str, Any], text: str) -> MemoryRecord:
        return record_of(fields, text, self._connection.name)

    def _call(self, operation: Callable[..., T], **arguments: Any) -> T:
        return self._connection.call(operation, **arguments)

    def _check_open(self) -> None:
        if self._closed:
            raise MemoryClosedError(
                f"the memory in {self._connection.name} was closed; open it again with ChromaMemory"
            )
        self._connection.check_process()

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise MemoryBackendError(f"the memory in {self._connection.name} was opened to be read only")


def _done() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done
