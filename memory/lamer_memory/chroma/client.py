"""A Chroma database opened safely: one process per directory, and errors that say what to do.

What must stay true: a damaged, locked or foreign store is an error and never looks empty; an operation on a server is
tried again only because each one we send can be repeated (upserts under deterministic ids, deletes, reads).

A location is None (ephemeral, gone with the process), a directory, or the URL of a server started with `chroma run`.
A directory belongs to one process at a time (a lock file; within that process it can be opened any number of times).
Needs a system with `fcntl`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit
from uuid import uuid4

from lamer_memory.errors import MemoryBackendError, MemoryLockedError, MemoryServerError

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.client import Client
    from chromadb.api.models.Collection import Collection

Location = str | os.PathLike[str] | None

SCHEMA_VERSION = 1
DATABASE_FILE = "chroma.sqlite3"
LOCK_FILE = "lamer-memory.lock"
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


def is_url(location: Location) -> bool:
    return isinstance(location, str) and location.startswith(("http://", "https://"))


class ChromaConnection:
    """A client with the failures of its store translated. Use `connect`."""

    def __init__(self, name: str, client: ClientAPI, *, retry_s: float, lock: int | None, folder: Path | None) -> None:
        self.name = name
        self.client = cast("Client", client)  # which has a `close`, though the factories do not say so
        self.folder = folder
        self.process = os.getpid()
        self._retry_s = retry_s
        self._lock = lock

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
                    raise MemoryBackendError(f"{self.name}: {_line(error)}{_hint(error)}") from error
                problem = error
            except (OSError, RuntimeError, ValueError, TypeError) as error:
                raise MemoryBackendError(f"{self.name}: {_line(error)}{_hint(error)}") from error
            if time.monotonic() + pause > deadline:
                raise MemoryServerError(
                    f"the Chroma server {self.name} failed for {self._retry_s:g} s ({_line(problem)}); "
                    "see whether `chroma run` is up there, then go on"
                ) from problem
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def collection(self, name: str, kind: str, embedder: str | None) -> Collection:
        """The collection of this name and kind; raises if there is one of another kind or embedder.

        `embedder` is a fingerprint; None takes the collection as it is, and makes one without vectors.
        """
        full = f"{name}-{uuid4().hex}" if self.ephemeral else name
        self._check_name(full)
        found = self.find(full)
        if found is None:
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
        if self.folder is not None:
            # So that the database is one whole file again while nobody has it open.
            _pragma(self.folder / DATABASE_FILE, "wal_checkpoint(TRUNCATE)")
        if self._lock is not None:
            os.close(self._lock)

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


# -- opening ----------------------------------------------------------------------------------------------------------

_shared: dict[Path, tuple[ChromaConnection, int]] = {}
_shared_lock = threading.Lock()


@contextlib.contextmanager
def _opening(name: str) -> Iterator[None]:
    """Translates what goes wrong while a database is opened."""
    from chromadb.errors import ChromaError

    try:
        yield
    except (ChromaError, OSError, ValueError, RuntimeError) as error:
        raise MemoryBackendError(f"{name} cannot be opened with Chroma: {_line(error)}{_hint(error)}") from error


def connect(location: Location, *, retry_s: float = 20.0, timeout_s: float = 30.0) -> ChromaConnection:
    """A connection to be given back with `disconnect`.

    Raises MemoryLockedError where another process has the directory, MemoryServerError for a server that does not
    answer, MemoryBackendError for a damaged or unusable store.
    """
    try:
        import chromadb
        from chromadb.config import Settings
    except ImportError as error:
        raise MemoryBackendError(f"Chroma cannot be imported ({error}); install lamer-graph[chroma]") from None
    settings = Settings(anonymized_telemetry=False)
    if location is None:
        with _opening("an ephemeral Chroma"):
            client = chromadb.EphemeralClient(settings=settings)
        return ChromaConnection("the ephemeral Chroma", client, retry_s=0, lock=None, folder=None)
    if is_url(location):
        return _connect_server(str(location).rstrip("/"), settings, retry_s, timeout_s)
    folder = Path(location).expanduser().absolute()
    with _shared_lock:
        known = _shared.get(folder)
        if known is not None and known[0].process == os.getpid():
            _shared[folder] = (known[0], known[1] + 1)
            return known[0]
        connection = _connect_folder(folder, settings)
        _shared[folder] = (connection, 1)
        return connection


def disconnect(connection: ChromaConnection) -> None:
    """Give a connection back; a directory is released with its last one."""
    if connection.folder is None:
        connection.close()
        return
    with _shared_lock:
        users = _shared[connection.folder][1] - 1
        if users:
            _shared[connection.folder] = (connection, users)
        else:
            del _shared[connection.folder]
            connection.close()


def _connect_folder(folder: Path, settings: Any) -> ChromaConnection:
    import chromadb

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(folder)
    except OSError as error:
        raise MemoryBackendError(f"{error.filename or folder}: {error.strerror}") from error
    try:
        if (folder / MARK_FILE).exists() and not (folder / DATABASE_FILE).exists():
            raise MemoryBackendError(
                f"{folder} is damaged: {DATABASE_FILE} is gone; restore it, or move the directory away to start anew"
            )
        _use_wal(folder / DATABASE_FILE)
        with _opening(str(folder)):
            client = chromadb.PersistentClient(folder, settings=settings)
    except BaseException:
        os.close(lock)
        raise
    return ChromaConnection(str(folder), client, retry_s=0, lock=lock, folder=folder)


_PRAGMA_SCRIPT = """
import sqlite3, sys
try:
    with sqlite3.connect(sys.argv[1], timeout=1.0) as connection:
        connection.execute("PRAGMA " + sys.argv[2])
except sqlite3.OperationalError:
    pass  # locked, or the disk is full: opening it will tell
except sqlite3.DatabaseError as error:
    sys.exit(str(error) or "not a database")
"""


def _pragma(database: Path, pragma: str) -> str:
    """Run a pragma in a process of its own; what is wrong with the database, "" if nothing is.

    Chroma brings an SQLite library of its own, and two of them on one file in one process undo each other's locks
    (https://www.sqlite.org/howtocorrupt.html, section 2.2.1), which has ended in a bus error.
    """
    command = [sys.executable, "-I", "-c", _PRAGMA_SCRIPT, str(database), pragma]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    return done.stderr.strip() if done.returncode else ""


def _use_wal(database: Path) -> None:
    """Have SQLite append to a log instead of rewriting its journal: an upsert then costs 7 ms instead of 35.

    The mode stays with the file and is as durable (each commit is synced); where the file system cannot do it, SQLite
    stays as it was. A database of Chroma's that is open elsewhere is left alone too.
    """
    if problem := _pragma(database, "journal_mode=WAL"):
        error = sqlite3.DatabaseError(problem)
        raise MemoryBackendError(f"{database} cannot be opened: {_line(error)}{_hint(error)}") from error


def _take_lock(folder: Path) -> int:
    """An open file with the directory's lock, which ends with the process however that ends."""
    path = folder / LOCK_FILE
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise MemoryLockedError(
            f"{folder} is in use by process {holder or 'unknown'}: an embedded Chroma has one process. To share it, "
            f"start `chroma run --path {folder}` and give its URL (http://localhost:8000) in place of the directory"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _connect_server(url: str, settings: Any, retry_s: float, timeout_s: float) -> ChromaConnection:
    import chromadb
    import httpx

    parts = urlsplit(url)
    if not parts.hostname or parts.path or parts.query:
        raise MemoryBackendError(f"the address of a Chroma server is like http://localhost:8000, not {url}")
    secure = parts.scheme == "https"
    deadline = time.monotonic() + retry_s
    while True:
        try:
            # Chroma's own client waits for ever for a server that accepts and does not answer.
            httpx.get(f"{url}/api/v2/heartbeat", timeout=timeout_s).raise_for_status()
            break
        except httpx.HTTPError as error:
            if time.monotonic() + 0.5 > deadline:
                raise MemoryServerError(
                    f"no Chroma server answers at {url} ({_line(error)}); start one with `chroma run --path DIR`"
                ) from error
        time.sleep(0.5)
    with _opening(url):
        client = chromadb.HttpClient(
            parts.hostname, parts.port or (443 if secure else 80), ssl=secure, settings=settings
        )
    session = getattr(getattr(client, "_server", None), "_session", None)
    if isinstance(session, httpx.Client):
        session.timeout = httpx.Timeout(timeout_s)
    return ChromaConnection(url, client, retry_s=retry_s, lock=None, folder=None)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text or type(error).__name__


def _hint(error: BaseException) -> str:
    """What to do about the failures of a directory that we know."""
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return "; the database is damaged: restore the directory from a copy"
    if "hnsw" in text.lower() or "finding id" in text:
        return "; the vector index is damaged; build it anew: lamer-graph memory reindex"
    if "disk is full" in text or "No space" in text or "disk I/O" in text:
        return "; is the disk full? what was acknowledged is kept"
    return ""
