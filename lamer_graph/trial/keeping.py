"""What a trial reads from its memory and writes to it, whatever the trial is a trial of.

What must stay true: a memory backend that dies with the process is filled again from the trial's own state before it is
read, so a resumed trial recalls what the killed one would have. Records that die with their trial are in the backend
only while it is read: nothing is left there by a trial that fails, is cancelled, or waits for a person who never comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import uuid4

from lamer_graph.trial.states import Json
from lamer_memory import MemoryBackend, MemoryConfig, MemoryRecord
from lamer_memory.base import Namespace
from lamer_memory.ledger import asettle as aenter
from lamer_memory.ledger import settle as enter
from lamer_memory.recall import aown_records, asimilar_records, kinds, own_records, select_own, similar_records
from lamer_memory.utility import Seen, discounted


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """A memory configuration with its open backend."""

    memory: MemoryConfig
    backend: MemoryBackend

    @property
    def reflects(self) -> bool:
        """Whether failed episodes are reflected on: only where a reflection would be seen again."""
        return "reflection" in kinds(self.memory.contents)

    @property
    def remembers(self) -> bool:
        return self.memory.contents != "none"

    @property
    def transient(self) -> bool:
        """Whether records die with their trial: its state keeps them, the backend only while it is asked."""
        return self.remembers and self.memory.scope == "trial" and not self.backend.persistent

    @property
    def settles(self) -> bool:
        """Whether what a trial comes to is entered in the values of the records that it saw, as soon as it is over. Of
        a frozen memory they are worked out from the log (`collection.values`)."""
        return self.remembers and self.memory.learns and not self.backend.frozen

    @property
    def outlives(self) -> bool:
        """Whether records outlive their trial, so that someone must say whose they are."""
        return self.remembers and not self.transient


@dataclass(frozen=True, slots=True)
class Asking:
    """Who recalls: a trial, before its coming `episode` (from 0). `namespace` is where its records lie, `about` says
    how its task first looks, `kept` are the records of its own that its state holds; `held` that other tasks' are held
    back from it (`utility.held_back`)."""

    namespace: Namespace
    trial_id: str
    task_id: str
    episode: int
    about: Callable[[], str]
    kept: Sequence[Json]
    held: bool = False

    def records(self) -> list[MemoryRecord]:
        return [MemoryRecord.from_json(record) for record in self.kept]


class Recalled(NamedTuple):
    """What an episode sees, and the keys of other tasks' records that were held back from it."""

    records: list[MemoryRecord]
    held: list[str]
    seconds: float

    def to_json(self, episode: int) -> Json:
        """As a log notes what was read before `episode`."""
        noted = {"episode": episode, "keys": [record.key for record in self.records], "seconds": round(self.seconds, 6)}
        return {**noted, "held": self.held} if self.held else noted


def recall(k: Keeper, a: Asking) -> Recalled:
    """What the coming episode sees: similar records of other tasks, then the trial's own."""
    started = time.perf_counter()
    if not k.remembers:
        return _recalled(a, [], [], started)
    if k.transient:
        return _recalled(a, [], _recall_transient(k, a), started)
    if a.kept:
        k.backend.put(a.namespace, a.records())
    found = similar_records(k.memory, k.backend, a.namespace, a.trial_id, a.about(), a.episode, task_id=a.task_id)
    return _recalled(a, found, own_records(k.memory, k.backend, a.namespace, a.trial_id, a.episode), started)


def _recalled(a: Asking, found: list[MemoryRecord], own: list[MemoryRecord], started: float) -> Recalled:
    shown, held = ([], [record.key for record in found]) if a.held else (found, [])
    return Recalled([*shown, *own], held, time.perf_counter() - started)


async def arecall(k: Keeper, a: Asking, own: Sequence[MemoryRecord] | None = None) -> Recalled:
    """`recall`, async. `own` is what the trial has written so far, where the caller knows: it is then not read."""
    started = time.perf_counter()
    if not k.remembers or (k.transient and not a.kept):
        return _recalled(a, [], [], started)
    if k.transient:
        # To its end even where the trial is cancelled meanwhile, or the records would stay.
        return _recalled(a, [], await asyncio.shield(asyncio.ensure_future(_arecall_transient(k, a))), started)
    if a.kept and own is None:
        await k.backend.aput(a.namespace, a.records())
    found = await asimilar_records(
        k.memory, k.backend, a.namespace, a.trial_id, a.about(), a.episode, task_id=a.task_id
    )
    if own is None:
        return _recalled(a, found, await aown_records(k.memory, k.backend, a.namespace, a.trial_id, a.episode), started)
    return _recalled(a, found, select_own(own, k.memory, a.trial_id, a.episode), started)


def _recall_transient(k: Keeper, a: Asking) -> list[MemoryRecord]:
    """The trial's own records out of its state, by way of the backend, which keeps nothing of them afterwards."""
    if not a.kept:
        return []
    a = _nobodys(a)
    try:
        k.backend.put(a.namespace, a.records())
        return own_records(k.memory, k.backend, a.namespace, a.trial_id, a.episode)
    finally:
        k.backend.delete(a.namespace)


async def _arecall_transient(k: Keeper, a: Asking) -> list[MemoryRecord]:
    """`_recall_transient`, async."""
    a = _nobodys(a)
    try:
        await k.backend.aput(a.namespace, a.records())
        return await aown_records(k.memory, k.backend, a.namespace, a.trial_id, a.episode)
    finally:
        await k.backend.adelete(a.namespace)


def _nobodys(a: Asking) -> Asking:
    """The same in a namespace for one look, so that a fork of the trial, or another of the same name, is not in it."""
    return replace(a, namespace=(*a.namespace, uuid4().hex))


def remember(k: Keeper, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
    """Write what the trial leaves, unless it dies with the trial, whose state then keeps it."""
    if not k.transient:
        k.backend.put(namespace, records)


async def aremember(k: Keeper, namespace: Namespace, records: Sequence[MemoryRecord]) -> None:
    """`remember`, async."""
    if not k.transient:
        await k.backend.aput(namespace, records)


def seen_by(trial_id: str, reads: Sequence[Json], won_in: int | None) -> Seen:
    """What a trial saw of other tasks, or what was held back from it, and what it came to. `reads` are those of its
    state or log, `won_in` the episode (from 0) that succeeded."""
    shown = (key for read in reads for key in read["keys"] if not key.startswith(f"{trial_id}/"))
    held = (key for read in reads for key in read.get("held", ()))
    return Seen(tuple(dict.fromkeys(shown)), tuple(dict.fromkeys(held)), discounted(won_in))


def settle(k: Keeper, a: Asking, reads: Sequence[Json], won_in: int | None) -> None:
    """Enter what a finished trial came to, where values are kept."""
    if k.settles:
        enter(k.backend, a.namespace, a.trial_id, a.task_id, seen_by(a.trial_id, reads, won_in))


async def asettle(k: Keeper, a: Asking, reads: Sequence[Json], won_in: int | None) -> None:
    """`settle`, async."""
    if k.settles:
        await aenter(k.backend, a.namespace, a.trial_id, a.task_id, seen_by(a.trial_id, reads, won_in))
