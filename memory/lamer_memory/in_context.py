"""Memory in the RAM of this process: the backend of the paper's setting, where a trial recalls only its own episodes.

What must stay true: a namespace is one dict from key to record in order of writing (an upsert moves to the end), so a
put and the look-up of a namespace cost the same however many trials a process has played. Nothing survives the
process (`persistent = False`), and the async forms run inline: no call here waits on anything but a short lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from threading import Lock

from lamer_memory.base import MemoryBackend, MemoryRecord, MetadataValue, Namespace, ScoredRecord, annotated
from lamer_memory.errors import MemoryClosedError

_FIELDS = frozenset({"key", "task_id", "episode", "kind", "text", "success"})


def matches(record: MemoryRecord, filter: Mapping[str, MetadataValue] | None) -> bool:
    """Whether all of `filter` holds: equality on record fields, else on metadata keys that the record has."""
    for name, wanted in (filter or {}).items():
        if name in _FIELDS:
            if getattr(record, name) != wanted:
                return False
        elif name not in record.metadata or record.metadata[name] != wanted:
            return False
    return True


class InContextMemory(MemoryBackend):
    """Records in a dict per namespace, newest last. Safe to share between threads and event loops."""

    persistent = False

    def __init__(self) -> None:
        self._spaces: dict[Namespace, dict[str, MemoryRecord]] = {}
        self._lock = Lock()
        self._closed = False

    def put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        # The caller keeps its metadata dict; what is stored must not change with it.
        kept = [replace(record, metadata=dict(record.metadata)) if record.metadata else record for record in records]
        with self._lock:
            self._check_open()
            if not kept:
                return
            space = self._spaces.setdefault(namespace, {})
            for record in kept:
                space.pop(record.key, None)
                space[record.key] = record

    def search(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        with self._lock:
            self._check_open()
            space = self._spaces.get(namespace)
            if not space or limit < 1:
                return []
            found = (record for record in reversed(space.values()) if matches(record, filter))
            return [ScoredRecord(record, None) for record in islice(found, limit)]

    def annotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> None:
        with self._lock:
            self._check_open()
            space = self._spaces.get(namespace, {})
            for key, note in notes.items():
                if key in space:
                    space[key] = annotated(space[key], note)

    def delete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        with self._lock:
            self._check_open()
            space = self._spaces.get(namespace)
            if space is None:
                return
            for key in () if keys is None else keys:
                space.pop(key, None)
            if keys is None or not space:  # a process that plays a million trials must not keep a million empty dicts
                del self._spaces[namespace]

    def namespaces(self) -> list[Namespace]:
        """Every namespace that holds a record, sorted."""
        with self._lock:
            self._check_open()
            return sorted(self._spaces)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._spaces.clear()

    async def aput(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        self.put(namespace, records)

    async def asearch(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        return self.search(namespace, query, filter, limit)

    async def adelete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        self.delete(namespace, keys)

    async def aannotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> None:
        self.annotate(namespace, notes)

    async def aclose(self) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise MemoryClosedError("in-context memory was closed; make a new InContextMemory()")
