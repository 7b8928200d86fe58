"""From a store to what the next episode sees: which records, in which order, how long.

What must stay true: the pure functions `select_own` and `select_similar` decide everything; what is asked of the
backend is written once for the sync and the async forms. A trial's own records are recognised by their deterministic
key, so a record of a later episode (left by a fork or a replay) or of another trial never slips in; and the records of
other trials of the same task count as similar ones only where the configuration says so (`same_task`), or the trials of
a training group would read each other's answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lamer_memory.base import (
    Asking,
    Kind,
    MemoryBackend,
    MemoryRecord,
    MetadataValue,
    Namespace,
    ScoredRecord,
    Search,
    aask,
    ask,
    record_key,
)
from lamer_memory.config import Contents, MemoryConfig, Outcomes
from lamer_memory.ledger import LEDGER
from lamer_memory.utility import CANDIDATES, OVERALL, UNKNOWN, Value, ranked, value_of

CUT_MARK = " ...[cut]"
TRIAL_KEY = "trial_id"
"""Metadata key under which `make_record` notes the trial, so that one filter finds a trial's records."""
MAX_SIMILAR = 4_096
"""Most records that are looked through for similar ones of other tasks."""
ABOUT_KEY = "about"
"""Metadata key for what a record is about (its task, as it first looked): a backend that ranks by similarity compares
a query with this text in place of the record's own, so that a lesson is found by the task and not by its wording."""

_KINDS: dict[Contents, tuple[Kind, ...]] = {
    "none": (),
    "trajectory": ("trajectory",),
    "reflection": ("reflection",),
    "both": ("trajectory", "reflection"),
}

_SUCCESS: dict[Outcomes, tuple[bool, ...]] = {
    "any": (True, False),
    "solved": (True,),
    "failed": (False,),
    "balanced": (True, False),
}
"""Which values of a record's `success` an outcome admits."""


def kinds(contents: Contents) -> tuple[Kind, ...]:
    """The kinds of record that a contents keeps, in the order they are shown within one episode."""
    return _KINDS[contents]


def trial_namespace(config: MemoryConfig, base: Namespace, trial_id: str) -> Namespace:
    """Where a trial reads and writes: a namespace of its own, or the shared one when other tasks' records count."""
    return (*base, trial_id) if config.scope == "trial" else base


def make_record(
    trial_id: str,
    task_id: str,
    episode: int,
    kind: Kind,
    text: str,
    success: bool,
    metadata: Mapping[str, MetadataValue] | None = None,
) -> MemoryRecord:
    """A record under its deterministic key, with its trial noted in the metadata."""
    return MemoryRecord(
        key=record_key(trial_id, episode, kind),
        task_id=task_id,
        episode=episode,
        kind=kind,
        text=text,
        success=success,
        metadata={**(metadata or {}), TRIAL_KEY: trial_id},
    )


def cut(text: str, max_chars: int) -> str:
    """`text` in at most `max_chars` characters; a cut one ends in a visible mark."""
    return text if len(text) <= max_chars else text[: max_chars - len(CUT_MARK)] + CUT_MARK


def select_own(
    records: Iterable[MemoryRecord], config: MemoryConfig, trial_id: str, episode: int
) -> list[MemoryRecord]:
    """Of `records`, this trial's of episodes before `episode`, oldest episode first, trajectory before reflection."""
    order = {kind: position for position, kind in enumerate(kinds(config.contents))}
    own = [
        record
        for record in records
        if record.kind in order and record.episode < episode and record.key == _key_in(trial_id, record)
    ]
    own.sort(key=lambda record: (record.episode, order[record.kind]))
    return [_bounded(record, config.max_chars) for record in own]


def select_similar(
    records: Iterable[MemoryRecord], config: MemoryConfig, trial_id: str, task_id: str | None = None
) -> list[MemoryRecord]:
    """Of `records`, in order, the first `k` of other trials and, but for `config.same_task`, tasks than `task_id`.

    Of `config.outcomes` only: "balanced" takes half of them (of an odd `k` the larger half) from the successful ones,
    the others from the rest, and where one side has too few, more of the other. `config.select` may put them in another
    order first, and leave out what harms (see `utility.ranked`).
    """
    others = _eligible((ScoredRecord(record, None) for record in records), config, trial_id, task_id)
    return _chosen(others, config, task_id)


def _eligible(
    found: Iterable[ScoredRecord], config: MemoryConfig, trial_id: str, task_id: str | None
) -> list[ScoredRecord]:
    """Those of other trials and tasks, of a kind and outcome that may be shown."""
    wanted = kinds(config.contents)
    return [
        entry
        for entry in found
        if entry.record.kind in wanted
        and (config.same_task or entry.record.task_id != task_id)
        and entry.record.key != _key_in(trial_id, entry.record)
        and entry.record.success in _SUCCESS[config.outcomes]
    ]


def _chosen(
    eligible: Sequence[ScoredRecord], config: MemoryConfig, task_id: str | None, overall: Value = UNKNOWN
) -> list[MemoryRecord]:
    """The `k` that are shown."""
    others = [entry.record for entry in ranked(eligible, config.select, task_id, overall)]
    if config.outcomes == "balanced":
        sides = [[place for place, record in enumerate(others) if record.success is side] for side in (True, False)]
        solved = min(len(sides[0]), max(config.k - config.k // 2, config.k - len(sides[1])))
        chosen = sorted(sides[0][:solved] + sides[1][: config.k - solved])
    else:
        chosen = list(range(len(others)))[: config.k]
    return [_bounded(others[place], config.max_chars) for place in chosen]


def own_records(
    config: MemoryConfig, backend: MemoryBackend, namespace: Namespace, trial_id: str, episode: int
) -> list[MemoryRecord]:
    """What the coming `episode` (from 0) sees of its trial's earlier ones. `namespace` is `trial_namespace`'s."""
    return ask(backend, _own(config, namespace, trial_id, episode))


async def aown_records(
    config: MemoryConfig, backend: MemoryBackend, namespace: Namespace, trial_id: str, episode: int
) -> list[MemoryRecord]:
    """`own_records`, async."""
    return await aask(backend, _own(config, namespace, trial_id, episode))


def similar_records(
    config: MemoryConfig,
    backend: MemoryBackend,
    namespace: Namespace,
    trial_id: str,
    query: str,
    episode: int = 0,
    *,
    task_id: str | None = None,
) -> list[MemoryRecord]:
    """With scope "tasks": up to `k` records of other tasks, the most similar to `query` first; else none.

    `query` is how the task looks at first. Without a `task_id` other trials of the same task count too.
    """
    return ask(backend, _similar(config, namespace, trial_id, query, episode, task_id))


async def asimilar_records(
    config: MemoryConfig,
    backend: MemoryBackend,
    namespace: Namespace,
    trial_id: str,
    query: str,
    episode: int = 0,
    *,
    task_id: str | None = None,
) -> list[MemoryRecord]:
    """`similar_records`, async."""
    return await aask(backend, _similar(config, namespace, trial_id, query, episode, task_id))


def _own(config: MemoryConfig, namespace: Namespace, trial_id: str, episode: int) -> Asking[list[MemoryRecord]]:
    if config.contents == "none" or episode < 1:
        return []
    # Newest first with a limit: leave room for later episodes that a fork or a replay of this trial left behind.
    filter = None if config.scope == "trial" else {TRIAL_KEY: trial_id}
    found = yield Search(namespace, None, filter, 4 * episode + 100)
    return select_own((entry.record for entry in found), config, trial_id, episode)


def _similar(
    config: MemoryConfig, namespace: Namespace, trial_id: str, query: str, episode: int, task_id: str | None
) -> Asking[list[MemoryRecord]]:
    """Wider and wider searches: the task's own records match it best and are dropped afterwards, however many."""
    if config.scope != "tasks":
        return []
    wanted = kinds(config.contents)
    everything: list[ScoredRecord] = []
    for success in _searched(config):
        filter: dict[str, MetadataValue] = {"kind": wanted[0]} if len(wanted) == 1 else {}
        if success is not None:
            filter["success"] = success
        limit = config.k * (1 if config.select == "similar" else CANDIDATES) + len(wanted) * episode
        found: list[ScoredRecord] = []
        while True:
            limit = min(limit, MAX_SIMILAR)
            found = yield Search(namespace, query, filter or None, limit)
            enough = len(_eligible(found, config, trial_id, task_id)) >= config.k
            if len(found) < limit or enough or limit == MAX_SIMILAR:
                break
            limit *= 4
        everything += found
    # The answers of several searches as one, the most similar first; unranked ones stay in their order.
    everything.sort(key=lambda entry: -(entry.score or 0.0))
    overall = UNKNOWN
    if config.select != "similar" and everything:
        noted = yield Search((*namespace, LEDGER), None, {"key": OVERALL}, 1)
        overall = value_of(noted[0].record) if noted else UNKNOWN
    return _chosen(_eligible(everything, config, trial_id, task_id), config, task_id, overall)


def _searched(config: MemoryConfig) -> tuple[bool | None, ...]:
    """What to ask for, one after the other: successes, failures, or (None) both at once."""
    return (None,) if config.outcomes == "any" else _SUCCESS[config.outcomes]


def _key_in(trial_id: str, record: MemoryRecord) -> str:
    return record_key(trial_id, record.episode, record.kind)


def _bounded(record: MemoryRecord, max_chars: int) -> MemoryRecord:
    return record if len(record.text) <= max_chars else replace(record, text=cut(record.text, max_chars))
