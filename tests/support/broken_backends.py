"""Memory backends that each break one promise; `test_memory_conformance` runs the suite on them, and each is caught."""

import asyncio
from dataclasses import replace

import pytest

from lamer_memory import InContextMemory
from lamer_memory.conformance import BackendConformance


class Appends(InContextMemory):
    """Writes the same key twice instead of over itself."""

    def put(self, namespace, records):
        count = sum(len(space) for space in self._spaces.values())
        super().put(namespace, [replace(r, key=f"{r.key}#{count + i}") for i, r in enumerate(records)])


class KeepsPlace(InContextMemory):
    """An upsert replaces the record but leaves it where it was."""

    def put(self, namespace, records):
        super().put(namespace, [])
        self._spaces.setdefault(namespace, {}).update({record.key: record for record in records})


class Strips(InContextMemory):
    """Trims white space off texts."""

    def put(self, namespace, records):
        super().put(namespace, [replace(record, text=record.text.strip()) for record in records])


class Cuts(InContextMemory):
    """Cuts long texts."""

    def put(self, namespace, records):
        super().put(namespace, [replace(record, text=record.text[:100_000]) for record in records])


class Normalises(InContextMemory):
    """Stores texts in ASCII."""

    def put(self, namespace, records):
        ascii_texts = [record.text.encode("ascii", "replace").decode() for record in records]
        super().put(namespace, [replace(r, text=text) for r, text in zip(records, ascii_texts, strict=True)])


class Replaces(InContextMemory):
    """Puts a replacement character in place of what its database does not take."""

    def put(self, namespace, records):
        texts = [r.text.encode("utf-8", "replace").decode().replace("\0", "\ufffd") for r in records]
        super().put(namespace, [replace(r, text=text) for r, text in zip(records, texts, strict=True)])


class Escapes(InContextMemory):
    """Escapes a namespace for its database, and not what looks escaped."""

    def _safe(self, namespace):
        return tuple(label.replace("\0", "\ufffd").replace("\ud800", "\ufffd") for label in namespace)

    def put(self, namespace, records):
        super().put(self._safe(namespace), records)

    def search(self, namespace, query=None, filter=None, limit=10):
        return super().search(self._safe(namespace), query, filter, limit)

    def delete(self, namespace, keys=None):
        super().delete(self._safe(namespace), keys)


class Joins(InContextMemory):
    """Joins the namespace into a path."""

    def put(self, namespace, records):
        super().put(("/".join(namespace),), records)

    def search(self, namespace, query=None, filter=None, limit=10):
        return super().search(("/".join(namespace),), query, filter, limit)

    def delete(self, namespace, keys=None):
        super().delete(("/".join(namespace),), keys)


class Prefixes(InContextMemory):
    """A search of a namespace also finds those below it."""

    def search(self, namespace, query=None, filter=None, limit=10):
        found = super().search(namespace, query, filter, limit)
        for other in list(self._spaces):
            if other[: len(namespace)] == namespace and other != namespace:
                found += super().search(other, query, filter, limit)
        return found[: max(0, limit)]


class LimitsFirst(InContextMemory):
    """Takes the newest `limit` and filters those."""

    def search(self, namespace, query=None, filter=None, limit=10):
        newest = {entry.record.key for entry in super().search(namespace, None, None, limit)}
        return [e for e in super().search(namespace, query, filter, 10**6) if e.record.key in newest]


class FiltersAny(InContextMemory):
    """A record passes if one of the filters holds."""

    def search(self, namespace, query=None, filter=None, limit=10):
        if not filter:
            return super().search(namespace, query, None, limit)
        passed = {
            e.record.key
            for item in filter.items()
            for e in super(FiltersAny, self).search(namespace, None, dict([item]), 10**6)
        }
        return [e for e in super().search(namespace, query, None, 10**6) if e.record.key in passed][:limit]


class IgnoresMetadata(InContextMemory):
    """Filters on record fields only."""

    def search(self, namespace, query=None, filter=None, limit=10):
        known = {"key", "task_id", "episode", "kind", "text", "success"}
        return super().search(namespace, query, {k: v for k, v in (filter or {}).items() if k in known}, limit)


class OldestFirst(InContextMemory):
    def search(self, namespace, query=None, filter=None, limit=10):
        return super().search(namespace, query, filter, 10**6)[::-1][: max(0, limit)]


class Unlimited(InContextMemory):
    def search(self, namespace, query=None, filter=None, limit=10):
        return super().search(namespace, query, filter, 10**6)


class Racy(InContextMemory):
    """Reads, waits, writes back: concurrent writers lose records."""

    def put(self, namespace, records):
        import time

        space = dict(self._spaces.get(namespace, {}))
        time.sleep(0.0005)
        super().put(namespace, [])
        for record in records:
            space.pop(record.key, None)
            space[record.key] = record
        self._spaces[namespace] = space


class AsyncRacy(InContextMemory):
    async def aput(self, namespace, records):
        space = dict(self._spaces.get(namespace, {}))
        await asyncio.sleep(0)
        self._spaces[namespace] = space | {record.key: record for record in records}


class AsyncForgetsFilter(InContextMemory):
    async def asearch(self, namespace, query=None, filter=None, limit=10):
        return self.search(namespace, query, None, limit)


class DeletesAll(InContextMemory):
    """Deleting keys deletes the namespace."""

    def delete(self, namespace, keys=None):
        super().delete(namespace)


class DeletesByKeyEverywhere(InContextMemory):
    def delete(self, namespace, keys=None):
        for space in [namespace] if keys is None else list(self._spaces):
            super().delete(space, keys)


class StaysOpen(InContextMemory):
    def close(self):
        pass


class ClosesOnce(InContextMemory):
    def close(self):
        self._check_open()
        super().close()


class SharesMetadata(InContextMemory):
    """Keeps the caller's metadata dict."""

    def put(self, namespace, records):
        super().put(namespace, records)
        for record in records:
            if self._spaces[namespace][record.key] == record:
                self._spaces[namespace][record.key] = record


class StringMetadata(InContextMemory):
    """Metadata values become text."""

    def put(self, namespace, records):
        super().put(namespace, [replace(r, metadata={k: str(v) for k, v in r.metadata.items()}) for r in records])


class ScoresOutOfRange(InContextMemory):
    def search(self, namespace, query=None, filter=None, limit=10):
        found = super().search(namespace, query, filter, limit)
        return found if query is None else [entry._replace(score=-0.5) for entry in found]


class Forgets(InContextMemory):
    """Says that it persists, and does not."""

    persistent = True


class MetadataWins(InContextMemory):
    """A metadata key hides the record field of its name."""

    def search(self, namespace, query=None, filter=None, limit=10):
        found = super().search(namespace, query, None, 10**6)
        fields = [({**e.record.to_json(), **e.record.metadata}, e) for e in found]
        wanted = (filter or {}).items()
        return [e for row, e in fields if all(k in row and row[k] == v for k, v in wanted)][: max(0, limit)]


class AlwaysScores(InContextMemory):
    def search(self, namespace, query=None, filter=None, limit=10):
        return [entry._replace(score=1.0) for entry in super().search(namespace, query, filter, limit)]


class NeedsNamespace(InContextMemory):
    """Fails on a namespace that it has not seen."""

    def search(self, namespace, query=None, filter=None, limit=10):
        self._check_open()
        self._spaces[namespace]
        return super().search(namespace, query, filter, limit)

    def delete(self, namespace, keys=None):
        self._check_open()
        self._spaces[namespace]
        super().delete(namespace, keys)


class NeedsRecords(InContextMemory):
    """Fails on an empty put."""

    def put(self, namespace, records):
        super().put(namespace, [records[0], *records[1:]])


class GlobalKeys(InContextMemory):
    """A key lives in the namespace that wrote it last."""

    def put(self, namespace, records):
        for space in list(self._spaces):
            super().delete(space, [record.key for record in records])
        super().put(namespace, records)


class Buries(InContextMemory):
    """A deleted namespace takes no records any more."""

    def put(self, namespace, records):
        if ("buried", *namespace) not in self._spaces:
            super().put(namespace, records)

    def delete(self, namespace, keys=None):
        super().delete(namespace, keys)
        if keys is None:
            self._spaces[("buried", *namespace)] = {}


class ForgetsNotes(InContextMemory):
    """Takes no notes."""

    def annotate(self, namespace, notes):
        pass


class ReplacesMetadata(InContextMemory):
    """A note takes the place of what the metadata said."""

    def annotate(self, namespace, notes):
        for key, note in notes.items():
            for found in self.search(namespace, filter={"key": key}):
                self.put(namespace, [replace(found.record, metadata=dict(note))])


class NotesForAll(InContextMemory):
    """Notes at every record what is said of one."""

    def annotate(self, namespace, notes):
        for note in notes.values():
            super().annotate(namespace, dict.fromkeys([r.record.key for r in self.search(namespace, limit=99)], note))


BROKEN = [
    kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, InContextMemory) and kind is not InContextMemory
]


def suite(kind):
    class Suite(BackendConformance):
        @pytest.fixture
        def make_backend(self):
            return kind

        @pytest.fixture
        def reopen(self):
            return kind if kind.persistent else None

    Suite.__name__ = Suite.__qualname__ = f"Test{kind.__name__}"
    return Suite


for _kind in BROKEN:
    globals()[f"Test{_kind.__name__}"] = suite(_kind)
