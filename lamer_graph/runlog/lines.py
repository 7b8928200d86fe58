"""A run's files as they lie on disk: `run.json`, and `trials.jsonl` read a line at a time.

What must stay true: reading never writes, and holds one line in memory, also while a run is still writing. A torn last
line is a killed writer's and is left out; a malformed line anywhere before is an error that names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from lamer_graph.errors import RunLogError
from lamer_graph.runlog.files import reason_of

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
APPLICATION = "app:"
"""How the environment of a trial begins that an application or an agent behind a gateway has logged."""
TRIALS_FILE = "trials.jsonl"


class LogLine(NamedTuple):
    """One line as it lies in the file. `value` is None where it is not JSON; `torn` marks an unfinished last one."""

    number: int
    start: int
    raw: bytes
    value: Any
    torn: bool


def scan(file: BinaryIO) -> Iterator[LogLine]:
    """The lines of a log from its start, numbered from 1; a torn last line comes too, marked."""
    offset, number, raw = 0, 1, file.readline()
    while raw:
        if not raw.endswith(b"\n"):  # do not look further: a live writer may be completing this very line
            yield LogLine(number, offset, raw, None, torn=True)
            return
        following = file.readline()
        value = _parse(raw)
        yield LogLine(number, offset, raw, value, torn=value is None and not following)
        offset, number, raw = offset + len(raw), number + 1, following


def read_trials(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The trials of a run in the order they were logged; a torn last line is left out.

    Raises RunLogError for a missing log, a malformed line before the last, or a newer schema. Reads one line at a
    time, also while a run is still writing. The fields of a trial are not validated: that is `check`.
    """
    path = Path(folder) / TRIALS_FILE
    with open_trials(path) as file:
        for line in scan(file):
            if not line.torn:
                yield trial_of(line, path)


@contextmanager
def well_formed(folder: str | Path) -> Iterator[None]:
    """While the trials of a run are read for what they hold: a field that is not as it should be is a RunLogError."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise RunLogError(
            f"{folder} holds a malformed trial ({error!r}); `lamer-graph log check` says where"
        ) from error


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration that a run was created with. Raises RunLogError where there is none."""
    path = Path(folder) / RUN_FILE
    try:
        data = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunLogError(f"{path} is not a readable run description ({reason_of(error)})") from error
    if not isinstance(data, dict):
        raise RunLogError(f"{path} is not a run description but a {type(data).__name__}")
    _check_version(data, str(path))
    config = data.get("config")
    if not isinstance(config, dict):
        raise RunLogError(f"{path} is not a run description: it has no 'config' object")
    return config


def config_hash(config: Mapping[str, Any]) -> str:
    """16 hex digits that are equal for equal configurations, whatever the order of their keys."""
    return hashlib.blake2b(orjson.dumps(config, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


def open_trials(path: Path) -> BinaryIO:
    """A log for reading. Raises RunLogError where there is none."""
    try:
        if path.exists() and not path.is_file():
            raise RunLogError(f"{path} is not a regular file and cannot be read as a run log")
        return path.open("rb", buffering=1 << 20)
    except FileNotFoundError:
        raise RunLogError(f"no run log at {path}; give the folder that `collect` or `eval` wrote") from None
    except OSError as error:
        raise RunLogError(f"cannot read {path} ({reason_of(error)})") from error


def trial_of(line: LogLine, path: Path) -> dict[str, Any]:
    """A line's trial. Raises RunLogError where it is not one of a schema that is understood."""
    where = f"{path} line {line.number}"
    if line.value is None:
        raise RunLogError(f"{where} is not valid JSON and not the last line: the file was damaged, not cut short")
    if not isinstance(line.value, dict):
        raise RunLogError(f"{where} is not a trial but a {type(line.value).__name__}")
    _check_version(line.value, where)
    return line.value


def _check_version(data: Mapping[str, Any], where: str) -> None:
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RunLogError(f"{where} has no schema_version; this version of lamer-graph reads up to {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise RunLogError(
            f"{where} has schema_version {version}, this version of lamer-graph reads up to {SCHEMA_VERSION}: upgrade"
        )


def trial_id_in(trial: Mapping[str, Any], where: str) -> str:
    """What a trial is known by: task, index, and whose it is. `where` names it in the RunLogError if it has none."""
    name = trial.get("trial_id")
    if not isinstance(name, str):
        raise RunLogError(f"{where} has no trial_id (text)")
    return name


def _parse(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:
        return None
