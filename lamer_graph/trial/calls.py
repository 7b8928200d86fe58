"""The I/O of a trial, shared by all drivers: policy calls trimmed to the context, memory reads and writes.

What must stay true: whatever is dropped from a prompt is the oldest, in whole pieces, and counted. What is read from
and written to a memory is `keeping`'s.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from lamer_graph.errors import PolicyResponseError, PromptTooLongError
from lamer_graph.policies.base import Policy
from lamer_graph.trial import keeping
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.states import Json, TrialState
from lamer_graph.trial.steps import Ask, Reply, looks, namespace_of, recalled, won_in
from lamer_graph.types import Completion, Message, Sampling
from lamer_memory import MemoryRecord
from lamer_memory.utility import held_back

Generate = Callable[[Sequence[Message], Sampling], Awaitable[Completion]]
"""`Policy.generate`."""
MARGIN = 128
"""Tokens beyond bytes and template that a prompt may have: some templates add to a message by what it says."""
UNCOUNTABLE = (PolicyResponseError, NotImplementedError)
"""What a policy says that cannot count tokens: a server that is no vLLM, a policy without a tokenizer."""
_templates: WeakKeyDictionary[Policy, dict[tuple[str, ...], int]] = WeakKeyDictionary()
"""Tokens of a policy's chat template around messages of these roles with nothing in them."""


async def call(policy: Policy, ask: Ask, around: Callable[[Generate], Generate] | None = None) -> Reply:
    """Make the call, trimmed to the model's context: oldest pieces go first, never half a turn. `around` stands between
    the prompt as it is sent and the policy.

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
    generate: Generate = policy.generate if around is None else around(policy.generate)
    started = time.perf_counter()
    completion = await generate(messages, sampling)
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
    return recalled(h, s, keeping.recall(h, _asking(h, s)))


async def arecall(h: Harness, s: TrialState, own: Sequence[MemoryRecord] | None = None) -> Json:
    """`recall`, async. `own` is what the trial has written so far, where the caller knows: it is then not read."""
    return recalled(h, s, await keeping.arecall(h, _asking(h, s), own))


def _asking(h: Harness, s: TrialState) -> keeping.Asking:
    return keeping.Asking(
        namespace=namespace_of(h, s),
        trial_id=s["trial_id"],
        task_id=s["task_id"],
        episode=len(s["episodes"]),
        about=lambda: looks(h, s),
        kept=s["records"],
        held=held_back(h.memory.control, s["seed"], s["task_id"], s["trial"]),
    )


def settle(h: Harness, s: TrialState) -> None:
    """Enter what a finished trial came to in the values of the records that it saw, where they are kept."""
    keeping.settle(h, _asking(h, s), s["reads"], won_in(s))


async def asettle(h: Harness, s: TrialState) -> None:
    """`settle`, async."""
    await keeping.asettle(h, _asking(h, s), s["reads"], won_in(s))


def remember(h: Harness, s: TrialState, records: Sequence[MemoryRecord]) -> None:
    """Write what the trial leaves, unless it dies with the trial, whose state then keeps it."""
    keeping.remember(h, namespace_of(h, s), records)


async def aremember(h: Harness, s: TrialState, records: Sequence[MemoryRecord]) -> None:
    """`remember`, async."""
    await keeping.aremember(h, namespace_of(h, s), records)
