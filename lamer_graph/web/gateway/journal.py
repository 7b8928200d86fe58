"""What has been recorded of trials that are not over: a SQLite file, so that a killed gateway loses no call.

What must stay true: what a method has returned from is on disk. A trial leaves the journal only once the run log has
it, and is ended the same way however often that is asked for.
"""

from __future__ import annotations

import hmac
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from lamer_graph.errors import RunLogError

JOURNAL_FILE = "open_trials.sqlite"
_KEY = "lt"
_TABLES = """
CREATE TABLE IF NOT EXISTS secret (value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counts (task_id TEXT PRIMARY KEY, trials INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY AUTOINCREMENT, trial_id TEXT UNIQUE NOT NULL, opening TEXT NOT NULL, grades TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY AUTOINCREMENT, trial INTEGER NOT NULL, attempt INTEGER, call TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS calls_of ON calls (trial);
"""


class OpenTrial(NamedTuple):
    """A trial that is not over: what it was opened with, and the grades of its attempts so far, which tell how many
    have ended."""

    number: int
    trial_id: str
    opening: dict[str, Any]
    grades: list[dict[str, Any]]


class Journal:
    """The open trials of one gateway. Safe for any number of threads; another process is refused."""

    def __init__(self, folder: Path) -> None:
        """Raises RunLogError where it cannot be opened, or another gateway has it open."""
        self._lock = threading.Lock()
        path = folder / JOURNAL_FILE
        try:
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1.0)
            # Held for good: two gateways would count attempts apart.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")  # one fsync a commit
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
            with self._written() as db:
                found = db.execute("SELECT value FROM secret").fetchone()
                self._secret: bytes = found[0] if found else secrets.token_bytes(32)
                if not found:
                    db.execute("INSERT INTO secret VALUES (?)", (self._secret,))
        except (sqlite3.Error, OSError) as error:
            raise RunLogError(
                f"cannot open {path} ({error}): does another gateway write to this folder? Choose another --out"
            ) from None

    @contextmanager
    def _written(self) -> Iterator[sqlite3.Connection]:
        """A transaction, on disk when it is left. Raises RunLogError where it cannot be."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise RunLogError(f"the gateway's journal cannot be written: {error}") from error
                raise

    def open(self, task_id: str, task: Any, split: str | None, trial_id: str | None) -> OpenTrial:
        """A new trial of the task, or the one that is open under `trial_id`."""
        with self._written() as db:
            if trial_id is not None and (found := self._found("trial_id = ?", trial_id)) is not None:
                return found
            row = db.execute("SELECT trials FROM counts WHERE task_id = ?", (task_id,)).fetchone()
            index = row[0] if row else 0
            db.execute("INSERT OR REPLACE INTO counts VALUES (?, ?)", (task_id, index + 1))
            name = trial_id or f"trial-{secrets.token_hex(8)}"
            opening = {"task_id": task_id, "task": task, "split": split, "index": index, "started": time.time()}
            db.execute(
                "INSERT INTO trials (trial_id, opening, grades) VALUES (?, ?, '[]')", (name, orjson.dumps(opening))
            )
            made = self._found("trial_id = ?", name)
            assert made is not None
            return made

    def trial(self, trial_id: str) -> OpenTrial | None:
        with self._lock:
            return self._found("trial_id = ?", trial_id)

    def all(self) -> list[OpenTrial]:
        with self._lock:
            return [_read(row) for row in self._db.execute("SELECT * FROM trials ORDER BY number")]

    def _found(self, where: str, value: Any) -> OpenTrial | None:
        row = self._db.execute(f"SELECT * FROM trials WHERE {where}", (value,)).fetchone()
        return None if row is None else _read(row)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def key_of(self, trial: OpenTrial) -> str:
        """The trial's own key: whoever has it can only speak within this trial."""
        mac = hmac.digest(self._secret, f"{trial.number}:{trial.trial_id}".encode(), "sha256").hex()[:40]
        return f"{_KEY}-{trial.number}-{mac}"

    def opened_by(self, key: str) -> OpenTrial | None:
        """The open trial whose key this is."""
        kind, _, rest = key.partition("-")
        number, _, _ = rest.partition("-")
        if kind != _KEY or not number.isascii() or not number.isdigit() or len(number) > 18:
            return None
        with self._lock:
            trial = self._found("number = ?", int(number))
        if trial is None or not hmac.compare_digest(self.key_of(trial).encode(), key.encode()):
            return None
        return trial

    # -- what happens in a trial --------------------------------------------------------------------------------------

    def add_call(self, trial: OpenTrial, call: dict[str, Any]) -> None:
        """A call of the attempt `call["attempt"]`, or a reflection behind one."""
        attempt = None if call["reflection"] else call["attempt"]
        row = (trial.number, attempt, orjson.dumps(call))
        with self._written() as db:
            db.execute("INSERT INTO calls (trial, attempt, call) VALUES (?, ?, ?)", row)

    def is_empty(self, trial: OpenTrial) -> bool:
        """Whether the attempt that is being made has no call yet."""
        with self._lock:
            now = (trial.number, len(trial.grades))
            return self._db.execute("SELECT 1 FROM calls WHERE trial = ? AND attempt = ?", now).fetchone() is None

    def calls(self, trial: OpenTrial) -> list[dict[str, Any]]:
        """What has been recorded of the trial, in the order in which it was answered."""
        with self._lock:
            rows = self._db.execute("SELECT call FROM calls WHERE trial = ? ORDER BY number", (trial.number,))
            return [orjson.loads(row[0]) for row in rows]

    def grade(self, trial: OpenTrial, grade: dict[str, Any]) -> OpenTrial:
        """End the trial's attempt with a grade."""
        grades = [*trial.grades, grade]
        with self._written() as db:
            db.execute("UPDATE trials SET grades = ? WHERE number = ?", (orjson.dumps(grades), trial.number))
        return trial._replace(grades=grades)

    def close_trial(self, trial: OpenTrial) -> None:
        """Forget the trial: the run log has it, or nobody wants it."""
        with self._written() as db:
            db.execute("DELETE FROM calls WHERE trial = ?", (trial.number,))
            db.execute("DELETE FROM trials WHERE number = ?", (trial.number,))

    def close(self) -> None:
        with self._lock:
            self._db.close()


def is_trial_key(key: str) -> bool:
    """Whether it looks like the key of some trial."""
    return key.startswith(f"{_KEY}-")


def _read(row: tuple[Any, ...]) -> OpenTrial:
    number, trial_id, opening, grades = row
    return OpenTrial(number, trial_id, orjson.loads(opening), orjson.loads(grades))
