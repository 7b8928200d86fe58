"""Trials from the logs of earlier runs, in an order of the seed's.

What must stay true: the same step gives the same trials again, so that a resumed run needs no cursor but the number of
updates it has made. Trials of a task come together, as one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from lamer_graph.runlog import TRIALS_FILE, open_trials, scan, trial_of
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.samples import Trial


class _Place(NamedTuple):
    path: Path
    start: int
    size: int


class _Name(NamedTuple):
    """A trial within its group: in the order of their indices, and of whose they are."""

    trial: int
    trial_id: str


class LoggedRuns:
    """Off-line: groups of finished trials from the logs of one or more runs, `groups` of them a batch.

    Every pass over the logs is a new order of the groups, derived from `seed`; the last ones of a pass, too few for a
    batch, are filled up from the next pass. Only places in the files are kept in memory. Raises RunLogError for an
    unreadable log, TrainingDataError if there is nothing to train on or a trial is there twice (by its `trial_id`: two
    users' trials of one task and index are two of its group).
    """

    def __init__(self, folders: str | Path | Sequence[str | Path], *, groups: int = 16, seed: int = 0) -> None:
        self._groups: dict[str, dict[_Name, _Place]] = {}
        self._batch = groups
        self._seed = seed
        for folder in [folders] if isinstance(folders, str | Path) else folders:
            self._index(Path(folder) / TRIALS_FILE)
        if not self._groups:
            raise TrainingDataError(f"no finished trial in {folders}: collect some first")
        if groups < 1 or groups > len(self._groups):
            there = len(self._groups)
            raise TrainingDataError(
                f"a batch of {groups} groups cannot come from {there} tasks: set collect.tasks={there}"
            )
        self._names = sorted(self._groups)

    def __len__(self) -> int:
        """How many groups the logs hold."""
        return len(self._names)

    def next_batch(self, step: int) -> list[Trial]:
        wanted = range(step * self._batch, (step + 1) * self._batch)
        chosen: list[str] = []
        for number in wanted:
            name = self._name(number)
            # Two passes may meet in a batch: a group that would come twice gives its place to the next one free.
            while name in chosen:
                number += 1
                name = self._name(number)
            chosen.append(name)
        return [trial for name in chosen for trial in self._members(name)]

    def groups(self) -> Iterator[list[Trial]]:
        """Every group once, one in memory at a time, in the order of their names."""
        return map(self._members, self._names)

    def _members(self, name: str) -> list[Trial]:
        return [self._read(self._groups[name][own]) for own in sorted(self._groups[name])]

    def _name(self, number: int) -> str:
        turn, position = divmod(number, len(self._names))
        order = np.random.default_rng([self._seed, turn]).permutation(len(self._names))
        return self._names[int(order[position])]

    def _index(self, path: Path) -> None:
        with open_trials(path) as file:
            for line in scan(file):
                if line.torn:
                    break
                trial = trial_of(line, path)
                if trial.get("error") is not None:
                    continue
                try:
                    task, own = str(trial["task"]["id"]), _Name(int(trial["trial"]), str(trial["trial_id"]))
                except (KeyError, TypeError, ValueError):
                    raise TrainingDataError(f"{path} line {line.number} has no task.id, trial and trial_id") from None
                members = self._groups.setdefault(task, {})
                if own in members:
                    raise TrainingDataError(
                        f"trial {own.trial_id} is in {members[own].path} and in {path}; train on one of them"
                    )
                members[own] = _Place(path, line.start, len(line.raw))

    @staticmethod
    def _read(place: _Place) -> dict[str, Any]:
        with place.path.open("rb") as file:
            file.seek(place.start)
            trial: dict[str, Any] = orjson.loads(file.read(place.size))
            return trial
