"""A run's memory: where it lies, what it is filled with, and which of it the run's trials may see.

What must stay true: a run has a memory of its own (a folder of the run, or a namespace that no other run has), so runs
cannot read each other; a store that it is filled from is only read. What its trials may see of other tasks is written
down before the first trial, so a resumed run and every worker process see the same, and the trials of a group nothing
of each other. With `visible="live"` they see what earlier ones wrote, in whatever order they are played.

A run that goes on from another one (`Heritage`, for training) begins with what that one began with and what its
finished trials wrote: its log says which these are, so nothing of a trial that was lost is inherited, nor any twice.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import uuid4

import orjson

from lamer_graph.collection.config import CollectConfig, check_memory, is_served, is_shared
from lamer_graph.errors import ConfigError, RunLogError
from lamer_graph.runlog import RUN_FILE, read_config, read_trials, write_atomic
from lamer_graph.trial.states import Json
from lamer_memory import MemoryBackend, MemoryRecord, open_backend
from lamer_memory.base import Namespace
from lamer_memory.chroma.client import DATABASE_FILE, MARK_FILE
from lamer_memory.chroma.process import ChromaProcess
from lamer_memory.embedders import CachedEmbedder, Embedder, EndpointEmbedder, open_embedder
from lamer_memory.frozen import FrozenView, visible_now
from lamer_memory.hygiene import all_namespaces, forget, plan, read_all
from lamer_memory.ledger import LEDGER, is_ledger, overall_record
from lamer_memory.recall import TRIAL_KEY
from lamer_memory.utility import OVERALL, value_of

MEMORY_FOLDER = "memory"
NOTE_FILE = "memory.json"
NOTE_VERSION = 1
OWN: Namespace = ("lamer",)
"""In a memory that no other run has."""
RUNS: Namespace = ("lamer-run",)
"""In one that others may have, above a label of the run's own."""
BEFORE = "before"
"""Label below a run's namespace of what it inherited."""
AFTER = f"{OVERALL}-after"
"""Key of what a finished run's memory as a whole has come to; under OVERALL is what it was when the run began."""
COPY_BATCH = 200
PROBE_SECONDS = 3.0


class RunMemory(NamedTuple):
    """`backend` is what trials are given, under `namespace`; `copied` records came from another store."""

    backend: MemoryBackend
    namespace: Namespace
    copied: int
    opened: MemoryBackend

    note: Json
    """What the run's folder says of it."""

    def close(self) -> None:
        self.opened.close()


class Heritage(NamedTuple):
    """How much of its `store` a run that goes on from it begins with: what `lamer_memory.hygiene.plan` keeps, `budget`
    records at most and no near-duplicates by `near`."""

    budget: int
    near: float | None


def probe_memory(config: CollectConfig) -> None:
    """Open the memory's backend for a moment, but not the run's folder: is its library there, does its server answer?

    Raises what `check_memory`, the backend and its embedder raise, within a few seconds.
    """
    check_memory(config)
    patience: dict[str, Any] = {}
    if _embedder_of(config) is not None:
        embedder = open_embedder(config.embedder)
        if isinstance(embedder, EndpointEmbedder):
            embedder = EndpointEmbedder(embedder.base_url, embedder.model, retry_s=PROBE_SECONDS)
        embedder.embed(["?"])
        patience["embedder"] = embedder
    if config.backend.startswith("chroma"):
        patience["retry_s"] = PROBE_SECONDS
    open_backend(config.backend, **patience).close()


def open_run_memory(config: CollectConfig, folder: Path, heritage: Heritage | None = None) -> RunMemory:
    """The memory of the run in `folder`: made and filled by whoever comes first, the same for everyone after.

    With a `heritage` the run goes on from its store, and its trials see of other tasks that alone (see `FrozenView`).

    Raises ConfigError (an impossible combination, a store that is none), RunLogError for a damaged note of a run, and
    the memory's own errors.
    """
    check_memory(config)
    backend = _open(config, folder)
    try:
        if backend.persistent and config.contents != "none":
            # What is loaded for the first question (embedder, index) is loaded now, or fails now, and not in mid-play.
            backend.search(OWN, query="?" if config.scope == "tasks" else None, limit=1)
        if config.scope == "trial" and not is_shared(config.backend):
            return RunMemory(backend, OWN, 0, backend, {})
        with _locked(folder):
            note = _read_note(folder)
            if note is None:
                note = _prepare(config, folder, backend, heritage)
                write_atomic(folder / NOTE_FILE, orjson.dumps(note))
        namespace = tuple(note["namespace"])
        if heritage is not None:
            before = FrozenView(backend, namespace, before=(*namespace, BEFORE), embedder=_embedder_of(config))
            return RunMemory(before, namespace, note["copied"], backend, note)
    except BaseException:
        backend.close()
        raise
    seen = backend
    if config.scope == "tasks" and config.visible == "frozen":
        seen = FrozenView(backend, namespace, note["visible"])
    return RunMemory(seen, namespace, note["copied"], backend, note)


def copied_of(folder: Path) -> int:
    """How many records the memory of the run in `folder` was filled with."""
    note = _read_note(folder)
    return 0 if note is None else int(note["copied"])


def drop_run_memory(config: CollectConfig, folder: Path) -> None:
    """Forget all that the run in `folder` remembers, if it is there; the run's log stays. It is not to be played on.

    The note, which alone says what is the run's in a place that others have too, goes last.
    """
    note = _read_note(folder)
    if not is_shared(config.backend):
        shutil.rmtree(folder / MEMORY_FOLDER, ignore_errors=True)
    elif note is not None:
        with closing(_open(config, folder)) as backend:
            forget(backend, tuple(note["namespace"]), known=[BEFORE])
    (folder / NOTE_FILE).unlink(missing_ok=True)


def _open(config: CollectConfig, folder: Path) -> MemoryBackend:
    if config.scope == "trial" and config.backend == "chroma":
        # Only their own trial reads these records, so no vectors; and the loop that plays does not wait for a write.
        return ChromaProcess(folder / MEMORY_FOLDER, embedder=None)
    if config.backend == "chroma":
        return open_backend(f"chroma:{folder / MEMORY_FOLDER}", embedder=_embedder_of(config))
    if config.backend.startswith("store") and "embedder" not in (_read_note(folder) or {"embedder": ""}):
        return open_backend(config.backend)  # a run of before such a store had an index goes on as it began
    return open_memory(config)


def open_memory(config: CollectConfig) -> MemoryBackend:
    """The backend where the configuration says that it is, with what ranks its records. Raises what opening it does."""
    embedder = _embedder_of(config)
    return open_backend(config.backend) if embedder is None else open_backend(config.backend, embedder=embedder)


def _embedder_of(config: CollectConfig) -> Embedder | None:
    """What turns texts into vectors for this run, None where the backend does not rank by them."""
    kind = config.backend.partition(":")[0]
    ranks = kind == "chroma" or (kind == "store" and config.scope == "tasks")
    return _embedder(config.embedder) if ranks else None


@lru_cache(maxsize=2)
def _embedder(name: str) -> Embedder:
    """One per process: a model is loaded once for all runs, and a text that several runs ask about embedded once."""
    return CachedEmbedder(open_embedder(name))


def _prepare(config: CollectConfig, folder: Path, backend: MemoryBackend, heritage: Heritage | None) -> dict[str, Any]:
    # What was cut short leaves no note and is made again: the same keys, under a new name where others are.
    namespace = (*RUNS, uuid4().hex) if is_shared(config.backend) else OWN
    store = folder / config.store if config.store else None
    frozen = config.scope == "tasks" and config.visible == "frozen"
    stored = _Stored([], [], []) if store is None else _read_store(store)
    _put(backend, (*namespace, LEDGER), stored.overall)
    if heritage is None:
        records = stored.all
        _put(backend, namespace, records)
        visible = visible_now(backend, namespace) if frozen else None
    else:
        records = [] if store is None else _inherited(heritage, store, stored)
        _put(backend, (*namespace, BEFORE), records)
        visible = None
    return {
        "schema_version": NOTE_VERSION,
        "id": uuid4().hex,
        "namespace": list(namespace),
        "copied": len(records),
        "visible": visible,
        "embedder": config.embedder,
    }


def _inherited(heritage: Heritage, source: Path, records: _Stored) -> list[MemoryRecord]:
    """What a run that goes on from the store at `source`, which holds `records`, begins with, the oldest first."""
    if (source / RUN_FILE).exists():
        finished = {trial["trial_id"] for trial in read_trials(source) if trial["error"] is None}
        own = [record for record in records.own if record.metadata.get(TRIAL_KEY) in finished]
        # Trials that are played together write in whatever order they come to it.
        records = records._replace(own=sorted(own, key=lambda record: record.key))
    newest_first = list({record.key: record for record in records.all}.values())[::-1]
    gone = set(plan((), newest_first, budget=heritage.budget, near=heritage.near).keys)
    return [record for record in reversed(newest_first) if record.key not in gone]


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
        # Without a note: dropped, or in a folder and of before runs could share one.
        if note is None and is_served(name):
            raise ConfigError(f"the run {source} has no memory at {name} (any more); {what}")
        prefix = OWN if note is None else tuple(note["namespace"])
        if name == "chroma":
            name = f"chroma:{source / MEMORY_FOLDER}"
        if name == "in-context":
            raise ConfigError(f"the run {source} left no store, its memory was in-context; play it with backend chroma")
    if name.startswith("chroma:") and not is_served(name):
        place = Path(name.removeprefix("chroma:")).absolute()
        if not (place / DATABASE_FILE).exists() and not (place / MARK_FILE).exists():
            raise ConfigError(f"the store {place} holds no memory; {what}")
    return name, prefix


class _Stored(NamedTuple):
    """What a store holds, the oldest first: what a run there had inherited, and what was written since."""

    before: list[MemoryRecord]
    own: list[MemoryRecord]
    overall: list[MemoryRecord]
    """What its memory as a whole was worth, if it was measured."""

    @property
    def all(self) -> list[MemoryRecord]:
        return self.before + self.own


def _read_store(source: Path) -> _Stored:
    """All that the store at `source` holds; it is left untouched. Raises ConfigError and what opening it raises."""
    name, prefix = check_source(source)
    options = {"read_only": True, "embedder": None} if name.partition(":")[0] in ("chroma", "store") else {}
    found = _Stored([], [], [])
    with closing(open_backend(name, **options)) as backend:
        for space in all_namespaces(backend, prefix, ledgers=True):
            if is_ledger(space):
                for key in (OVERALL, AFTER):
                    told = backend.search(space, None, {"key": key}, 1)
                    found.overall[:] = [overall_record(value_of(entry.record)) for entry in told] or found.overall
                continue
            part = found.before if space == (*prefix, BEFORE) else found.own
            part += read_all(backend, space)[::-1]
    return found


def _put(backend: MemoryBackend, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
    for first in range(0, len(records), COPY_BATCH):
        backend.put(namespace, records[first : first + COPY_BATCH])


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
