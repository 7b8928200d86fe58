"""Memory in any LangGraph store: InMemoryStore, PostgresStore, or a third party's `BaseStore`.

What must stay true: a namespace of ours is exactly one namespace of the store (an end mark keeps those below it out of
a prefix search, and an escaped label fits every store's rules); nothing but valid Unicode without NUL reaches the
store, and the record comes back verbatim all the same.

An item's value holds the readable `text`, the other fields as JSON in `record`, `seq` (order of writes, as digits of
fixed width) and one key per field and metadata entry, so that every store can filter on equality. Where the store has
an index, `text` is embedded (`about` where the record says what it is about), and a query ranks by similarity; not so
what lies in the namespace of its own trial, where nobody asks by similarity. A query to a store without an index is
answered by the newest, and a warning says so.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import weakref
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from lamer_memory.base import (
    EVERYTHING,
    MemoryBackend,
    MemoryRecord,
    MetadataValue,
    Namespace,
    ScoredRecord,
    adrive,
    annotated,
    drive,
)
from lamer_memory.embedders import Embedder, embedder_of, open_embedder
from lamer_memory.encoding import (
    WriteOrder,
    about,
    decode,
    digest,
    dump_namespace,
    encode,
    field_digest,
    in_own_namespace,
    load_namespace,
    record_digest,
    storable,
)
from lamer_memory.errors import MemoryBackendError, MemoryClosedError, MemoryConfigError, one_line
from lamer_memory.in_context import matches
from lamer_memory.ledger import is_ledger

if TYPE_CHECKING:
    from langgraph.store.base import BaseStore, Item, Op, SearchItem

T = TypeVar("T")
Doing = Generator[Sequence["Op"], list[Any], T]

ROOT = "lamer-memory"
END = "="
"""Last label of each of our namespaces; an escaped label never looks like it."""
NOTE = ("lamer-memory-note",)
"""Where a database notes what its texts are embedded with."""
LABEL_CHARS = 120
PATH_CHARS = 2_600
"""PostgreSQL's indexes take some 2,700 bytes."""
SEQ_DIGITS = 20
PATIENCE = {
    "connect_timeout": 15,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""How soon a server that cannot be reached, or has gone, is noticed (seconds; the last milliseconds)."""
NAMESPACES_PAGE = 1_000
NO_INDEX = (
    "%s has no index: what is asked for by similarity is answered by the newest records. Give it one, such as "
    "InMemoryStore(index={'dims': .., 'embed': ..}), or open StoreMemory('postgresql://..', embedder='hashing')"
)
_warned_of: set[int] = set()
"""Ids of the stores of which a warning has said that they have no index."""


class StoreMemory(MemoryBackend):
    """Records in a LangGraph store, which the caller opens, sets up and closes; its own `index` ranks them.

    A text "postgresql://.." opens a PostgresStore there instead (extra `checkpoint`), sets its tables up, and closes it
    with this object. With an `embedder` ("hashing", "minilm", "URL#MODEL" or an Embedder), which the database notes,
    it has an index (pgvector); without one it takes that which filled it. A `read_only` one refuses writes and sets
    nothing up. Raises MemoryConfigError for anything else, MemoryBackendError where the store fails.
    """

    def __init__(
        self, store: BaseStore | str, *, embedder: str | Embedder | None = None, read_only: bool = False
    ) -> None:
        from langgraph.store.base import BaseStore
        from langgraph.store.memory import InMemoryStore

        self.read_only = read_only
        self._owned = ExitStack()
        if isinstance(store, str):
            store = self._open_postgres(store, None if embedder is None else open_embedder(embedder))
        elif embedder is not None:
            raise MemoryConfigError("an embedder goes with an address: a store that is given ranks by its own `index`")
        if not isinstance(store, BaseStore):
            raise MemoryConfigError(f"StoreMemory takes a LangGraph BaseStore or 'postgresql://..', not {store!r}")
        self._store = store
        self._name = type(store).__name__
        # LangGraph's in-memory store iterates over its dicts while other threads write to them.
        self._lock = threading.Lock() if isinstance(store, InMemoryStore) else None
        self.persistent = not isinstance(store, InMemoryStore)
        self._closed = False
        self._order = WriteOrder()
        self._order_known = False

    @property
    def store(self) -> BaseStore:
        """The LangGraph store that holds the records."""
        return self._store

    def warn_without_index(self) -> None:
        """Say once in a process, on the log, that the store answers a query by the newest, where it says so itself."""
        if not getattr(self._store, "index_config", True):
            self._warn()

    def _warn(self) -> None:
        if id(self._store) not in _warned_of:
            _warned_of.add(id(self._store))
            weakref.finalize(self._store, _warned_of.discard, id(self._store))  # another store may get its id
            logging.getLogger(__name__).warning(NO_INDEX, self._name)

    def _open_postgres(self, uri: str, embedder: Embedder | None) -> BaseStore:
        if not uri.startswith(("postgresql://", "postgres://")):
            raise MemoryConfigError(f"StoreMemory opens 'postgresql://..' by itself, not {uri!r}; give it the store")
        try:
            from langgraph.store.postgres import PostgresStore
        except ImportError as error:
            raise MemoryBackendError(f"PostgresStore is not there ({error}); install lamer-graph[checkpoint]") from None

        def opened(stack: ExitStack, embedder: Embedder | None) -> BaseStore:
            index = None if embedder is None else _exact_index(embedder)
            store = stack.enter_context(PostgresStore.from_conn_string(_patient(uri), index=index))
            if not self.read_only:
                store.setup()
            return store

        try:
            with ExitStack() as first:
                embedder = self._filled_by(opened(first, None), embedder)
            return opened(self._owned, embedder)
        except MemoryBackendError:
            self._owned.close()
            raise
        except Exception as error:  # psycopg's and LangGraph's own
            self._owned.close()
            raise MemoryBackendError(f"PostgresStore cannot be opened: {one_line(error)}{_hint(error)}") from error

    def _filled_by(self, store: BaseStore, embedder: Embedder | None) -> Embedder | None:
        """What the store's texts are embedded with: `embedder`, which is noted there, else what the note says."""
        note = store.get(NOTE, "embedder")
        noted = None if note is None else str(note.value["fingerprint"])
        if embedder is None:
            return None if noted is None else embedder_of(noted)
        if noted not in (None, embedder.fingerprint):
            raise MemoryBackendError(
                f"the memory in PostgresStore was embedded with {noted}, not with {embedder.fingerprint}; open it with "
                "that embedder, or export it and import it into another database"
            )
        if noted is None and not self.read_only:
            store.put(NOTE, "embedder", {"fingerprint": embedder.fingerprint}, index=False)
        return embedder

    # -- the protocol -------------------------------------------------------------------------------------------------

    def put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        self._check_writable()
        drive(self._put(namespace, records), self._run)

    async def aput(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        if self._lock is not None:
            return await super().aput(namespace, records)
        self._check_writable()
        await adrive(self._put(namespace, records), self._arun)

    def search(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        self._check_open()
        return drive(self._find(namespace, query, filter, limit), self._run)

    async def asearch(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        if self._lock is not None:
            return await super().asearch(namespace, query, filter, limit)
        self._check_open()
        return await adrive(self._find(namespace, query, filter, limit), self._arun)

    def delete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        self._check_writable()
        drive(self._delete(namespace, keys), self._run)

    async def adelete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        if self._lock is not None:
            return await super().adelete(namespace, keys)
        self._check_writable()
        await adrive(self._delete(namespace, keys), self._arun)

    def annotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> None:
        self._check_writable()
        drive(self._annotate(namespace, notes), self._run)

    async def aannotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> None:
        if self._lock is not None:
            return await super().aannotate(namespace, notes)
        self._check_writable()
        await adrive(self._annotate(namespace, notes), self._arun)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._owned.close()

    def namespaces(self) -> list[Namespace]:
        """Every namespace that holds a record, sorted."""
        from langgraph.store.base import ListNamespacesOp, MatchCondition, SearchOp

        self._check_open()
        ours = (MatchCondition("prefix", (ROOT,)), MatchCondition("suffix", (END,)))
        names: set[Namespace] = set()
        page: list[tuple[str, ...]] = []
        offset = 0
        while offset == 0 or len(page) == NAMESPACES_PAGE:
            (page,) = self._run([ListNamespacesOp(ours, None, NAMESPACES_PAGE, offset)])
            offset += NAMESPACES_PAGE
            # A store may still list a namespace whose items are gone; the item itself says what we call it.
            for found in self._run([SearchOp(path, None, 1, 0, None, False) for path in page]) if page else []:
                names.update(load_namespace(str(item.value["namespace"])) for item in found)
        return sorted(names)

    # -- operations: each yields what the store is to do, is sent what came of it --------------------------------------

    def _put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> Doing[None]:
        if records:
            if not self._order_known:
                # The clock may have been set back since the last write: count on from what lies in its future.
                (found,) = yield [self._future_search()]
                self._order.seen(int(item.value["seq"]) for item in found)
                self._order_known = True
            yield self._put_ops(namespace, records)

    def _find(
        self, namespace: Namespace, query: str | None, filter: Mapping[str, MetadataValue] | None, limit: int
    ) -> Doing[list[ScoredRecord]]:
        ranked: list[ScoredRecord] = []
        if limit < 1:
            return ranked
        if query:
            self.warn_without_index()
            (found,) = yield [self._search(namespace, query, filter, limit)]
            ranked = self._ranked(found, filter)
            if ranked and not hasattr(self._store, "index_config") and all(entry.score is None for entry in ranked):
                self._warn()
            if len(ranked) == limit and ranked[0].score is not None:
                return ranked
        # What was written without an index comes last, the newest first.
        ranked = [entry for entry in ranked if entry.score is not None]
        have = {entry.record.key for entry in ranked}
        (found,) = yield [self._search(namespace, None, filter, EVERYTHING)]
        newest = self._newest(found, filter)
        return (ranked + [entry for entry in newest if entry.record.key not in have])[:limit]

    def _delete(self, namespace: Namespace, keys: Sequence[str] | None) -> Doing[None]:
        if keys is None:
            (found,) = yield [self._search(namespace, None, None, EVERYTHING)]
            yield self._delete_ops(namespace, [item.key for item in found])
        else:
            yield self._delete_ops(namespace, [record_digest(namespace, key) for key in keys])

    def _annotate(self, namespace: Namespace, notes: Mapping[str, Mapping[str, MetadataValue]]) -> Doing[None]:
        from langgraph.store.base import GetOp

        path = _path(namespace)
        found = yield [GetOp(path, record_digest(namespace, key)) for key in notes]
        kept = [
            self._put_op(namespace, annotated(self._decode(item), note), int(item.value["seq"]))
            for item, note in zip(found, notes.values(), strict=True)
            if item is not None
        ]
        yield kept

    def _put_ops(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> list[Op]:
        numbers = self._order.take(len(records))
        last = {record.key: (record, number) for record, number in zip(records, numbers, strict=True)}
        return [self._put_op(namespace, *entry) for entry in last.values()]

    def _put_op(self, namespace: Namespace, record: MemoryRecord, number: int) -> Op:
        from langgraph.store.base import PutOp

        value: dict[str, Any] = {
            "text": storable(record.text, nul=False),
            "record": encode(record, nul=False),
            "namespace": dump_namespace(namespace),
            "seq": f"{number:0{SEQ_DIGITS}}",
        }
        fields = {**record.metadata, **{n: v for n, v in record.to_json().items() if n != "metadata"}}
        value.update((field_digest(name, field), True) for name, field in fields.items())
        subject = about(record)
        if subject != record.text:
            value["about"] = storable(subject, nul=False)
        unsearched = in_own_namespace(namespace, record) or is_ledger(namespace)
        compared = ["about" if "about" in value else "text"]
        return PutOp(_path(namespace), record_digest(namespace, record.key), value, False if unsearched else compared)

    def _delete_ops(self, namespace: Namespace, ids: Sequence[str]) -> list[Op]:
        from langgraph.store.base import PutOp

        path = _path(namespace)
        return [PutOp(path, id, None) for id in dict.fromkeys(ids)]

    def _search(
        self, namespace: Namespace, query: str | None, filter: Mapping[str, MetadataValue] | None, limit: int
    ) -> Op:
        from langgraph.store.base import SearchOp

        wanted = {field_digest(name, value): True for name, value in (filter or {}).items()}
        safe = None if query is None else storable(query, nul=False)
        return SearchOp(_path(namespace), wanted or None, limit, 0, safe, False)

    def _future_search(self) -> Op:
        from langgraph.store.base import SearchOp

        return SearchOp((ROOT,), {"seq": {"$gt": f"{self._order.now():0{SEQ_DIGITS}}"}}, EVERYTHING, 0, None, False)

    def _run(self, ops: Sequence[Op]) -> list[Any]:
        if not ops:
            return []
        try:
            if self._lock is None:
                return self._store.batch(ops)
            with self._lock:
                # One by one: an indexed InMemoryStore fails on two equal texts in one batch.
                return [result for op in ops for result in self._store.batch([op])]
        except Exception as error:  # any store's own
            raise MemoryBackendError(f"{self._name}: {one_line(error)}") from error

    async def _arun(self, ops: Sequence[Op]) -> list[Any]:
        if not ops:
            return []
        try:
            return await self._store.abatch(ops)
        except Exception as error:  # any store's own
            raise MemoryBackendError(f"{self._name}: {one_line(error)}") from error

    # -- answers ------------------------------------------------------------------------------------------------------

    def _ranked(self, found: Sequence[SearchItem], filter: Mapping[str, MetadataValue] | None) -> list[ScoredRecord]:
        """The most similar first; what was written without an index comes last, unscored."""
        items = sorted(found, key=lambda item: -1.0 if item.score is None else item.score, reverse=True)
        scored = [
            ScoredRecord(self._decode(item), None if item.score is None else min(1.0, max(0.0, item.score)))
            for item in items
        ]
        return [entry for entry in scored if matches(entry.record, filter)]

    def _newest(self, found: Sequence[Item], filter: Mapping[str, MetadataValue] | None) -> list[ScoredRecord]:
        self._order.seen(int(item.value["seq"]) for item in found)
        records = (self._decode(item) for item in sorted(found, key=lambda item: str(item.value["seq"]), reverse=True))
        return [ScoredRecord(record, None) for record in records if matches(record, filter)]

    def _decode(self, item: Item) -> MemoryRecord:
        return decode(str(item.value.get("record")), str(item.value.get("text")), self._name)

    def _check_open(self) -> None:
        if self._closed:
            raise MemoryClosedError(f"the memory in {self._name} was closed; make a new StoreMemory(store)")

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise MemoryBackendError(f"the memory in {self._name} was opened to be read only")


def _path(namespace: Namespace) -> tuple[str, ...]:
    path = (ROOT, *(_label(label) for label in namespace), END)
    # As one label it still is no other's: an escaped label that begins so is a digest of one label.
    return path if len(".".join(path)) <= PATH_CHARS else (ROOT, f"~~{digest('path', *namespace)}", END)


def _label(label: str) -> str:
    """A label that every store takes and matches literally: letters, digits, '-' and '~'; as distinct as the labels."""
    escaped = re.sub(r"[^A-Za-z0-9-]", lambda found: f"~{ord(found.group()):x}~", label) or "~"
    return escaped if len(escaped) <= LABEL_CHARS else f"~~{digest('label', label)}"


def _patient(uri: str) -> str:
    """The address with bounds on how long a server may be silent, where neither it nor libpq's environment says."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    told = conninfo_to_dict(uri)
    unsaid = [name for name in PATIENCE if told.get(name) is None and f"PG{name.upper()}" not in os.environ]
    return make_conninfo(uri, **{name: PATIENCE[name] for name in unsaid})


def _exact_index(embedder: Embedder) -> Any:
    """An index of ours as LangGraph's: every vector of a namespace is compared, because an approximate index looks
    through the nearest of all namespaces and finds too few of a small one."""
    return {
        "dims": embedder.dimensions,
        "embed": lambda texts: embedder.embed(list(texts)),
        "fields": ["text"],
        "distance_type": "cosine",
        "ann_index_config": {"kind": "flat"},
    }


def _hint(error: BaseException) -> str:
    missing = "extension" in str(error) and "vector" in str(error)
    return "; ranking by similarity needs pgvector there: install it, or use backend 'chroma'" if missing else ""
