"""Which runs lie in a folder: evaluations and collections, trainings with a log for every update, whole comparisons.

What must stay true: a run is found by what is on disk and read again whenever it is asked for, so that one that is
still being written shows what it has; folders that a restarted training left behind are nobody's. A run of `reproduce`,
whose folder is named by a hash, is called what is written beside it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from lamer_graph.errors import RunLogError
from lamer_graph.runlog import RUN_FILE, TRIALS_FILE
from lamer_graph.trial.states import Json

METRICS, COLLECTED, VALIDATION = "metrics.jsonl", "collected", "validation"
NAMES = "runs.json"
"""What `reproduce` calls its runs: {"readings/FOLDER": "minesweeper lamer, read seed 0"}, two floors above each."""
MAX_NAME = 120
"""Characters of such a name."""
DEPTH = 3
"""How far below a folder that was named runs are looked for."""
MOST_RUNS = 64
_UPDATE = re.compile(r"update-([0-9]{5,9})")


class Source(NamedTuple):
    """One log: of a whole run, or of one `update` of a training (from 1; `part` is what it was played for)."""

    path: Path
    update: int | None
    part: str


@dataclass(frozen=True)
class Run:
    """A run that was found. `config` is what it collects (`CollectConfig`'s fields), `settings` a training's."""

    name: str
    folder: Path
    training: bool
    config: Json
    settings: Json
    sampled_by: tuple[Json, ...]

    def sources(self) -> list[Source]:
        """The logs that are there now, in the order of the run."""
        if not self.training:
            return [Source(self.folder / TRIALS_FILE, None, "")]
        found = []
        # What an update trains on is collected with the weights of the one before: the first folder is number 0.
        for place, part, first in ((COLLECTED, "training", 1), (VALIDATION, "validation", 0)):
            for folder in (self.folder / place).glob("update-*"):
                if (number := _UPDATE.fullmatch(folder.name)) and (folder / TRIALS_FILE).is_file():
                    found.append(Source(folder / TRIALS_FILE, int(number[1]) + first, part))
        return sorted(found, key=lambda source: (source.update or 0, source.part))

    def metrics(self) -> list[Json]:
        """A training's line for every update; an unfinished or damaged one is left out."""
        try:
            lines = (self.folder / METRICS).read_bytes().splitlines(keepends=True)
        except OSError:
            return []
        found = [_parsed(line) for line in lines if line.endswith(b"\n")]
        return [line for line in found if isinstance(line, dict) and isinstance(line.get("update"), int)]


def find_runs(places: Sequence[Path]) -> list[Run]:
    """The runs at `places`, each named as briefly as tells them apart. Raises RunLogError for a place without any."""
    named: dict[Path, tuple[str, ...]] = {}
    for place in places:
        found = _below(place, DEPTH)
        if not found:
            raise RunLogError(_nothing_at(place))
        whole = place.resolve()
        for folder in (one.resolve() for one in found):
            below = folder.relative_to(whole).as_posix() if folder != whole else ""
            long = f"{whole.parent.name}/{whole.name}/{below}".strip("/")
            given = _given_name(folder)
            names = (given, f"{given} ({folder.name.rpartition('-')[2]})") if given else ()
            named.setdefault(folder, (*names, below or whole.name, long))
    if len(named) > MOST_RUNS:
        raise RunLogError(f"{len(named)} runs are more than fit beside each other ({MOST_RUNS}): name some of them")
    return [_run(folder, _telling(names, named.values())) for folder, names in named.items()]


def _telling(names: Sequence[str], all_names: Collection[Sequence[str]]) -> str:
    """The first of a run's names that no other run has; the last where all of them are."""
    return next((name for name in names if sum(name in others for others in all_names) == 1), names[-1])


def _given_name(folder: Path) -> str:
    """What a file two floors above calls the run; "" where none does."""
    try:
        told = orjson.loads((folder.parent.parent / NAMES).read_bytes())
    except (OSError, ValueError):
        return ""
    name = told.get(f"{folder.parent.name}/{folder.name}") if isinstance(told, dict) else None
    return name[:MAX_NAME] if isinstance(name, str) else ""


def _below(folder: Path, depth: int) -> list[Path]:
    if _is_run(folder):
        return [folder]
    if depth == 0 or not folder.is_dir():
        return []
    try:
        inside = sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink())
    except OSError:
        return []
    return [run for one in inside for run in _below(one, depth - 1)]


def _is_run(folder: Path) -> bool:
    return (folder / TRIALS_FILE).is_file() or _is_training(folder)


def _is_training(folder: Path) -> bool:
    return (folder / COLLECTED).is_dir() and (folder / RUN_FILE).is_file()


def _nothing_at(place: Path) -> str:
    if not place.exists():
        return f"no run at {place}: there is no such folder"
    if not place.is_dir():
        return f"{place} is no folder; give the run's folder, which holds {TRIALS_FILE}"
    return f"no run in {place}: neither {TRIALS_FILE} nor a training is there or below; is it the --out of a command?"


def _run(folder: Path, name: str) -> Run:
    try:
        told = orjson.loads((folder / RUN_FILE).read_bytes())
    except (OSError, ValueError):
        told = {}
    told = told if isinstance(told, dict) else {}
    training = _is_training(folder)
    config = told.get("collect" if training else "config")
    if training and isinstance(config, dict) and not config.get("policy"):
        config = {**config, "policy": told.get("policy")}  # what it begins with
    settings = told.get("optimise") if training else {}
    sampled_by = told.get("sampled_by")
    return Run(
        name,
        folder,
        training,
        config if isinstance(config, dict) else {},
        settings if isinstance(settings, dict) else {},
        tuple(one for one in sampled_by if isinstance(one, dict)) if isinstance(sampled_by, list) else (),
    )


def _parsed(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except ValueError:
        return None
