"""What a run's log says that the records of its memory are worth, noted at the records once the run has ended.

What must stay true: of a frozen memory all values are worked out from the log, so they depend on the set of its trials
and not on their order, and working them out again, after a crash or a resume, gives the same: a record keeps what it
was worth before the run (`BASE_KEY`) and which run has changed that. Trials of one task are a group (see
`utility.of_group`). Where a run holds nothing back there is nothing to compare in a group: its records are then
measured from the mean of the whole run, unless they have a better value already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import orjson

from lamer_graph.collection.config import CollectConfig, memory_config
from lamer_graph.collection.run_memory import AFTER, BEFORE, RunMemory, open_run_memory
from lamer_graph.runlog import read_trials
from lamer_graph.trial.keeping import seen_by
from lamer_graph.trial.states import Json
from lamer_memory import MemoryRecord
from lamer_memory.base import MetadataValue
from lamer_memory.hygiene import read_all
from lamer_memory.ledger import LEDGER, overall_record
from lamer_memory.utility import OVERALL, PREFIX, UNKNOWN, Seen, Value, of_group, value_of

RUN_KEY = f"{PREFIX}run"
"""Metadata key of the run that has changed a record's value last, and `BASE_KEY` of what it was before that."""
BASE_KEY = f"{PREFIX}base"
BATCH = 200


class Outcomes(NamedTuple):
    """What trials came to that saw a record and that it was held back from, from the mean of their group or run."""

    shown: list[float]
    held: list[float]


def note_values(config: CollectConfig, folder: Path, memory: RunMemory) -> int:
    """Note at the records of a finished run's memory what its log says they are worth; how many there are.

    Doing it again changes nothing. Raises RunLogError and the memory's errors.
    """
    if not config_learns(config) or not memory.note:
        return 0
    found = outcomes_of(read_trials(folder), config.trials, controlled=config.control > 0)
    run = str(memory.note.get("id", memory.namespace))
    place = (*memory.namespace, LEDGER)
    before = memory.opened.search(place, None, {"key": OVERALL}, 1)
    overall = _after(value_of(before[0].record) if before else UNKNOWN, found.get(OVERALL, Outcomes([], [])))
    memory.opened.put(place, [overall_record(overall, AFTER)])
    count = 0
    for namespace in (memory.namespace, (*memory.namespace, BEFORE)):
        notes: dict[str, dict[str, MetadataValue]] = {}
        for record in read_all(memory.opened, namespace) if found else ():
            if record.key in found:
                notes[record.key] = _note(record, run, found[record.key])
            if len(notes) >= BATCH:
                memory.opened.annotate(namespace, notes)
                count, notes = count + len(notes), {}
        if notes:
            memory.opened.annotate(namespace, notes)
        count += len(notes)
    return count


def settle_run(config: CollectConfig, folder: Path) -> None:
    """`note_values` of a run whose memory is not open here."""
    if config_learns(config):
        with closing(open_run_memory(config, folder)) as memory:
            note_values(config, folder, memory)


def config_learns(config: CollectConfig) -> bool:
    """Whether a run's values are worked out from its log."""
    return config.visible == "frozen" and memory_config(config).learns


def outcomes_of(trials: Iterable[Json], size: int, *, controlled: bool) -> dict[str, Outcomes]:
    """Of each record what those came to that saw it, or did not. `size` trials of one task are a group.

    Groups are let go of as they are complete, so that a long log costs no memory but the numbers.
    """
    found: dict[str, Outcomes] = {}
    alone: list[Seen] = []
    for group in _groups(trials, size):
        if not controlled:
            alone += group
            continue
        for key, (shown, held) in of_group(group).items():
            entry = found.setdefault(key, Outcomes([], []))
            entry.shown.extend(shown)
            entry.held.extend(held)
    middle = sum(one.outcome for one in alone) / len(alone) if alone else 0.0
    for one in alone:
        for key in one.shown:
            found.setdefault(key, Outcomes([], [])).shown.append(one.outcome - middle)
    return found


def _groups(trials: Iterable[Json], size: int) -> Iterator[list[Seen]]:
    """The finished trials of each task, in the order of tasks and indices as far as they come complete."""
    open_groups: dict[str, dict[int, Seen]] = {}
    for trial in trials:
        if trial["error"] is not None:
            continue
        won_in = len(trial["episodes"]) - 1 if trial["success"] else None
        group = open_groups.setdefault(trial["task"]["id"], {})
        seen = seen_by(trial["trial_id"], trial["memory_reads"], won_in)
        group[trial["trial"]] = seen.with_overall()
        if len(group) == size:
            yield [seen for _, seen in sorted(open_groups.pop(trial["task"]["id"]).items())]
    for _, group in sorted(open_groups.items()):
        yield [seen for _, seen in sorted(group.items())]


def _after(before: Value, outcomes: Outcomes) -> Value:
    """The value with a run's outcomes; one that was compared is not mixed with what was not."""
    return before.with_outcomes(outcomes.shown, outcomes.held) if outcomes.held or not before.controlled else before


def _note(record: MemoryRecord, run: str, outcomes: Outcomes) -> dict[str, MetadataValue]:
    """The record's value after this run, and what it was before."""
    before, kept = value_of(record), record.metadata.get(BASE_KEY)
    if record.metadata.get(RUN_KEY) == run and isinstance(kept, str):
        before = value_of(MemoryRecord(record.key, "", 0, "trajectory", "", False, orjson.loads(kept)))
    value = _after(before, outcomes)
    return {**value.to_metadata(), RUN_KEY: run, BASE_KEY: orjson.dumps(before.to_metadata()).decode()}
