"""A memory backend of your own, whole: records in one SQLite file.

    python examples/own_memory.py             # a second
    python -m pytest examples/own_memory.py   # the conformance suite that every backend must pass

The contract is `lamer_memory.MemoryBackend`: four methods; the async four run them in a thread. Registered under the
entry-point group `lamer_graph.memory` it is chosen by name; `MemoryConfig("reflection", SqliteMemory(path))` takes it
as it is.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from lamer_memory import MemoryBackend, MemoryClosedError, MemoryRecord, MetadataValue, Namespace, ScoredRecord, matches
from lamer_memory.conformance import BackendConformance

TABLE = "CREATE TABLE IF NOT EXISTS records (space TEXT, key TEXT, record TEXT, PRIMARY KEY (space, key))"


class SqliteMemory(MemoryBackend):
    """Records in the file `path`, newest by row id: an upsert deletes and inserts, so it counts as newest.

    Everything is kept as JSON in ASCII, which holds what SQLite's text does not (half surrogate pairs).
    """

    def __init__(self, path: str | Path) -> None:
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = sqlite3.connect(path, check_same_thread=False)
        self._db.execute(TABLE)

    def put(self, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
        space = json.dumps(namespace)
        rows = [(space, json.dumps(record.key), json.dumps(record.to_json())) for record in records]
        with self._lock, self._open() as db:
            for row in rows:
                db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", row)

    def search(
        self,
        namespace: Namespace,
        query: str | None = None,
        filter: Mapping[str, MetadataValue] | None = None,
        limit: int = 10,
    ) -> list[ScoredRecord]:
        with self._lock:
            rows = self._open().execute(
                "SELECT record FROM records WHERE space = ? ORDER BY rowid DESC", (json.dumps(namespace),)
            )
            found = [MemoryRecord.from_json(json.loads(row[0])) for row in rows]
        return [ScoredRecord(record, None) for record in found if matches(record, filter)][: max(0, limit)]

    def delete(self, namespace: Namespace, keys: Sequence[str] | None = None) -> None:
        space = json.dumps(namespace)
        with self._lock, self._open() as db:
            if keys is None:
                db.execute("DELETE FROM records WHERE space = ?", (space,))
            else:
                db.executemany(
                    "DELETE FROM records WHERE space = ? AND key = ?", [(space, json.dumps(key)) for key in keys]
                )

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise MemoryClosedError("this SqliteMemory was closed; open its file again")
        return self._db


class TestSqliteMemory(BackendConformance):
    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], MemoryBackend]:
        numbers = iter(range(1000))
        return lambda: SqliteMemory(tmp_path / f"memory-{next(numbers)}.db")

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], MemoryBackend]:
        return lambda: SqliteMemory(tmp_path / "memory-0.db")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        memory = SqliteMemory(Path(folder) / "memory.db")
        for episode, text in enumerate(("(1, 1) is a mine", "start in a corner")):
            memory.put(("me",), [MemoryRecord(f"trial/{episode}", "task", episode, "reflection", text, False)])
        for found in memory.search(("me",)):
            print(found.record.text)
        memory.close()


if __name__ == "__main__":
    main()
