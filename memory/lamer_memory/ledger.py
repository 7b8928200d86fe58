"""Values of records in a memory that is in use: what each trial came to is entered once, and the sum noted at records.

What must stay true: an entry has a key of its own (trial and record), so that a trial that ends twice, after a crash,
is counted once; a value is always the sum of the entries that are there, and whoever has noted one looks again whether
that still holds, so of several processes the last one notes what all have entered. A record that is deleted meanwhile
stays deleted. Entries lie in a namespace below the records', which nothing recalls from; of each record the latest
`ENTRIES` are kept.

Here trials have no group: outcomes are measured from the mean of the latest ones (of the same task where there are
some), which says nothing of what the records were shown to; see `utility.Value.controlled`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple

from lamer_memory.base import (
    EVERYTHING,
    MemoryBackend,
    MemoryRecord,
    MetadataValue,
    Namespace,
    ScoredRecord,
    Search,
    adrive,
    drive,
)
from lamer_memory.utility import NOTHING, OVERALL, UNKNOWN, Seen, Value, value_of

LEDGER = "=values"
"""Label of the namespace of entries, below that of the records."""
ENTRIES = 64
"""Entries of a record that are kept; older ones would count for little (`utility.WINDOW`)."""
LATEST = 64
"""Trials whose mean outcome is the baseline."""
ENOUGH = 4
"""Trials of the same task from which their mean is the baseline, and not everyone's."""
TRIALS = "trials"
"""The `task_id` of entries about trials; those about a record have "record:KEY"."""
BASE = "\x1fbase"
"""Key of the entry of what a record's metadata said before there was a ledger."""
LOOKS = 8
"""How often a value is noted again because another process has entered something meanwhile."""


class Put(NamedTuple):
    namespace: Namespace
    records: list[MemoryRecord]


class Note(NamedTuple):
    namespace: Namespace
    notes: Mapping[str, Mapping[str, MetadataValue]]


class Delete(NamedTuple):
    namespace: Namespace
    keys: list[str]


Step = Search | Put | Note | Delete
Doing = Generator[Step, list[ScoredRecord], None]


def overall_record(value: Value, key: str = OVERALL) -> MemoryRecord:
    """What a ledger says of its whole namespace."""
    return _entry(key, key, value.to_metadata())


def is_ledger(namespace: Namespace) -> bool:
    """Whether entries lie there, and no records that anyone recalls."""
    return bool(namespace) and namespace[-1] == LEDGER


def settle(backend: MemoryBackend, namespace: Namespace, trial_id: str, task_id: str, seen: Seen) -> None:
    """Enter what a finished trial came to, and note the new values at the records that it looked up.

    Doing it again for the same trial changes nothing. Raises ValueError for an outcome that is not finite, and the
    backend's errors; what was entered until then counts.
    """
    drive(_settling(namespace, trial_id, task_id, seen), lambda step: _do(backend, step))


def drop_entries(backend: MemoryBackend, namespace: Namespace, keys: Sequence[str]) -> None:
    """Delete what was entered about records that are gone."""
    place = (*namespace, LEDGER)
    if not backend.search(place, limit=1):
        return
    for key in keys:
        entries = backend.search(place, None, {"task_id": _of(key)}, EVERYTHING)
        backend.delete(place, [entry.record.key for entry in entries])


async def asettle(backend: MemoryBackend, namespace: Namespace, trial_id: str, task_id: str, seen: Seen) -> None:
    """`settle`, async."""

    async def do(step: Step) -> list[ScoredRecord]:
        if isinstance(step, Search):
            return await backend.asearch(*step)
        if isinstance(step, Put):
            await backend.aput(*step)
        elif isinstance(step, Note):
            await backend.aannotate(*step)
        else:
            await backend.adelete(*step)
        return []

    await adrive(_settling(namespace, trial_id, task_id, seen), do)


def _do(backend: MemoryBackend, step: Step) -> list[ScoredRecord]:
    if isinstance(step, Search):
        return backend.search(*step)
    if isinstance(step, Put):
        backend.put(*step)
    elif isinstance(step, Note):
        backend.annotate(*step)
    else:
        backend.delete(*step)
    return []


def _settling(namespace: Namespace, trial_id: str, task_id: str, seen: Seen) -> Doing:
    if not math.isfinite(seen.outcome):
        raise ValueError(f"an outcome must be a finite number, not {seen.outcome!r}")
    place = (*namespace, LEDGER)
    trials = yield Search(place, None, {"task_id": TRIALS}, LATEST + 1)
    baseline = _baseline([entry.record for entry in trials if entry.record.key != _name(trial_id)], task_id)
    seen = seen.with_overall()
    keys = list(dict.fromkeys([*seen.shown, *seen.held]))
    centred = seen.outcome - baseline
    yield Put(
        place,
        [
            _entry(_name(trial_id), TRIALS, {"outcome": seen.outcome, "task": task_id}),
            *(
                _entry(_name(trial_id, key), _of(key), {"outcome": centred, "held": key not in seen.shown})
                for key in keys
            ),
        ],
    )
    yield Delete(place, [entry.record.key for entry in trials[LATEST:] if entry.record.key != _name(trial_id)])
    yield from _valuing(namespace, keys)


def _valuing(namespace: Namespace, keys: Sequence[str]) -> Doing:
    """Note the values of the records that are there, and look whether they still hold."""
    place = (*namespace, LEDGER)
    # The records before their entries: a value that another process noted comes with a base that it entered before.
    records: dict[str, MemoryRecord] = {}
    for key in keys:
        found = yield Search(place if key == OVERALL else namespace, None, {"key": key}, 1)
        records.update((key, entry.record) for entry in found)
    if OVERALL in keys and OVERALL not in records:
        records[OVERALL] = overall_record(UNKNOWN)
        yield Put(place, [records[OVERALL]])
    noted: dict[str, Value] = {}
    open_keys, surplus = list(records), list[str]()
    for _ in range(LOOKS):
        values: dict[str, Value] = {}
        bases = list[MemoryRecord]()
        for key in open_keys:
            found = yield Search(place, None, {"task_id": _of(key)}, 2 * ENTRIES)
            entries = [one.record for one in found if one.record.key != _name(BASE, key)]
            base = next((one.record for one in found if one.record.key == _name(BASE, key)), None)
            if base is None:
                base = _entry(_name(BASE, key), _of(key), value_of(records[key]).to_metadata())
                bases.append(base)
            values[key] = _sum(base, entries)
            surplus += [one.key for one in entries[ENTRIES:]]
        yield Put(place, bases)
        open_keys = [key for key in open_keys if noted.get(key) != values[key]]
        if not open_keys:
            break
        notes = {key: values[key].to_metadata() for key in open_keys}
        if OVERALL in notes:
            yield Note(place, {OVERALL: notes.pop(OVERALL)})
        if notes:
            yield Note(namespace, notes)
        noted.update((key, values[key]) for key in open_keys)
    yield Delete(place, list(dict.fromkeys(surplus)))


def _sum(base: MemoryRecord, entries: list[MemoryRecord]) -> Value:
    """What the entries (newest first) come to, on top of what there was before them while they are few."""
    value = value_of(base) if len(entries) < ENTRIES else Value(NOTHING, NOTHING)
    sides: tuple[list[float], list[float]] = ([], [])
    for entry in entries[:ENTRIES]:
        sides[bool(entry.metadata["held"])].append(float(entry.metadata["outcome"] or 0.0))
    return value.with_outcomes(*sides)


def _baseline(trials: list[MemoryRecord], task_id: str) -> float:
    outcomes = [float(one.metadata["outcome"] or 0.0) for one in trials[:LATEST]]
    same = [out for out, one in zip(outcomes, trials, strict=False) if one.metadata["task"] == task_id]
    chosen = same if len(same) >= ENOUGH else outcomes
    return sum(chosen) / len(chosen) if chosen else 0.5


def _entry(name: str, of: str, says: Mapping[str, MetadataValue]) -> MemoryRecord:
    return MemoryRecord(name, of, 0, "trajectory", "", False, dict(says))


def _name(*parts: str) -> str:
    return "\x1f".join(parts)


def _of(key: str) -> str:
    return f"record:{key}"
