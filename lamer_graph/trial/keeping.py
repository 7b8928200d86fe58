"""What a trial reads from its memory and writes to it, whatever the trial is a trial of.

What must stay true: a memory backend that dies with the process is filled again from the trial's own state before it is
read, so a resumed trial recalls what the killed one would have. Records that die with their trial are in the backend
only while it is read: nothing is left there by a trial that fails, is cancelled, or waits for a person who never comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from lamer_graph.trial.states import Json
from lamer_memory import MemoryBackend, MemoryConfig, MemoryRecord
from lamer_memory.base import Namespace
from lamer_memory.recall import aown_records, asimilar_records, kinds, own_records, select_own, similar_records


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
    def outlives(self) -> bool:
        """Whether records outlive their trial, so that someone must say whose they are."""
        return self.remembers and not self.transient


@dataclass(frozen=True, slots=True)
class Asking:
    """Who recalls: a trial, before its coming `episode` (from 0). `namespace` is where its records lie, `about` says
    how its task first looks, `kept` are the records of its own that its state holds."""

    namespace: Namespace
    trial_id: str
    task_id: str
    episode: int
    about: Callable[[], str]
    kept: Sequence[Json]

    def records(self) -> list[MemoryRecord]:
        return [MemoryRecord.from_json(record) for record in self.kept]


def recall(k: Keeper, a: Asking) -> list[MemoryRecord]:
    """What the coming episode sees: similar records of other tasks, then the trial's own."""
    if k.transient:
        return _recall_transient(k, a)
    if a.kept:
        k.backend.put(a.namespace, a.records())
    found = similar_records(k.memory, k.backend, a.namespace, a.trial_id, a.about(), a.episode, task_id=a.task_id)
    return found + own_records(k.memory, k.backend, a.namespace, a.trial_id, a.episode)


async def arecall(k: Keeper, a: Asking, own: Sequence[MemoryRecord] | None = None) -> list[MemoryRecord]:
    """`recall`, async. `own` is what the trial has written so far, where the caller knows: it is then not read."""
    if k.transient:
        if not a.kept:
            return []
        # To its end even where the trial is cancelled meanwhile, or the records would stay.
        return await asyncio.shield(asyncio.ensure_future(_arecall_transient(k, a)))
    if a.kept and own is None:
        await k.backend.aput(a.namespace, a.records())
    found = await asimilar_records(
        k.memory, k.backend, a.namespace, a.trial_id, a.about(), a.episode, task_id=a.task_id
    )
    if own is None:
        return found + await aown_records(k.memory, k.backend, a.namespace, a.trial_id, a.episode)
    return found + select_own(own, k.memory, a.trial_id, a.episode)


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
