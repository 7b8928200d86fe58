"""How a record lies in Chroma, how rows are written, and what finds them again.

What must stay true: each row carries its namespace's digest, and whatever looks rows up names a namespace, so records
of two never meet; every row has the same fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lamer_memory.base import MemoryRecord, MetadataValue, Namespace, annotated
from lamer_memory.chroma.client import ChromaConnection
from lamer_memory.embedders import Embedder
from lamer_memory.encoding import (
    WriteOrder,
    about,
    decode,
    dump_namespace,
    encode,
    namespace_digest,
    record_digest,
    storable,
    task_digest,
    trial_digest,
)
from lamer_memory.in_context import matches
from lamer_memory.recall import TRIAL_KEY

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

EVERY_VECTOR = [1.0, 0.0]
"""What Chroma gets of a row that is to have no vector."""


NOTES = "notes"
"""Field for what was noted about a record since it was put: metadata as JSON, "" where nothing was."""


class LookUp(NamedTuple):
    """A field of rows and the digest that it must hold."""

    field: str
    digest: str


class Found(NamedTuple):
    """A row that was read."""

    fields: Mapping[str, Any]
    text: str


def found_rows(answer: Any) -> Iterator[Found]:
    """The rows of a `get`. Where there are no documents the text is among the fields."""
    texts = answer["documents"] or repeat("", len(answer["ids"]))
    return (Found(fields, text or "") for fields, text in zip(answer["metadatas"], texts, strict=True))


def record_of(fields: Mapping[str, Any], text: str, where: str) -> MemoryRecord:
    """A row's record, with what was noted about it. Raises MemoryBackendError, naming `where`, for what we did not
    write."""
    record = decode(str(fields.get("record")), text, where)
    return annotated(record, notes_of(fields)) if fields.get(NOTES) else record


def notes_of(fields: Mapping[str, Any]) -> dict[str, MetadataValue]:
    """What was noted about a row's record since it was put."""
    notes: dict[str, MetadataValue] = json.loads(fields.get(NOTES) or "{}")
    return notes


class Wanted:
    """What a search asks for: a namespace, a filter, and the narrowest exact look-up that covers both."""

    def __init__(self, namespace: Namespace, filter: dict[str, MetadataValue]) -> None:
        self.namespace = namespace
        self.filter = filter
        self.space = namespace_digest(namespace)
        self.by_text = "text" in filter
        self._but_text = {name: value for name, value in filter.items() if name != "text"}

    def rows(self) -> dict[str, Any]:
        """Arguments of a `get` that gives every row of the namespace that may match, and no row of another."""
        look_up = self.look_up()
        if look_up is None:
            return {"ids": [record_digest(self.namespace, str(self.filter["key"]))]}
        return {"where": {look_up.field: look_up.digest}}

    def look_up(self) -> LookUp | None:
        """The field that finds them; None where the key does."""
        key, task, trial = (self.filter.get(name) for name in ("key", "task_id", TRIAL_KEY))
        if isinstance(key, str):
            return None
        if isinstance(trial, str):
            return LookUp("trial", trial_digest(self.namespace, trial))
        if isinstance(task, str):
            return LookUp("task", task_digest(self.namespace, task))
        return LookUp("space", self.space)

    def may_be(self, record: MemoryRecord) -> bool:
        """Whether the filter holds, a filter on the text aside where the text is not at hand."""
        return matches(record, self.filter if record.text else self._but_text)


class Row(NamedTuple):
    """A record to be written, and its number in the order of writes."""

    namespace: Namespace
    record: MemoryRecord
    number: int

    @property
    def id(self) -> str:
        return record_digest(self.namespace, self.record.key)

    def fields(self, *, whole: bool = False) -> dict[str, str | int]:
        """Always the same names, because Chroma's upsert keeps the old value of a name that is not given; with the text
        if the row is to be `whole`."""
        return {
            "space": namespace_digest(self.namespace),
            "trial": trial_digest(self.namespace, self.record.metadata.get(TRIAL_KEY)),
            "task": task_digest(self.namespace, self.record.task_id),
            "seq": self.number,
            "namespace": dump_namespace(self.namespace),
            "record": encode(self.record, whole=whole),
            NOTES: "",
        }


def write_rows(
    connection: ChromaConnection, collection: Collection, embedder: Embedder | None, rows: Sequence[Row]
) -> None:
    """Upsert the rows in one call, without vectors where there is no embedder; of one id twice the last counts."""
    last = {row.id: row for row in rows}
    if embedder is None:
        connection.call(
            collection.upsert,
            ids=list(last),
            embeddings=[EVERY_VECTOR] * len(last),
            metadatas=[row.fields(whole=True) for row in last.values()],
        )
        return
    vectors = embedder.embed([storable(about(row.record)) for row in last.values()])
    connection.call(
        collection.upsert,
        ids=list(last),
        embeddings=vectors,
        documents=[storable(row.record.text) for row in last.values()],
        metadatas=[row.fields() for row in last.values()],
    )


def latest(connection: ChromaConnection, collection: Collection, order: WriteOrder) -> list[int]:
    """Numbers in the store that lie in the future: what a clock that was set back must be told of."""
    found = connection.call(
        collection.get, where=cast(Any, {"seq": {"$gt": order.now()}}), include=cast(Any, ["metadatas"])
    )
    return [int(cast(int, fields["seq"])) for fields in found["metadatas"] or []]
