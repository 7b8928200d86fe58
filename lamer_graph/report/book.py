"""Runs as a page asks about them: the list of trials by pages, one trial at a time, the numbers of the whole.

What must stay true: a question is answered from what is on disk now, with one trial (and its group) in memory; a run
that grows is read on, and the numbers of the whole are made apart, so that nobody waits for intervals to see a trial.
Safe for several threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lamer_envs import Env
from lamer_graph.errors import RunLogError
from lamer_graph.report.index import COLUMNS, Index
from lamer_graph.report.overview import curves_of, described, whole_overview
from lamer_graph.report.pictures import album_of, environment
from lamer_graph.report.runs import Run
from lamer_graph.report.tokens import pieces_of, tokenizer_of
from lamer_graph.report.trials import Known, Place, Source, Worth, trial_view
from lamer_graph.trial.states import Json

Credit = Callable[[Sequence[Json], Json], Mapping[Place, Worth]]
"""The worth of every call of some trials, which a trainer with these settings would see together."""
MOST_GROUP = 64
MOST_BATCH = 1_000
"""Trials that are read to say what one was worth: of its task, and of its whole batch where that matters."""
KEPT = 16
PAGE = 2_000
"""Rows of one page of the list."""
WHOLE_BATCH = ("batch",)


class Book:
    """The runs of one page. `credit` says what calls were worth; `policy` is a folder whose tokenizer is to be used."""

    def __init__(self, runs: Sequence[Run], credit: Credit | None = None, policy: Path | None = None) -> None:
        self.runs = list(runs)
        self._indices = [Index(run) for run in runs]
        self._credit = credit
        self._policy = policy
        self._lock = threading.RLock()
        self._worth: OrderedDict[tuple[Any, ...], Mapping[Place, Worth]] = OrderedDict()
        self._whole: Json = {}
        self._whole_of: list[int] | None = None
        """How many rows the numbers of the whole were made of."""

    def refresh(self) -> list[int]:
        """Read what the runs have written since; how many trials each has."""
        with self._lock:
            for index in self._indices:
                index.refresh()
            return [len(index.rows) for index in self._indices]

    # -- what a page asks -------------------------------------------------------------------------------------------

    def state(self) -> Json:
        """What changes while a run goes on, in a few numbers."""
        counts = self.refresh()
        with self._lock:
            updates = [len(run.metrics()) if run.training else 0 for run in self.runs]
            begun = [index.begun for index in self._indices]
            return {"counts": counts, "updates": updates, "begun": begun, "whole": self._whole_of}

    def overview(self) -> Json:
        """The runs, their curves, and the numbers of the whole as far as they are made (see `measure`)."""
        with self._lock:
            runs = [
                {
                    **described(run),
                    "count": len(index.rows),
                    "problems": index.problems(),
                    "curves": curves_of(run),
                    "summary": (self._whole.get("summaries") or {}).get(number),
                }
                for number, (run, index) in enumerate(zip(self.runs, self._indices, strict=True))
            ]
            return {
                "runs": runs,
                "comparisons": self._whole.get("comparisons", []),
                "measured": self._whole_of is not None,
            }

    def rows(self, run: int, first: int, most: int = PAGE) -> Json:
        """A page of the list: columns of equal length. Raises IndexError for a run that is not there."""
        with self._lock:
            index = self._indices[run]
            rows = index.rows[first : first + max(0, most)]
            columns: Json = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
            columns["error"] = [row.error for row in rows]
            columns["update"] = [index.sources[row.source].source.update for row in rows]
            columns["part"] = [index.sources[row.source].source.part for row in rows]
            return {"run": run, "first": first, "total": len(index.rows), "begun": index.begun, "columns": columns}

    def trial(self, run: int, number: int) -> Json:
        """A trial as it is shown. Raises IndexError for one that is not there, RunLogError for one that is damaged."""
        with self._lock:
            index = self._indices[run]
            row = index.rows[number]
            trial = index.load(number)
        env = environment(row.env)
        try:
            known = Known(
                album=album_of(trial, env),
                worth=self._worth_of(run, number),
                pieces=self._pieces(run),
                written=self._written,
                shown_turns=partial(_shown_turns, self.runs[run].config, env),
            )
            return {"run": run, "row": number, **trial_view(trial, known)}
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise RunLogError(
                f"this trial is malformed ({error!r}); `lamer-graph log check` says where the log is"
            ) from error

    def held(self, most: int) -> list[tuple[int, int]]:
        """Up to `most` trials to hold on to, as (run, row): whole tasks in the order of the log, in all runs alike; of
        a training from its first and last updates and between."""
        with self._lock:
            tasks: dict[tuple[str, int | None], list[tuple[int, int]]] = {}
            for run, index in enumerate(self._indices):
                spread = _spread(len(index.sources))
                for number, row in enumerate(index.rows):
                    turn = spread[row.source] if self.runs[run].training else None
                    tasks.setdefault((row.task, turn), []).append((run, number))
        found: list[tuple[int, int]] = []
        for _, places in sorted(tasks.items(), key=lambda task: task[0][1] or 0):  # stable: else as logged
            if len(found) + len(places) > most:
                break
            found += places
        return sorted(found) or [(0, 0)][:most]

    def measure(self, alive: Callable[[], bool] = lambda: True) -> None:
        """Make the numbers of the whole anew, unless they are of what is there now. Takes seconds for long runs."""
        counts = self.refresh()
        if counts == self._whole_of:
            return
        told = whole_overview(self.runs, alive)
        if alive():
            with self._lock:
                self._whole = {**told, "summaries": dict(enumerate(told["summaries"]))}
                self._whole_of = counts

    # -- what is known of a trial -----------------------------------------------------------------------------------

    def _pieces(self, run: int) -> Callable[[Sequence[int]], list[str]] | None:
        tokenizer = tokenizer_of(self.runs[run], self._policy)
        return None if tokenizer is None else partial(pieces_of, tokenizer)

    def _written(self, trial_id: str, kind: str, episode: int) -> Source:
        """Where another trial's record was written, if the trial is among the runs."""
        with self._lock:
            for run, index in enumerate(self._indices):
                number = index.find(trial_id)
                if number is not None:
                    made = index.load(number)["reflections"] if kind == "reflection" else ()
                    texts = [str(one["text"]) for one in made if one["episode"] == episode]
                    return Source(run, number, texts[0] if texts else None)
        return Source(None, None, None)

    def _worth_of(self, run: int, number: int) -> Mapping[Place, Worth]:
        if self._credit is None:
            return {}
        with self._lock:
            index = self._indices[run]
            settings = self.runs[run].settings
            group = index.group(number)
            if settings.get("normalise") in WHOLE_BATCH or settings.get("algorithm") == "reinforce++":
                batch = index.of_source(index.rows[number].source)
                group = batch if len(batch) <= MOST_BATCH else group
            elif len(group) > MOST_GROUP:
                group = [number]
            key = (run, index.begun, tuple(group))
            if key not in self._worth:
                self._worth[key] = self._credit([index.load(one) for one in group], settings)
                while len(self._worth) > KEPT:
                    self._worth.popitem(last=False)
            self._worth.move_to_end(key)
            return self._worth[key]


def _spread(count: int) -> list[int]:
    """In which order so many logs are taken so that few of them tell of the whole: both ends, the middle, quarters."""
    order: dict[int, None] = {}
    parts = 1
    while len(order) < count:
        order.update(dict.fromkeys(round(part * (count - 1) / parts) for part in range(parts + 1)))
        parts *= 2
    turns = {at: turn for turn, at in enumerate(order)}
    return [turns[at] for at in range(count)]


def _shown_turns(config: Json, env: Env | None, turn: int) -> int:
    """How many of `turn` past turns a prompt of this configuration has (`PromptBuilder.shows_turns`)."""
    history = config.get("history")
    if isinstance(history, int):
        return min(history, turn)
    hidden = config.get("prompt_style") == "compact" and env is not None and env.markov
    return 0 if hidden else turn
