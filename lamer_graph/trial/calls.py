"""The I/O of a trial, shared by all drivers: policy calls trimmed to the context, memory reads and writes.

What must stay true: whatever is dropped from a prompt is the oldest, in whole pieces, and counted; a memory backend
that dies with the process is filled again from the trial's own state before it is read, so a resumed trial recalls
what the killed one would have. Records that die with their trial are in the backend only while it is read: nothing is
left there by a trial that fails, is cancelled, or waits for a person who never comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4
from weakref import WeakKeyDictionary

from lamer_graph.errors import PolicyResponseError, PromptTooLongError
from lamer_graph.policies.base import Policy
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.states import Json, TrialState
from lamer_graph.trial.steps import Ask, Reply, looks, namespace_of, recalled
from lamer_graph.types import Message
from lamer_memory import MemoryRecord
from lamer_memory.base import Namespace
from lamer_memory.recall import (
    aown_records,
    asimilar_records,
    own_records,
    select_own,
    similar_records,
)

MARGIN = 128
"""Tokens beyond bytes and template that a prompt may have: some templates add to a message by what it says."""
UNCOUNTABLE = (PolicyResponseError, NotImplementedError)
"""What a policy says that cannot count tokens: a server that is no vLLM, a policy without a tokenizer."""
_templates: WeakKeyDictionary[Policy, dict[tuple[str, ...], int]] = WeakKeyDictionary()
"""Tokens of a policy's chat template around messages of these roles with nothing in them."""


async def call(policy: Policy, ask: Ask) -> Reply:
    """Make the call, trimmed to the model's context: oldest pieces go first, never half a turn.

    An answer may take all that the prompt leaves of the context, up to `max_tokens`; a prompt is trimmed only where it
    leaves less than a quarter of the context and less than that. Raises PromptTooLongError where even the bare prompt
    does not fit, and whatever `generate` raises.
    """
    dropped, sampling = 0, ask.sampling
    messages = ask.build(0)
    window = await policy.window()
    if window is not None and not await _fits(policy, messages, window - sampling.max_tokens):
        budget = window - min(sampling.max_tokens, max(1, window // 4))
        tokens = await _count(policy, messages, budget)
        if tokens > budget:
            dropped, messages, tokens = await _trim(policy, ask, budget)
        if sampling.max_tokens > window - tokens:
            sampling = replace(sampling, max_tokens=max(1, window - tokens))
    started = time.perf_counter()
    completion = await policy.generate(messages, sampling)
    return Reply(completion, messages, dropped, sampling.seed or 0, time.perf_counter() - started)


def _most(messages: Sequence[Message]) -> int:
    """More tokens than the messages' words can have: a tokenizer makes at most one of a byte."""
    return sum(len(message["content"].encode()) for message in messages) + MARGIN


async def _fits(policy: Policy, messages: Sequence[Message], budget: int) -> bool:
    """Whether the prompt surely has at most `budget` tokens: most have, and need no counting, a round trip to a server.

    What the template adds is counted once for every order of roles.
    """
    most = _most(messages)
    if most > budget:
        return False
    known = _templates.setdefault(policy, {})
    roles = tuple(message["role"] for message in messages)
    if roles not in known:
        try:
            known[roles] = await policy.count_tokens([{**message, "content": ""} for message in messages])
        except UNCOUNTABLE:
            known[roles] = 0
    return most + known[roles] <= budget


async def _count(policy: Policy, messages: Sequence[Message], budget: int) -> int:
    """The prompt's tokens; at a server that cannot count, the most that they can be if that fits `budget`."""
    try:
        return await policy.count_tokens(messages)
    except UNCOUNTABLE:
        if (most := _most(messages)) <= budget:
            return most
        raise


async def _trim(policy: Policy, ask: Ask, budget: int) -> tuple[int, list[Message], int]:
    """The fewest dropped pieces that fit `budget` tokens, by bisection: fewer pieces never make a longer prompt."""
    low, high = 1, ask.droppable
    best: tuple[int, list[Message], int] | None = None
    while low <= high:
        middle = (low + high) // 2
        messages = ask.build(middle)
        tokens = await policy.count_tokens(messages)
        if tokens <= budget:
            best, high = (middle, messages, tokens), middle - 1
        else:
            low = middle + 1
    if best is None:
        bare = await policy.count_tokens(ask.build(ask.droppable))
        raise PromptTooLongError(
            f"the prompt needs {bare} tokens even without history, {bare - budget} more than the {budget} that the "
            f"model's context of {await policy.window()} leaves for it; serve the model with a longer context, use "
            "prompt_style='compact', or a smaller environment"
        )
    return best


# -- memory -----------------------------------------------------------------------------------------------------------


def recall(h: Harness, s: TrialState) -> Json:
    """The update with what the coming episode sees: similar records of other tasks, then this trial's own."""
    started = time.perf_counter()
    records: list[MemoryRecord] = []
    if h.transient:
        records = _recall_transient(h, s)
    elif h.remembers:
        namespace, trial_id, episode = namespace_of(h, s), s["trial_id"], len(s["episodes"])
        if s["records"]:
            h.backend.put(namespace, _kept(s))
        query = looks(h, s)
        records = similar_records(h.memory, h.backend, namespace, trial_id, query, episode, task_id=s["task_id"])
        records += own_records(h.memory, h.backend, namespace, trial_id, episode)
    return recalled(s, records, time.perf_counter() - started)


async def arecall(h: Harness, s: TrialState, own: Sequence[MemoryRecord] | None = None) -> Json:
    """`recall`, async. `own` is what the trial has written so far, where the caller knows: it is then not read."""
    started = time.perf_counter()
    records: list[MemoryRecord] = []
    if h.transient:
        if s["records"]:
            # To its end even where the trial is cancelled meanwhile, or the records would stay.
            records = await asyncio.shield(asyncio.ensure_future(_arecall_transient(h, s)))
    elif h.remembers:
        namespace, trial_id, episode = namespace_of(h, s), s["trial_id"], len(s["episodes"])
        if s["records"] and own is None:
            await h.backend.aput(namespace, _kept(s))
        query = looks(h, s)
        records = await asimilar_records(h.memory, h.backend, namespace, trial_id, query, episode, task_id=s["task_id"])
        if own is None:
            records += await aown_records(h.memory, h.backend, namespace, trial_id, episode)
        else:
            records += select_own(own, h.memory, trial_id, episode)
    return recalled(s, records, time.perf_counter() - started)


def _recall_transient(h: Harness, s: TrialState) -> list[MemoryRecord]:
    """The trial's own records out of its state, by way of the backend, which keeps nothing of them afterwards."""
    if not s["records"]:
        return []
    place = _nobodys(h, s)
    try:
        h.backend.put(place, _kept(s))
        return own_records(h.memory, h.backend, place, s["trial_id"], len(s["episodes"]))
    finally:
        h.backend.delete(place)


async def _arecall_transient(h: Harness, s: TrialState) -> list[MemoryRecord]:
    """`_recall_transient`, async."""
    place = _nobodys(h, s)
    try:
        await h.backend.aput(place, _kept(s))
        return await aown_records(h.memory, h.backend, place, s["trial_id"], len(s["episodes"]))
    finally:
        await h.backend.adelete(place)


def _nobodys(h: Harness, s: TrialState) -> Namespace:
    """A namespace for one look, so that a fork of the trial, or another of the same name, is not in it."""
    return (*namespace_of(h, s), uuid4().hex)


def _kept(s: TrialState) -> list[MemoryRecord]:
    return [MemoryRecord.from_json(record) for record in s["records"]]


def remember(h: Harness, s: TrialState, records: Sequence[MemoryRecord]) -> None:
    """Write what the trial leaves, unless it dies with the trial, whose state then keeps it."""
    if not h.transient:
        h.backend.put(namespace_of(h, s), records)


async def aremember(h: Harness, s: TrialState, records: Sequence[MemoryRecord]) -> None:
    """`remember`, async."""
    if not h.transient:
        await h.backend.aput(namespace_of(h, s), records)
