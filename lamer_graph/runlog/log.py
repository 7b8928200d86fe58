"""The run log: a folder with `run.json` (the configuration, and what sampled it) and `trials.jsonl`, a trial per line.

What must stay true: an acknowledged trial is on disk whole, whatever is killed afterwards. Every write appends whole
lines under an exclusive lock of the file and is fsynced before it is acknowledged; a write that fails is truncated
away again. What a killed writer leaves behind is a torn last line: opening or appending drops that, and nothing else.
A malformed line anywhere before the last is an error that names the line. Line format: `schema`.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from datetime import datetime
from itertools import compress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import orjson

from lamer_graph.errors import RunLogError
from lamer_graph.runlog.files import reason_of, sync, write_atomic
from lamer_graph.runlog.lines import (
    RUN_FILE,
    SCHEMA_VERSION,
    TRIALS_FILE,
    config_hash,
    open_trials,
    read_config,
    scan,
    trial_id_in,
    trial_of,
)
from lamer_graph.text import plain_json

MAX_BATCH_BYTES = 64 << 20
"""Most bytes one group commit writes: bounded memory, and far below what one `write` may take."""


class _Line(NamedTuple):
    """An encoded trial. Only a `finished` one takes its id: a resume plays a trial that an error ended again."""

    trial_id: str
    finished: bool
    data: bytes


class _Waiting(NamedTuple):
    line: _Line
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[bool]


class RunLog:
    """A log opened for appending; made by `RunLog.create`.

    Safe for any number of threads and event loops, and several processes may have the same run open (each makes its
    own RunLog). `append` and `aappend` raise RunLogError when the line cannot be written; the file then ends where it
    ended before, and a later call may try again.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], fd: int, trial_ids: set[str], started: dict[str, str]
    ) -> None:
        self.folder = folder
        self.config_hash = config_hash(config)
        self._path = folder / TRIALS_FILE
        self._fd = fd
        self._trial_ids = trial_ids
        self._started = started  # when the trial of an id began, finished or not
        self._pid = os.getpid()
        self._mutex = threading.Lock()  # one commit at a time; flock does not exclude threads of one process
        self._wake = threading.Condition()  # guards the three below
        self._queue: list[_Waiting] = []
        self._writer: threading.Thread | None = None
        self._closing = False

    @classmethod
    def create(cls, folder: str | Path, config: Mapping[str, Any] | None = None, resume: bool = False) -> RunLog:
        """Start a run in `folder`, or with `resume` continue the one that is there (start it where there is none).

        Without a `config` a run is started with an empty one, and continued whatever its own says. Raises RunLogError
        where the folder holds a run of another configuration (named key by key), a run and `resume` is off, a damaged
        log or one of a newer schema, or where it cannot be written.
        """
        folder = Path(folder)
        wanted = None if config is None else _plain(config)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            fd = os.open(folder / TRIALS_FILE, flags, 0o644)
        except OSError as error:
            raise RunLogError(f"cannot write the run folder {folder} ({reason_of(error)}); choose another") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # two processes may create the same run at once
            held = _claim(folder, fd, wanted, resume)
            trial_ids, started = _recover(folder / TRIALS_FILE, fd)
            fcntl.flock(fd, fcntl.LOCK_UN)
        except OSError as error:
            os.close(fd)
            raise RunLogError(f"cannot write the run folder {folder} ({reason_of(error)}); choose another") from error
        except BaseException:
            os.close(fd)
            raise
        return cls(folder, held, fd, trial_ids, started)

    @property
    def trial_ids(self) -> Set[str]:
        """The id of every finished trial that this object knows to be on disk."""
        return self._trial_ids

    def name_of(self, trial: Mapping[str, Any]) -> str:
        """The id to log a trial under: its own, or, where that is another's here, who began at another time, one more.

        The same trial is given the same id every time. A trial that does not say when it began keeps its id.
        """
        name, began = trial_id_in(trial, "a trial to be logged"), _started_of(trial)
        if not began or _same_time(self._started.setdefault(name, began), began):
            return name
        own = f"{name}~{hashlib.blake2b(began.encode(), digest_size=6).hexdigest()}"
        self._started.setdefault(own, began)
        return own

    def append(self, trial: Mapping[str, Any]) -> bool:
        """Log a trial; returns when it is on disk. False where one has already finished under its id: it is skipped."""
        return self._commit([self._encode(trial)])[0]

    async def aappend(self, trial: Mapping[str, Any]) -> bool:
        """`append` without blocking the loop: all trials that wait together share one write and one fsync."""
        line = self._encode(trial)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(line, loop, loop.create_future())
        with self._wake:
            if self._closing:
                raise self._closed_error()
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_queued, name="lamer-runlog", daemon=True)
                self._writer.start()
            self._queue.append(waiting)
            self._wake.notify()
        return await waiting.done

    def close(self) -> None:
        """Write what is still queued and release the file; calling it again does nothing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._writer is not None:
            self._writer.join()
        with self._mutex:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    def _encode(self, trial: Mapping[str, Any]) -> _Line:
        if os.getpid() != self._pid:  # a forked child shares the file's lock with its parent: no lock at all
            raise RunLogError(f"this RunLog of {self.folder} belongs to another process; create one in each worker")
        if (version := trial.get("schema_version", SCHEMA_VERSION)) != SCHEMA_VERSION:
            raise RunLogError(f"a trial of schema {version} cannot be logged; this version writes {SCHEMA_VERSION}")
        name = trial_id_in(trial, "a trial to be logged")
        return _Line(name, trial.get("error") is None, _dump({"schema_version": SCHEMA_VERSION, **trial}))

    def _commit(self, lines: Sequence[_Line]) -> list[bool]:
        """Write the lines whose trial is new, in one piece, and fsync; which were. Raises RunLogError, none written."""
        with self._mutex:
            if self._fd < 0:
                raise self._closed_error()
            fresh: list[bool] = []
            finished: set[str] = set()
            for line in lines:
                fresh.append(line.trial_id not in self._trial_ids and line.trial_id not in finished)
                if line.finished:
                    finished.add(line.trial_id)
            if not any(fresh):
                return fresh
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                try:
                    _append_synced(self._fd, b"".join(line.data for line in compress(lines, fresh)))
                finally:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError as error:
                raise RunLogError(
                    f"cannot write {self._path} ({reason_of(error)}); what was logged is intact: make room, then "
                    "--resume"
                ) from error
            self._trial_ids |= finished
            return fresh

    def _write_queued(self) -> None:
        """The writer thread: takes all that waits, commits it, tells the loops that wait."""
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    return
                batch = self._take()
            outcomes: Sequence[bool | BaseException]
            try:
                outcomes = self._commit([waiting.line for waiting in batch])
            except BaseException as problem:  # whoever waits must hear of it, whatever it is
                outcomes = [problem] * len(batch)
            for loop in {waiting.loop for waiting in batch}:
                futures = [(one.done, came) for one, came in zip(batch, outcomes, strict=True) if one.loop is loop]
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(_settle, futures)

    def _take(self) -> list[_Waiting]:
        size = count = 0
        while count < len(self._queue) and (count == 0 or size + len(self._queue[count].line.data) <= MAX_BATCH_BYTES):
            size += len(self._queue[count].line.data)
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    def _closed_error(self) -> RunLogError:
        return RunLogError(f"the run log of {self.folder} was closed; nothing can be added to it")


def _settle(futures: list[tuple[asyncio.Future[bool], bool | BaseException]]) -> None:
    for future, came in futures:
        if future.done():  # its task was cancelled while it waited
            continue
        if isinstance(came, BaseException):
            future.set_exception(came)
        else:
            future.set_result(came)


# -- the file ---------------------------------------------------------------------------------------------------------


def _append_synced(fd: int, data: bytes) -> None:
    """Append `data`, whole or not at all, after dropping a torn tail. The caller holds the lock. Raises OSError."""
    start = _trim(fd)
    try:
        left = memoryview(data)
        while left:  # one write, unless the disk fills up in the middle: the next one then says so
            left = left[os.write(fd, left) :]
        os.fsync(fd)
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, start)
            os.fsync(fd)
        raise


def _trim(fd: int) -> int:
    """Cut what follows the last newline (a killed writer's torn line); the file's size afterwards."""
    size = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return size
    end = size
    while end > 0:
        begin = max(0, end - (1 << 16))
        newline = os.pread(fd, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    os.ftruncate(fd, end)
    return end


def _recover(path: Path, fd: int) -> tuple[set[str], dict[str, str]]:
    """The ids of all finished trials, and when those of all began, after dropping a torn last line.

    Raises RunLogError for any other damage.
    """
    trial_ids, started = set[str](), dict[str, str]()
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return trial_ids, started  # a device has no past to read; the first append says whether it takes data
    with open_trials(path) as file:
        for line in scan(file):
            if line.torn:
                os.ftruncate(fd, line.start)
                os.fsync(fd)
                break
            trial = trial_of(line, path)
            name = trial_id_in(trial, f"{path} line {line.number}")
            started.setdefault(name, _started_of(trial))
            if trial.get("error") is None:
                trial_ids.add(name)
    return trial_ids, started


def _started_of(trial: Mapping[str, Any]) -> str:
    timings = trial.get("timings")
    began = timings.get("started") if isinstance(timings, Mapping) else None
    return began if isinstance(began, str) else ""


def _same_time(held: str, began: str) -> bool:
    """Whether they are one moment; logs of before say it in milliseconds, and a line may not say it at all."""
    if held == began or not held:
        return True
    try:
        one, other = datetime.fromisoformat(held), datetime.fromisoformat(began)
    except ValueError:
        return False
    return not one.microsecond % 1000 and one == other.replace(microsecond=other.microsecond // 1000 * 1000)


def _claim(folder: Path, fd: int, wanted: dict[str, Any] | None, resume: bool) -> dict[str, Any]:
    """Write `run.json`, or compare with the one that is there; the run's configuration. The caller holds the lock."""
    path = folder / RUN_FILE
    if not path.exists():
        if os.fstat(fd).st_size:
            raise RunLogError(f"{folder} holds {TRIALS_FILE} but no {RUN_FILE}; choose another folder")
        wanted = wanted or {}
        write_atomic(path, orjson.dumps({"schema_version": SCHEMA_VERSION, "config": wanted}, option=_PRETTY))
        sync(folder.parent)
        return wanted
    held = read_config(folder)
    differing = [] if wanted is None else list(_differences(held, wanted))
    if differing:
        raise RunLogError(f"{folder} holds a run of another configuration: {'; '.join(differing)}; choose another name")
    if not resume:
        raise RunLogError(f"{folder} already holds this run; continue it with --resume or choose another name")
    return held


# -- small things -----------------------------------------------------------------------------------------------------

_PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_ABSENT = object()


def _dump(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        pass
    try:
        # A server may send half a surrogate pair inside a JSON escape: no reason to lose the trial.
        return orjson.dumps(plain_json(value), option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        raise RunLogError(f"a trial cannot be logged: {error}; it must be JSON-plain") from error


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = orjson.loads(orjson.dumps(dict(config)))
    except TypeError as error:
        raise RunLogError(f"a run configuration must be JSON-plain: {error}") from error
    return plain


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(key, _ABSENT), here.get(key, _ABSENT), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} is {_brief(there)} there and {_brief(here)} here"


def _brief(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
