"""Embed a store anew, with another embedder.

What must stay true: the old vectors are kept until the new ones are complete, so a run that is cut short is run again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from lamer_memory.chroma.batch_writer import MAX_BATCH
from lamer_memory.chroma.client import DATABASE_FILE, OLD, Location, chunks, is_url
from lamer_memory.chroma.memory import DEFAULT_COLLECTION, KIND
from lamer_memory.chroma.opening import connect, disconnect
from lamer_memory.chroma.rows import Row, found_rows, record_of, write_rows
from lamer_memory.embedders import Embedder, open_embedder
from lamer_memory.encoding import load_namespace
from lamer_memory.errors import MemoryBackendError


def reindex(location: Location, embedder: str | Embedder = "hashing", *, collection: str = DEFAULT_COLLECTION) -> int:
    """Embed a store anew, with this embedder from now on; returns the number of records.

    Nobody else may use the store meanwhile. The old vectors are kept until the new ones are complete, and a run that
    was cut short is simply run again. Raises like ChromaMemory, and MemoryBackendError where there is no such store.
    """
    made = open_embedder(embedder)
    if location is None:
        raise MemoryBackendError("an ephemeral store dies with its process; there is nothing to embed anew")
    if not is_url(location) and not (Path(location) / DATABASE_FILE).exists():
        raise MemoryBackendError(f"{location} holds no memory: there is no {DATABASE_FILE}")
    connection = connect(location)
    try:
        old = connection.find_any(collection, collection + OLD)
        if old is None:
            raise MemoryBackendError(f"{connection.name} holds no collection '{collection}'")
        connection.check(old, KIND, None)
        draft = f"{collection}.new"
        connection.drop(draft)
        new = connection.create(draft, KIND, made.fingerprint)
        ids = connection.call(old.get, include=[])["ids"]
        for part in chunks(ids, MAX_BATCH):
            found = connection.call(old.get, ids=part, include=cast(Any, ["metadatas", "documents"]))
            rows = [
                Row(
                    load_namespace(str(fields["namespace"])),
                    record_of(fields, text, connection.name),
                    int(fields["seq"]),
                )
                for fields, text in found_rows(found)
            ]
            write_rows(connection, new, made, rows)
        if old.name != collection + OLD:
            connection.drop(collection + OLD)
            connection.rename(old, collection + OLD)
        connection.rename(new, collection)
        connection.drop(collection + OLD)
        return len(ids)
    finally:
        disconnect(connection)
