"""Chroma as the `store=` of any LangGraph application.

What must stay true: it answers as LangGraph's own stores do: a search covers a namespace and those below it; `$eq $ne
$gt $gte $lt $lte`, nested values and dotted paths into them filter; the ops of a batch read the state before its puts,
and of two puts of one key the last counts; `created_at` stays, `updated_at` moves. Without a query the most recently
updated come first. Where their stores differ, one that answers counts before one that raises. What makes no sense (a
malformed namespace, filter, page or value) is refused before anything of its batch is done.

An item is one row per embedded text. The first, whose id is the item's, holds everything; further ones (`index` names
several fields) only point to it. Texts are in `value`, which is JSON. An item that is not indexed has a vector all the
same, because a row must; its role says so, and it is found by key, filter and listing only.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)

from lamer_memory.chroma.client import NO_VECTORS, Location, chunks
from lamer_memory.chroma.opening import connect, disconnect
from lamer_memory.chroma.store_ops import checked, compare, field, holds
from lamer_memory.embedders import Embedder, Vector, open_embedder, unit
from lamer_memory.encoding import (
    WriteOrder,
    dump_namespace,
    load_namespace,
    namespace_digest,
    now_us,
    record_digest,
    storable,
)
from lamer_memory.errors import MemoryBackendError, MemoryClosedError

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

DEFAULT_COLLECTION = "langgraph-store"
KIND = "store"
ITEM, EXTRA, BARE = "item", "extra", "bare"
FOREVER = 2**62
NEAREST = (64, 512)
"""How many nearest rows of the whole store a query looks through before it compares the namespace's own."""


class _Index(NamedTuple):
    """How texts are embedded and which are."""

    fingerprint: str
    dimensions: int
    embedder: Embedder | None
    embeddings: Embeddings | None
    fields: list[str]

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        safe = [storable(text) for text in texts]
        if self.embedder is not None:
            return self.embedder.embed(safe)
        vectors = cast("Embeddings", self.embeddings).embed_documents(safe) if safe else []
        return [unit(vector, self.fingerprint) for vector in vectors]

    def embed_query(self, text: str) -> Vector:
        if self.embedder is not None:
            return self.embed([text])[0]
        return unit(cast("Embeddings", self.embeddings).embed_query(storable(text)), self.fingerprint)


class ChromaStore(BaseStore):
    """A LangGraph store in a Chroma collection at `location`: None (ephemeral), a directory, or a server's URL.

    `index` is an embedder of ours ("hashing", "minilm", "URL#MODEL", an Embedder: the whole value is embedded), a
    LangGraph IndexConfig, or None for a store without similarity search. `ttl` is LangGraph's TTLConfig; expired items
    are deleted by `sweep_ttl`, and by writes if `sweep_interval_minutes` is set. May share a directory with
    ChromaMemory within one process. Raises like ChromaMemory. Close it with `close` or as a context manager.
    """

    supports_ttl = True

    def __init__(
        self,
        location: Location = None,
        *,
        index: str | Embedder | IndexConfig | None = "hashing",
        ttl: TTLConfig | None = None,
        collection: str = DEFAULT_COLLECTION,
        retry_s: float = 20.0,
    ) -> None:
        self.ttl_config = ttl
        self._index = _open_index(index)
        self._connection = connect(location, retry_s=retry_s)
        self._lock = threading.Lock()
        self._closed = False
        self._order = WriteOrder()
        self._swept = time.monotonic()
        fingerprint = NO_VECTORS if self._index is None else self._index.fingerprint
        try:
            self._collection = self._connection.collection(collection, KIND, fingerprint)
        except BaseException:
            disconnect(self._connection)
            raise

    def __enter__(self) -> ChromaStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            if self._connection.ephemeral:
                self._connection.drop(self._collection.name)
        finally:
            disconnect(self._connection)

    def sweep_ttl(self) -> int:
        """Delete what has expired; returns the number of items."""
        with self._lock:
            self._check_open()
            self._swept = time.monotonic()
            found = self._get(where={"expires": {"$lte": now_us()}}, include=["metadatas"])
            self._drop(dict(zip(found["ids"], found["metadatas"], strict=True)))
            return len(found["ids"])

    # -- BaseStore ----------------------------------------------------------------------------------------------------

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        self._check_open()
        ops = [checked(op) for op in ops]
        results: list[Result] = []
        puts: dict[str, PutOp] = {}
        for op in ops:
            if isinstance(op, PutOp):
                puts[record_digest(op.namespace, op.key)] = op
                results.append(None)
            elif isinstance(op, GetOp):
                results.append(self._item(op))
            elif isinstance(op, SearchOp):
                results.append(self._search(op))
            else:
                results.append(self._list_namespaces(op))
        if puts:
            with self._lock:
                self._check_open()
                self._put(puts)
            interval = (self.ttl_config or {}).get("sweep_interval_minutes")
            if interval is not None and time.monotonic() - self._swept >= 60 * interval:
                self.sweep_ttl()
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        return await asyncio.to_thread(self.batch, list(ops))

    # -- writing ------------------------------------------------------------------------------------------------------

    def _put(self, puts: Mapping[str, PutOp]) -> None:
        before = self._rows(list(puts))
        written = {id: op for id, op in puts.items() if op.value is not None}
        texts = {id: self._texts(op) for id, op in written.items()}
        vectors = iter(self._index.embed([text for many in texts.values() for text in many]) if self._index else [])
        ids: list[str] = []
        rows: list[dict[str, Any]] = []
        places: list[Vector] = []
        stale: list[str] = []
        now = now_us()
        for (id, op), number in zip(written.items(), self._order.take(len(written)), strict=True):
            old = before.get(id, {})
            count = len(texts[id])
            scope = {f"under{depth}": namespace_digest(op.namespace[:depth]) for depth in range(len(op.namespace) + 1)}
            row = {
                **scope,
                "role": ITEM if count else BARE,
                "item": id,
                "rows": max(1, count),
                "namespace": dump_namespace(op.namespace),
                "key": json.dumps(op.key),
                "value": json.dumps(op.value),
                "created": old.get("created", now),
                "updated": now,
                "seq": number,
                "ttl": -1.0 if op.ttl is None else float(op.ttl),
                "expires": _expiry(now, op.ttl),
            }
            for place in range(max(1, count)):
                ids.append(_row_id(id, place))
                rows.append(row if place == 0 else {**scope, "role": EXTRA, "item": id})
                places.append(next(vectors) if count else self._no_vector())
            stale += [_row_id(id, place) for place in range(max(1, count), int(old.get("rows", 0)))]
        self._drop({id: before[id] for id, op in puts.items() if op.value is None and id in before})
        for some, vectors_of, fields_of in zip(chunks(ids), chunks(places), chunks(rows), strict=True):
            self._call(self._collection.upsert, ids=some, embeddings=vectors_of, metadatas=fields_of)
        self._delete(stale)

    def _texts(self, op: PutOp) -> list[str]:
        if self._index is None or op.index is False:
            return []
        found: list[str] = []
        for path in self._index.fields if op.index is None else op.index:
            found += get_text_at_path(op.value, path if path == "$" else tokenize_path(path))
        return list(dict.fromkeys(found))

    def _no_vector(self) -> Vector:
        return [*[0.0] * ((self._index.dimensions if self._index else 2) - 1), 1.0]

    def _drop(self, items: Mapping[str, Mapping[str, Any]]) -> None:
        self._delete([_row_id(id, place) for id, row in items.items() for place in range(int(row["rows"]))])

    def _delete(self, ids: Sequence[str]) -> None:
        for part in chunks(ids):
            self._call(self._collection.delete, ids=part)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _item(self, op: GetOp) -> Item | None:
        id = record_digest(op.namespace, op.key)
        row = self._rows([id]).get(id)
        if row is None or self._hidden(row):
            return None
        if op.refresh_ttl:
            self._refresh({id: row})
        return Item(**_item_fields(row))

    def _search(self, op: SearchOp) -> list[SearchItem]:
        if not op.limit:
            return []
        wanted = op.offset + op.limit
        if op.query and self._index is not None:
            scored = self._nearest(op, self._index.embed_query(op.query), wanted)
            if len(scored) < wanted:  # as LangGraph's own: what has no vector follows, unscored
                have = {id for id, _, _ in scored}
                scored += [(id, row, None) for id, row in self._listed(op) if id not in have]
        else:
            scored = [(id, row, None) for id, row in self._listed(op)]
        scored = scored[op.offset : wanted]
        if op.refresh_ttl:
            self._refresh({id: row for id, row, _ in scored})
        return [SearchItem(**_item_fields(row), score=score) for _, row, score in scored]

    def _listed(self, op: SearchOp) -> list[tuple[str, Mapping[str, Any]]]:
        """All items that match, the most recently updated first."""
        found = self._get(where=_below(op.namespace_prefix, [ITEM, BARE]), include=["metadatas"])
        rows = [
            (id, row) for id, row in zip(found["ids"], found["metadatas"], strict=True) if self._matches(row, op.filter)
        ]
        return sorted(rows, key=lambda entry: (entry[1]["updated"], entry[1]["seq"]), reverse=True)

    def _nearest(self, op: SearchOp, vector: Vector, wanted: int) -> list[tuple[str, Mapping[str, Any], float | None]]:
        """Items by their best vector: out of the nearest of the whole store, else by comparing all of the namespace."""
        below = f"under{len(op.namespace_prefix)}", namespace_digest(op.namespace_prefix)
        count = self._call(self._collection.count)
        for size in NEAREST:
            found: Any = self._call(
                self._collection.query,
                query_embeddings=[vector],
                n_results=max(1, min(size, count)),
                include=["metadatas", "distances"],
            )
            near = [
                (str(row["item"]), distance)
                for row, distance in zip(found["metadatas"][0], found["distances"][0], strict=True)
                if row.get(below[0]) == below[1] and row["role"] != BARE
            ]
            items = self._best(near, op)
            if len(items) >= wanted:
                return items[:wanted]
            if size >= count:
                break
        return self._best(self._compared(op, vector), op)[:wanted]

    def _compared(self, op: SearchOp, vector: Vector) -> list[tuple[str, float]]:
        import numpy as np

        target = np.asarray(vector, dtype=np.float32)
        near: list[tuple[str, float]] = []
        for part in chunks(self._get(where=_below(op.namespace_prefix, [ITEM, EXTRA]), include=[])["ids"]):
            found = self._get(ids=part, include=["metadatas", "embeddings"])
            if found["ids"]:
                matrix = np.asarray(found["embeddings"], dtype=np.float32)
                distances = (1.0 - matrix @ target / np.linalg.norm(matrix, axis=1)).tolist()
                near += [(str(row["item"]), d) for row, d in zip(found["metadatas"], distances, strict=True)]
        return sorted(near, key=lambda entry: entry[1])

    def _best(
        self, near: Sequence[tuple[str, float]], op: SearchOp
    ) -> list[tuple[str, Mapping[str, Any], float | None]]:
        """Matching items, nearest first, each with its nearest row's similarity."""
        nearest: dict[str, float] = {}
        for id, distance in near:
            nearest.setdefault(id, distance)
        rows = self._rows(list(nearest))
        return [
            (id, rows[id], 1.0 - distance)
            for id, distance in nearest.items()
            if id in rows and self._matches(rows[id], op.filter)
        ]

    def _list_namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        found = self._get(where={"role": {"$in": [ITEM, BARE]}}, include=["metadatas"])
        names = {load_namespace(row["namespace"]) for row in found["metadatas"] if not self._hidden(row)}
        kept = {name for name in names if all(holds(condition, name) for condition in op.match_conditions or ())}
        if op.max_depth is not None:
            kept = {name[: op.max_depth] for name in kept}
        return sorted(kept)[op.offset : op.offset + op.limit]

    def _matches(self, row: Mapping[str, Any], filter: Mapping[str, Any] | None) -> bool:
        if self._hidden(row):
            return False
        value = json.loads(row["value"]) if filter else {}
        return all(compare(field(value, name), wanted) for name, wanted in (filter or {}).items())

    def _hidden(self, row: Mapping[str, Any]) -> bool:
        return bool((self.ttl_config or {}).get("omit_expired")) and row["expires"] <= now_us()

    def _refresh(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        timed = {id: row for id, row in rows.items() if row["ttl"] >= 0}
        if timed:
            now = now_us()
            expires = [{"expires": _expiry(now, row["ttl"])} for row in timed.values()]
            self._call(self._collection.update, ids=list(timed), metadatas=expires)

    def _rows(self, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        rows: dict[str, Mapping[str, Any]] = {}
        for part in chunks(ids):
            found = self._get(ids=part, include=["metadatas"])
            rows.update(zip(found["ids"], found["metadatas"], strict=True))
        return rows

    def _get(self, **arguments: Any) -> Any:
        return self._call(self._collection.get, **arguments)

    def _call(self, operation: Any, **arguments: Any) -> Any:
        return self._connection.call(operation, **arguments)

    def _check_open(self) -> None:
        if self._closed:
            raise MemoryClosedError(f"the store in {self._connection.name} was closed; open it again")


def _below(prefix: tuple[str, ...], roles: list[str]) -> dict[str, Any]:
    return {"$and": [{f"under{len(prefix)}": namespace_digest(prefix)}, {"role": {"$in": roles}}]}


def _expiry(now: int, ttl: float | None) -> int:
    """When an item with this time to live, in minutes, expires, in microseconds."""
    return FOREVER if ttl is None else min(FOREVER, now + int(min(ttl, 1e12) * 60e6))


def _row_id(id: str, place: int) -> str:
    return f"{id}#{place}" if place else id


def _item_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "namespace": load_namespace(row["namespace"]),
        "key": json.loads(row["key"]),
        "value": json.loads(row["value"]),
        "created_at": datetime.fromtimestamp(row["created"] / 1e6, UTC),
        "updated_at": datetime.fromtimestamp(row["updated"] / 1e6, UTC),
    }


def _open_index(index: str | Embedder | IndexConfig | None) -> _Index | None:
    if index is None:
        return None
    if isinstance(index, str) or not isinstance(index, Mapping):
        embedder = open_embedder(index)
        return _Index(embedder.fingerprint, embedder.dimensions, embedder, None, ["$"])
    config = cast("dict[str, Any]", index)
    if "dims" not in config or "embed" not in config:
        raise MemoryBackendError("an IndexConfig needs 'dims' and 'embed'")
    embed = config["embed"]
    model = embed if isinstance(embed, str) else getattr(embed, "model", None) or getattr(embed, "__qualname__", None)
    fingerprint = f"langgraph:{model or type(embed).__qualname__}/{config['dims']}"
    return _Index(fingerprint, config["dims"], None, ensure_embeddings(embed), config.get("fields") or ["$"])
