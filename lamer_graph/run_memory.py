"""A run's memory: where it lies, what it is filled with, and which of it the run's trials may see.

What must stay true: a run has a memory of its own (a folder of the run, or a namespace that no other run has), so runs
cannot read each other; a store that it is filled from is only read. What its trials may see of other tasks is written
down before the first trial, so a resumed run and every worker process see the same, and the trials of a group nothing
of each other. With `visible="live"` they see what earlier ones wrote, in whatever order they are played.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit
from uuid import uuid4

import orjson

from lamer_graph.errors import ConfigError, RunLogError
from lamer_graph.runlog import RUN_FILE, read_config, write_atomic
from lamer_memory import FrozenView, MemoryBackend, MemoryConfig, open_backend
from lamer_memory.base import Namespace
from lamer_memory.chroma_client import DATABASE_FILE, MARK_FILE
from lamer_memory.config import check_backend
from lamer_memory.frozen import visible_now
from lamer_memory.hygiene import all_namespaces, read_all

if TYPE_CHECKING:
    from lamer_graph.collect import CollectConfig

MEMORY_FOLDER = "memory"
NOTE_FILE = "memory.json"
NOTE_VERSION = 1
OWN: Namespace = ("lamer",)
COPY_BATCH = 200
PROBE_SECONDS = 3.0


class RunMemory(NamedTuple):
    """`backend` is what trials are given, under `namespace`; `copied` records came from another store."""

    backend: MemoryBackend
    namespace: Namespace
    copied: int
    opened: MemoryBackend

    def close(self) -> None:
        self.opened.close()


def check_memory(config: CollectConfig, workers: int = 1) -> None:
    """Refuse what cannot work, by name. Raises ConfigError, MemoryConfigError and, without its library, the backend's
    MemoryBackendError."""
    check_backend(config.backend)
    MemoryConfig(config.contents, config.backend, config.scope, config.k, config.max_chars)
    name, _, place = config.backend.partition(":")
    if config.scope == "tasks" and name == "in-context":
        raise ConfigError(
            "backend 'in-context' and scope 'tasks' exclude each other: it ends with its process and cannot tell which "
            "tasks are alike; use backend 'chroma' (or 'store'), or scope 'trial'"
        )
    if config.scope == "trial":
        for given, what in ((config.store, f"store '{config.store}'"), (config.visible == "live", "visible 'live'")):
            if given:
                raise ConfigError(f"{what} and scope 'trial' exclude each other: other tasks are not seen; use 'tasks'")
    if name == "store" and not place:
        raise ConfigError("backend 'store' needs an address, e.g. 'store:postgresql://user@host/database'")
    if urlsplit(place).password or "password=" in urlsplit(place).query:
        raise ConfigError("the address of a memory may not hold a password, it would be logged: set PGPASSWORD instead")
    if workers > 1 and name == "chroma" and not _is_shared(config.backend):
        raise ConfigError(
            f"{workers} workers and a Chroma folder exclude each other: a folder belongs to one process; start a "
            "server with `chroma run` and give its address, or use one worker"
        )


def probe_memory(config: CollectConfig) -> None:
    """Open the memory's backend for a moment, but not the run's folder: is its library there, does its server answer?

    Raises what `check_memory` and the backend raise, within a few seconds.
    """
    check_memory(config)
    patience = {"retry_s": PROBE_SECONDS} if config.backend.startswith("chroma") else {}
    open_backend(config.backend, **patience).close()


def open_run_memory(config: CollectConfig, folder: Path) -> RunMemory:
    """The memory of the run in `folder`: made and filled by whoever comes first, the same for everyone after.

    Raises ConfigError (an impossible combination, a store that is none), RunLogError for a damaged note of a run, and
    the memory's own errors.
    """
    check_memory(config)
    if config.backend == "chroma":
        backend = open_backend(f"chroma:{folder / MEMORY_FOLDER}")
    else:
        backend = open_backend(config.backend)
    try:
        if backend.persistent and config.contents != "none":
            # What is loaded for the first question (embedder, index) is loaded now, or fails now, and not in mid-play.
            backend.search(OWN, query="?", limit=1)
        if config.scope == "trial" and not _is_shared(config.backend):
            return RunMemory(backend, OWN, 0, backend)
        with _locked(folder):
            note = _read_note(folder)
            if note is None:
                note = _prepare(config, folder, backend)
                write_atomic(folder / NOTE_FILE, orjson.dumps(note))
    except BaseException:
        backend.close()
        raise
    namespace = tuple(note["namespace"])
    seen = backend
    if config.scope == "tasks" and config.visible == "frozen":
        seen = FrozenView(backend, namespace, note["visible"])
    return RunMemory(seen, namespace, note["copied"], backend)


def copied_of(folder: Path) -> int:
    """How many records the memory of the run in `folder` was filled with."""
    note = _read_note(folder)
    return 0 if note is None else int(note["copied"])


def _prepare(config: CollectConfig, folder: Path, backend: MemoryBackend) -> dict[str, Any]:
    # A copy that was cut short leaves no note and is made again: the same keys, under a new name where others are.
    namespace = (*OWN, uuid4().hex) if _is_shared(config.backend) else OWN
    copied = _copy(folder / config.store, backend, namespace) if config.store else 0
    frozen = config.scope == "tasks" and config.visible == "frozen"
    return {
        "schema_version": NOTE_VERSION,
        "namespace": list(namespace),
        "copied": copied,
        "visible": visible_now(backend, namespace) if frozen else None,
    }


def check_source(source: Path) -> tuple[str, Namespace]:
    """The backend and namespace of the store at `source`: a run's folder, or a Chroma directory.

    Raises ConfigError where there is none.
    """
    what = "give a run's folder or a Chroma directory"
    if not source.is_dir():
        raise ConfigError(f"the store {source} is not a folder; {what}")
    name, prefix = f"chroma:{source}", cast(Namespace, ())
    if (source / RUN_FILE).exists():
        note, name = _read_note(source), str(read_config(source).get("backend", ""))
        prefix = OWN if note is None else tuple(note["namespace"])
        if name == "chroma":
            name = f"chroma:{source / MEMORY_FOLDER}"
        if name == "in-context":
            raise ConfigError(f"the run {source} left no store, its memory was in-context; play it with backend chroma")
    if name.startswith("chroma:") and not _is_shared(name):
        place = Path(name.removeprefix("chroma:"))
        if not (place / DATABASE_FILE).exists() and not (place / MARK_FILE).exists():
            raise ConfigError(f"the store {place} holds no memory; {what}")
    return name, prefix


def _copy(source: Path, backend: MemoryBackend, namespace: Namespace) -> int:
    """Put all that the store at `source` holds into `namespace`, the oldest first; how many records."""
    name, prefix = check_source(source)
    copied = 0
    with closing(open_backend(name)) as other:
        for space in all_namespaces(other, prefix):
            records = read_all(other, space)[::-1]
            for first in range(0, len(records), COPY_BATCH):
                backend.put(namespace, records[first : first + COPY_BATCH])
            copied += len(records)
    return copied


def _is_shared(backend: str) -> bool:
    """Whether other runs may have their memory at the same place."""
    name, _, place = backend.partition(":")
    return name != "in-context" and bool(place) and bool(urlsplit(place).netloc)


def _read_note(folder: Path) -> dict[str, Any] | None:
    path = folder / NOTE_FILE
    try:
        note = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunLogError(f"{path} is unreadable ({error}); restore it, or start the run in a new folder") from error
    if not isinstance(note, dict) or note.get("schema_version") != NOTE_VERSION:
        raise RunLogError(f"{path} is not the note of a run's memory that this version reads")
    return note


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time prepares a run's memory."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
