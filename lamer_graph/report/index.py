"""Where the trials of a run lie in its logs, and what a list of them shows: a line each, never its texts or tokens.

What must stay true: what was indexed once is not read again; a log that grows is read on from where it was, one that
was put back or replaced from its start. A line that is no trial is counted and left out, an unfinished last one waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

import orjson

from lamer_graph.errors import RunLogError
from lamer_graph.report.runs import Run, Source
from lamer_graph.runlog.lines import LogLine, trial_of
from lamer_graph.trial.states import Json

MAX_NAME = 200
"""Characters of a name (of a task, a version, an error) that a list shows."""
MAX_PROBLEMS = 5


class Row(NamedTuple):
    """One trial: where it is, and what is told of it in a list.

    `outcome` is the number of the episode that won (from 1), 0 where none did, -1 where an error ended it.
    """

    source: int
    offset: int
    length: int
    trial_id: str
    task: str
    env: str
    trial: int
    outcome: int
    episodes: int
    turns: int
    invalid: int
    reward: float
    seconds: float
    started: str
    version: str
    error: str


COLUMNS = ("task", "env", "trial", "outcome", "episodes", "turns", "invalid", "reward", "seconds", "started", "version")


@dataclass
class _Read:
    """How far a log was read."""

    source: Source
    inode: int = 0
    offset: int = 0
    lines: int = 0
    waiting: int = 0
    """Bytes of an unfinished last line."""
    damaged: list[str] = field(default_factory=list)


class Index:
    """The rows of a run, in the order of its logs. Not thread-safe: `Book` holds a lock."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rows: list[Row] = []
        self.sources: list[_Read] = []
        self.begun = 0
        """How often the rows were read anew from the start."""
        self._by_id: dict[str, int] = {}
        self._by_task: dict[str, list[int]] = {}

    def refresh(self) -> bool:
        """Read what has come since; whether anything has."""
        known = {read.source.path: read for read in self.sources}
        before = len(self.rows)
        sources = self.run.sources()
        gone = [path for path in known if path not in {source.path for source in sources}]
        if gone or any(_was_replaced(read) for read in self.sources):
            self._forget()
            known, before = {}, -1
        for source in sources:
            if source.path not in known:
                self.sources.append(_Read(source))
        for number, read in enumerate(self.sources):
            for row in _read_on(read, number):
                self._by_id[row.trial_id] = len(self.rows)
                self._by_task.setdefault(row.task, []).append(len(self.rows))
                self.rows.append(row)
        return len(self.rows) != before

    def _forget(self) -> None:
        self.rows, self.sources, self._by_id, self._by_task = [], [], {}, {}
        self.begun += 1

    def load(self, number: int) -> Json:
        """The trial of a row. Raises RunLogError where its log is no longer what was indexed."""
        row = self.rows[number]
        path = self.sources[row.source].source.path
        try:
            with path.open("rb") as file:
                file.seek(row.offset)
                trial = orjson.loads(file.read(row.length))
        except (OSError, ValueError) as error:
            raise RunLogError(f"{path} has changed while it was looked at ({error}); look again") from None
        if not isinstance(trial, dict) or trial.get("trial_id") != row.trial_id:
            raise RunLogError(f"{path} has changed while it was looked at; look again")
        return trial

    def find(self, trial_id: str) -> int | None:
        """The row of a trial."""
        return self._by_id.get(trial_id)

    def group(self, number: int) -> list[int]:
        """The rows of the trials on the same task in the same log: what a trainer compares."""
        row = self.rows[number]
        return [other for other in self._by_task[row.task] if self.rows[other].source == row.source]

    def of_source(self, source: int) -> list[int]:
        return [number for number, row in enumerate(self.rows) if row.source == source]

    def problems(self) -> list[str]:
        """What could not be read, in words."""
        found = [line for read in self.sources for line in read.damaged]
        if len(found) > MAX_PROBLEMS:
            found = [*found[:MAX_PROBLEMS], f"and {len(found) - MAX_PROBLEMS} more damaged lines"]
        waiting = [(read.source.path.name, read.waiting) for read in self.sources if read.waiting]
        return found + [f"the last line of {name} is unfinished ({size:,} bytes): left out" for name, size in waiting]


def _was_replaced(read: _Read) -> bool:
    try:
        now = read.source.path.stat()
    except OSError:
        return True
    return now.st_size < read.offset or (read.inode not in (0, now.st_ino))


def _read_on(read: _Read, number: int) -> Iterator[Row]:
    path = read.source.path
    try:
        with path.open("rb", buffering=1 << 20) as file:
            size = path.stat()
            read.inode, read.waiting = size.st_ino, 0
            if size.st_size <= read.offset:
                return
            file.seek(read.offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    read.waiting = len(raw)
                    return
                read.lines += 1
                start, read.offset = read.offset, read.offset + len(raw)
                try:
                    yield row_of(_trial(raw, read, start), number, start, len(raw))
                except RunLogError as error:
                    read.damaged.append(_without_folder(str(error), path))
                except (KeyError, TypeError, AttributeError, ValueError, IndexError):
                    read.damaged.append(f"{path.name} line {read.lines} is no trial: left out")
    except OSError as error:
        read.damaged = [f"{path.name} cannot be read ({error.strerror})"]


def _trial(raw: bytes, read: _Read, start: int) -> Json:
    try:
        value = orjson.loads(raw)
    except ValueError:
        raise RunLogError(f"{read.source.path} line {read.lines} is not valid JSON: left out") from None
    return trial_of(LogLine(read.lines, start, raw, value, torn=False), read.source.path)


def _without_folder(message: str, path: Path) -> str:
    return message.replace(str(path), path.name)[:MAX_NAME]


def row_of(trial: Json, source: int, offset: int, length: int) -> Row:
    """What a list tells of a trial. Raises KeyError and the like for one that is malformed."""
    episodes, error = trial["episodes"], trial["error"]
    won = next((number for number, episode in enumerate(episodes, start=1) if episode["success"]), 0)
    turns = [turn for episode in episodes for turn in episode["turns"]]
    calls = [turn["call"] for turn in turns if turn["call"] is not None]
    return Row(
        source,
        offset,
        length,
        str(trial["trial_id"]),
        str(trial["task"]["id"])[:MAX_NAME],
        intern(str(trial["task"]["env"])[:MAX_NAME]),
        int(trial["trial"]),
        won if error is None else -1,
        len(episodes),
        len(turns),
        sum(not turn["valid"] for turn in turns),
        finite(sum(episode["reward"] for episode in episodes)),
        finite(trial["timings"]["seconds"]),
        str(trial["timings"]["started"])[:19],
        intern(str(calls[0]["policy_version"])[:MAX_NAME]) if calls else "",
        intern(str(error["type"])[:MAX_NAME]) if error is not None else "",
    )


def finite(value: Any) -> float:
    """A number as JSON can say it, rounded to what is looked at. Raises TypeError and ValueError for none."""
    number = float(value)
    return round(number, 4) if math.isfinite(number) else 0.0
