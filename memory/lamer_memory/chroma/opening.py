"""Opening a Chroma database safely: one writing process per directory, and readers that leave it untouched.

What must stay true: a damaged or locked store is an error and never looks empty; who only reads writes nothing, so that
a store on a read-only disk can be read, by any number of processes at once.

A location is None (ephemeral, gone with the process), a directory, or the URL of a server started with `chroma run`.
A directory belongs to one process at a time (a lock file; within that process it can be opened any number of times).
Chroma itself cannot read without writing (SQLite's log, its own migrations), so a reader is given a copy of the
directory's files, made while nobody writes to them. Needs a system with `fcntl`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from lamer_memory.chroma.client import DATABASE_FILE, MARK_FILE, ChromaConnection, Location, hint, is_url
from lamer_memory.errors import (
    MemoryBackendError,
    MemoryConfigError,
    MemoryLockedError,
    MemoryServerError,
    one_line,
)
from lamer_memory.proxies import direct, is_loopback, server_at

LOCK_FILE = "lamer-memory.lock"
LOCK_SECONDS = 3.0
"""How long to wait for a directory that another process has: perhaps it copies it, or was just killed."""

_shared: dict[Path, tuple[ChromaConnection, int]] = {}
_shared_lock = threading.Lock()


@contextlib.contextmanager
def _opening(name: str) -> Iterator[None]:
    """Translates what goes wrong while a database is opened."""
    from chromadb.errors import ChromaError

    try:
        yield
    except (ChromaError, OSError, ValueError, RuntimeError) as error:
        raise MemoryBackendError(f"{name} cannot be opened with Chroma: {one_line(error)}{hint(error)}") from error


def connect(
    location: Location, *, read_only: bool = False, retry_s: float = 20.0, timeout_s: float = 30.0
) -> ChromaConnection:
    """A connection to be given back with `disconnect`; a directory that is `read_only` stays as it is.

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
        if read_only:
            raise MemoryConfigError("a store without a location is new and empty: it cannot be read only")
        with _opening("an ephemeral Chroma"):
            client = chromadb.EphemeralClient(settings=settings)
        return ChromaConnection("the ephemeral Chroma", client)
    if is_url(location):
        return _connect_server(str(location).rstrip("/"), settings, retry_s, timeout_s)
    folder = Path(location).expanduser().absolute()
    with _shared_lock:
        known = _shared.get(folder)
        if known is not None and known[0].process == os.getpid():
            _shared[folder] = (known[0], known[1] + 1)
            return known[0]
        if read_only:
            return _connect_copy(folder, settings)
        connection = _connect_folder(folder, settings)
        _shared[folder] = (connection, 1)
        return connection


def disconnect(connection: ChromaConnection) -> None:
    """Give a connection back; a directory is released with its last one."""
    with _shared_lock:
        folder = connection.folder or Path()
        known, users = _shared.get(folder, (None, 0))
        if known is connection and users > 1:
            _shared[folder] = (connection, users - 1)
            return
        if known is connection:
            del _shared[folder]
        connection.close()


def _connect_folder(folder: Path, settings: Any) -> ChromaConnection:
    import chromadb

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(folder)
    except OSError as error:
        raise MemoryBackendError(f"{error.filename or folder}: {error.strerror}") from error
    database = folder / DATABASE_FILE

    def release() -> None:
        # So that the database is one whole file again while nobody has it open.
        _pragma(database, "wal_checkpoint(TRUNCATE)")
        os.close(lock)

    try:
        _check_whole(folder)
        _use_wal(database)
        with _opening(str(folder)):
            client = chromadb.PersistentClient(folder, settings=settings)
    except BaseException:
        os.close(lock)
        raise
    return ChromaConnection(str(folder), client, folder=folder, release=release)


def _connect_copy(folder: Path, settings: Any) -> ChromaConnection:
    import chromadb

    _check_whole(folder)
    if not (folder / DATABASE_FILE).exists():
        raise MemoryBackendError(f"{folder} holds no memory: there is no {DATABASE_FILE}")
    copy = TemporaryDirectory(prefix="lamer-memory-")
    try:
        try:
            with _reading(folder):
                _copy(folder, Path(copy.name))
        except OSError as error:
            raise MemoryBackendError(f"{error.filename or folder} cannot be copied: {error.strerror}") from error
        with _opening(str(folder)):
            client = chromadb.PersistentClient(copy.name, settings=settings)
    except BaseException:
        copy.cleanup()
        raise
    return ChromaConnection(str(folder), client, folder=Path(copy.name), release=copy.cleanup)


def _copy(folder: Path, copy: Path) -> None:
    """Copy what is Chroma's in a folder: the database, its log, and a folder per index."""
    for name in (DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-journal", MARK_FILE):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(folder / name, copy / name)
    for index in folder.iterdir():
        with contextlib.suppress(ValueError):
            UUID(index.name)
            (copy / index.name).mkdir()
            for file in index.iterdir():
                shutil.copyfile(file, copy / index.name / file.name)


def _check_whole(folder: Path) -> None:
    if (folder / MARK_FILE).exists() and not (folder / DATABASE_FILE).exists():
        raise MemoryBackendError(
            f"{folder} is damaged: {DATABASE_FILE} is gone; restore it, or move the directory away to start anew"
        )


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
        raise MemoryBackendError(f"{database} cannot be opened: {one_line(error)}{hint(error)}") from error


def _take_lock(folder: Path) -> int:
    """An open file with the directory's lock, which ends with the process however that ends."""
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _wait_for(lock, fcntl.LOCK_EX, folder)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Nobody writes to the directory meanwhile, and others may read it."""
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # a copy of the database alone
        yield
        return
    _wait_for(lock, fcntl.LOCK_SH, folder)
    try:
        yield
    finally:
        os.close(lock)


def _wait_for(lock: int, kind: int, folder: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
            os.close(lock)
            raise MemoryLockedError(
                f"{folder} is in use by process {holder or 'unknown'}: an embedded Chroma has one process. To share "
                f"it, start `chroma run --path {folder}` and give its URL (http://localhost:8000) in place of the "
                "directory"
            ) from None


def _connect_server(url: str, settings: Any, retry_s: float, timeout_s: float) -> ChromaConnection:
    import chromadb
    import httpx

    parts = server_at(url)
    if parts is None or not parts.hostname or parts.path or parts.query or parts.username:
        raise MemoryBackendError("the address of a Chroma server is like http://localhost:8000: no path, query or user")
    secure = parts.scheme == "https"
    deadline = time.monotonic() + retry_s
    while True:
        try:
            # Chroma's own client waits for ever for a server that accepts and does not answer.
            httpx.get(f"{url}/api/v2/heartbeat", timeout=timeout_s, trust_env=not is_loopback(url)).raise_for_status()
            break
        except httpx.HTTPError as error:
            if time.monotonic() + 0.5 > deadline:
                raise MemoryServerError(
                    f"no Chroma server answers at {url} ({one_line(error)}); start one with `chroma run --path DIR`"
                ) from error
        time.sleep(0.5)
    with _opening(url), direct(url):
        client = chromadb.HttpClient(
            parts.hostname, parts.port or (443 if secure else 80), ssl=secure, settings=settings
        )
    session = getattr(getattr(client, "_server", None), "_session", None)
    if isinstance(session, httpx.Client):
        session.timeout = httpx.Timeout(timeout_s)
    return ChromaConnection(url, client, retry_s=retry_s)
