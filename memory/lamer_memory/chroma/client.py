"""An open Chroma database: its collections, and errors that say what to do. `opening` makes one.

What must stay true: a damaged or foreign store is an error and never looks empty; an operation on a server is tried
again only because each one we send can be repeated (upserts under deterministic ids, deletes, reads).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import uuid4

from lamer_memory.errors import MemoryBackendError, MemoryServerError, one_line

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.client import Client
    from chromadb.api.models.Collection import Collection

Location = str | os.PathLike[str] | None

SCHEMA_VERSION = 1
DATABASE_FILE = "chroma.sqlite3"
NO_INDEX, INDEX_APPEARS_S = "Nothing found on disk", 1.0
"""Chroma 1.5 says this of a collection without an index, and for a moment also of a query that meets its first writes
(in 15 of 60 new stores that were read from three threads while one wrote)."""
MARK_FILE = "lamer-memory.json"
"""Names the collections that a directory must hold: without them it is damaged, not new."""

OLD = ".old"
"""Ends the name of a collection while its replacement takes its place."""

HNSW: Any = {"hnsw": {"space": "cosine", "max_neighbors": 32, "ef_construction": 200, "ef_search": 200}}
"""Twice Chroma's defaults: on 3,000 texts that differ in one word the defaults missed the text itself in 40 % of the
queries, these in 5 %; on texts with more to tell them apart by both find it always."""

SMALL_HNSW: Any = {"hnsw": {"space": "l2", "max_neighbors": 2, "ef_construction": 2, "ef_search": 2}}
"""For a collection that nobody searches by similarity: Chroma has no collection without an index."""

NO_VECTORS = "none"
"""In place of an embedder's fingerprint: the collection's rows all have one and the same vector."""

READ_CHUNK = 2_000
"""Ids per `get`: SQLite bounds the variables of a statement."""

T = TypeVar("T")


def chunks(items: Sequence[T], size: int = READ_CHUNK) -> Iterator[list[T]]:
    """The items in their order, at most `size` at a time."""
    return (list(items[first : first + size]) for first in range(0, len(items), size))


def is_url(location: Location) -> bool:
    return isinstance(location, str) and location.startswith(("http://", "https://"))


class ChromaConnection:
    """A client with the failures of its store translated. Use `opening.connect`.

    `folder` is where its files are, None for a server and an ephemeral store; `release` gives back what closing leaves.
    """

    def __init__(
        self,
        name: str,
        client: ClientAPI,
        *,
        retry_s: float = 0.0,
        folder: Path | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.client = cast("Client", client)  # which has a `close`, though the factories do not say so
        self.folder = folder
        self.process = os.getpid()
        self._retry_s = retry_s
        self._release = release
        self._making = threading.Lock()

    @property
    def ephemeral(self) -> bool:
        return self.folder is None and not is_url(self.name)

    def check_process(self) -> None:
        """Raises MemoryBackendError in a forked child: neither threads nor database handles survive a fork."""
        if os.getpid() != self.process:
            raise MemoryBackendError(f"{self.name} was opened by the parent of this process; open it in each process")

    def call(self, operation: Callable[..., T], **arguments: Any) -> T:
        """What `operation(**arguments)` gives.

        Raises MemoryServerError for a server that stays away, MemoryBackendError for any other failure.
        """
        import httpx
        from chromadb.errors import ChromaError

        self.check_process()
        deadline = time.monotonic() + self._retry_s
        unindexed = time.monotonic() + INDEX_APPEARS_S
        pause = 0.05
        while True:
            try:
                return operation(**arguments)
            except httpx.HTTPError as error:
                problem: Exception = error
            except ChromaError as error:
                if NO_INDEX in str(error) and time.monotonic() < unindexed:
                    time.sleep(0.01)
                    continue
                if not is_url(self.name) or error.code() < 500:
                    raise MemoryBackendError(f"{self.name}: {one_line(error)}{hint(error)}") from error
                problem = error
            except (OSError, RuntimeError, ValueError, TypeError) as error:
                raise MemoryBackendError(f"{self.name}: {one_line(error)}{hint(error)}") from error
            if time.monotonic() + pause > deadline:
                raise MemoryServerError(
                    f"the Chroma server {self.name} failed for {self._retry_s:g} s ({one_line(problem)}); "
                    "see whether `chroma run` is up there, then go on"
                ) from problem
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def collection(self, name: str, kind: str, embedder: str | None, *, make: bool = True) -> Collection:
        """The collection of this name and kind; raises if there is one of another kind or embedder, or none to `make`.

        `embedder` is a fingerprint; None takes the collection as it is, and makes one without vectors.
        """
        full = f"{name}-{uuid4().hex}" if self.ephemeral else name
        self._check_name(full)
        with self._making:  # several threads may open one directory
            found = self.find(full)
            if found is None:
                if not make:
                    raise MemoryBackendError(f"{self.name} holds no collection '{full}'")
                found = self.create(full, kind, NO_VECTORS if embedder is None else embedder)
                self._mark(full)
        self.check(found, kind, embedder)
        # Chroma takes an index that is gone for a new one and answers from what was written last; the oldest record
        # then has no vector, and reading that fails.
        self.call(found.get, limit=1, include=["embeddings"])
        return found

    def find(self, name: str) -> Collection | None:
        """The collection of this name, None if there is none; raises if the directory says that there was one."""
        found = self.find_any(name)
        if found is None and name in self._marked():
            if self.find_any(name + OLD) is not None:
                raise MemoryBackendError(
                    f"embedding {self.name} anew was cut short; run it again: lamer-graph memory reindex {self.name}"
                )
            raise MemoryBackendError(
                f"{self.name} is damaged: {MARK_FILE} there says that it holds the collection '{name}', and the "
                "database does not; restore the directory from a copy, or move it away to start an empty one"
            )
        return found

    def find_any(self, *names: str) -> Collection | None:
        """The first of these collections that there is."""
        from chromadb.errors import NotFoundError

        def get(name: str) -> Collection | None:
            try:
                return self.client.get_collection(name, embedding_function=None)
            except NotFoundError:
                return None

        return next((found for name in names if (found := self.call(get, name=name)) is not None), None)

    def check(self, collection: Collection, kind: str, embedder: str | None) -> None:
        """Raises MemoryBackendError where the collection was made by someone else, a newer us, or another embedder
        (None: whichever)."""
        have = collection.metadata or {}
        place = f"the collection '{collection.name}' of {self.name}"
        if "lamer_schema" not in have or have.get("lamer_kind") != kind:
            made = f"for {have['lamer_kind']}" if "lamer_kind" in have else "by another program"
            raise MemoryBackendError(f"{place} was made {made}; choose another collection name")
        if have["lamer_schema"] != SCHEMA_VERSION:
            raise MemoryBackendError(
                f"{place} has schema {have['lamer_schema']}, this version reads {SCHEMA_VERSION}; update lamer-graph"
            )
        made_with = have.get("lamer_embedder")
        if embedder is None or made_with == embedder:
            return
        if made_with == NO_VECTORS:
            raise MemoryBackendError(
                f"{place} was filled without vectors, not with {embedder}; open it with embedder=None, or give it "
                f"vectors: lamer-graph memory reindex {self.name} --embedder NAME"
            )
        raise MemoryBackendError(
            f"{place} was embedded with {made_with}, not with {embedder}; open it with that embedder, or embed it "
            f"anew: lamer-graph memory reindex {self.name} --embedder NAME"
        )

    def rename(self, collection: Collection, name: str) -> None:
        self.call(collection.modify, name=name)

    def drop(self, name: str) -> None:
        """Delete a collection; a name that is not there is ignored."""
        from chromadb.errors import NotFoundError

        def delete() -> None:
            with contextlib.suppress(NotFoundError):
                self.client.delete_collection(name)

        self.call(delete)

    def create(self, name: str, kind: str, embedder: str) -> Collection:
        """A new collection, which no one is told about yet."""
        self._check_name(name)
        return self.call(
            self.client.get_or_create_collection,
            name=name,
            embedding_function=None,
            metadata={"lamer_schema": SCHEMA_VERSION, "lamer_kind": kind, "lamer_embedder": embedder},
            configuration=SMALL_HNSW if embedder == NO_VECTORS else HNSW,
        )

    def close(self) -> None:
        self.client.close()
        if self._release is not None:
            self._release()

    def _check_name(self, name: str) -> None:
        allowed = name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        if not (allowed and 3 <= len(name) <= 500 and name[0].isalnum() and name[-1].isalnum()):
            raise MemoryBackendError(
                f"a Chroma collection name has 3 to 500 characters from a-z, A-Z, 0-9, '.', '_', '-', not {name!r}"
            )

    def _marked(self) -> list[str]:
        if self.folder is None:
            return []
        path = self.folder / MARK_FILE
        try:
            names = json.loads(path.read_bytes())["collections"]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MemoryBackendError(
                f"{path} cannot be read ({error}); restore it from a copy of the directory"
            ) from None
        return [str(name) for name in names]

    def _mark(self, name: str) -> None:
        if self.folder is None:
            return
        path = self.folder / MARK_FILE
        text = json.dumps({"collections": sorted({*self._marked(), name})})
        draft = path.with_suffix(".new")
        try:
            with draft.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise MemoryBackendError(f"{path}: {error.strerror}") from error


def hint(error: BaseException) -> str:
    """What to do about the failures of a directory that we know."""
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return "; the database is damaged: restore the directory from a copy"
    if "hnsw" in text.lower() or "finding id" in text:
        return "; the vector index is damaged; build it anew: lamer-graph memory reindex"
    if "disk is full" in text or "No space" in text or "disk I/O" in text:
        return "; is the disk full? what was acknowledged is kept"
    return ""
