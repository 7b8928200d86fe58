"""The bulk driver: one trial as a plain coroutine over the same steps as the graph.

What must stay true: for the same harness, task and seed it asks the policy exactly what the graph asks, in the same
order, and ends in the same state (a test compares the two). It checkpoints nothing, so a turn costs a fraction of the
graph's; a trial that is cut short is played again from its start. Nor does it, with a `WriteBehind`, wait for a store:
what a trial has just written it knows without reading it back, and the writes are waited for (`settled`) before it may
be logged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from lamer_graph.errors import LamerError
from lamer_graph.trial import calls, steps
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.states import EpisodeState, Json, TrialState
from lamer_graph.trial.write_behind import WriteBehind
from lamer_memory import MemoryBackendError, MemoryRecord

Exchange = Callable[[TrialState, str], Awaitable[str]]
"""Replaces a trial's reflection before it is remembered (ablations)."""


TRIAL_ERRORS = (LamerError,)
"""What ends a trial and is recorded; anything else is a defect and ends the run."""


class Played(NamedTuple):
    """A trial's last state; `error` says what ended it early, `unfinished` is the episode that was being played.

    `pending` are the memory writes behind `state["writes"]`, one by one, that may still be on their way: see `settled`.
    """

    state: TrialState
    error: Json | None
    unfinished: EpisodeState | None
    pending: Sequence[asyncio.Future[None]] = ()


class Begun(NamedTuple):
    """A trial that is played already up to a turn of an episode, and goes on from there."""

    state: TrialState
    episode: EpisodeState


async def play_trial(
    h: Harness,
    task: Mapping[str, Any],
    *,
    namespace: str | Sequence[str] = (),
    unique: str = "",
    seed: int | None = None,
    record: bool = True,
    exchange: Exchange | None = None,
    behind: WriteBehind | None = None,
    begun: Begun | None = None,
) -> Played:
    """Play one trial to its end. Errors of policy, memory and environment end the trial, and are returned.

    `namespace` says whose memory it is, which must be said where records outlive their trial. `record` keeps every
    call's tokens in the state. With `behind` the trial's records go out through it while the trial goes on, and the
    trial recalls them from here; other tasks' are read as ever. What is returned is then to be `settled` before it
    counts. A trial that is `begun` goes on from there, and the arguments that say how it begins are not read; it waits
    for its memory. Raises ConfigError or lamer_envs errors for a malformed task.
    """
    if begun is None:
        state = steps.open_trial(h, task, namespace=namespace, unique=unique, seed=seed, started=time.time())
    else:
        state, behind = begun.state, None
    behind = None if h.transient else behind  # what ends with the trial is in its state, and nowhere to be waited for
    episode: EpisodeState | None = None
    written: list[MemoryRecord] = []
    pending: list[asyncio.Future[None]] = []
    try:
        while True:
            for write in pending:
                if write.done():
                    write.result()  # one that failed ends the trial now
            if begun is None:
                _update(state, await calls.arecall(h, state, None if behind is None else written))
                episode = steps.begin(state)
            else:
                episode, begun = begun.episode, None
            while not episode["done"]:
                reply = await calls.call(h.policy, steps.ask_action(h, episode))
                _update(episode, steps.acted(h, episode, reply, record))
            _update(state, steps.ended(h, state, episode))
            episode = None
            if steps.is_over(h, state):
                if steps.teaches(h, state):
                    reply = await calls.call(h.policy, steps.ask_reflection(h, state))
                    _update(state, steps.reflected(h, state, reply, record))
                    _update(state, steps.concluded(state))
                if lessons := steps.lessons(h, state):
                    if behind is None:
                        await calls.aremember(h, state, lessons)
                    else:
                        pending.append(behind.put(steps.namespace_of(h, state), lessons))
                    _update(state, steps.taught(state, lessons))
                await calls.asettle(h, state)
                break
            if h.reflects:
                reply = await calls.call(h.policy, steps.ask_reflection(h, state))
                _update(state, steps.reflected(h, state, reply, record))
                if exchange is not None:
                    state["reflection"] = await exchange(state, state["reflection"] or "")
            if h.remembers:
                records = steps.memories(h, state)
                if behind is None:
                    await calls.aremember(h, state, records)
                else:
                    written += records
                    pending.append(behind.put(steps.namespace_of(h, state), records))
                _update(state, steps.remembered(h, state, records))
    except TRIAL_ERRORS as error:
        return Played(state, error_record(error, state, episode), episode, pending)
    except BaseException:
        for write in pending:
            write.cancel()
        raise
    return Played(state, None, None, pending)


async def settled(played: Played) -> Played:
    """The trial with all its memory writes acknowledged, as it may be logged.

    A write that failed is taken from its list of writes, and is the trial's error if it has no earlier one.
    """
    state, error = played.state, played.error
    outcomes = await asyncio.gather(*played.pending, return_exceptions=True)
    lost = []
    for write, outcome in zip(state["writes"], outcomes, strict=False):  # without pending ones there are no outcomes
        if isinstance(outcome, MemoryBackendError):
            lost.append(write)
            error = error or error_record(outcome, state, None)
        elif outcome is not None:
            raise outcome
    if lost:
        state = cast(TrialState, {**state, "writes": [write for write in state["writes"] if write not in lost]})
    return Played(state, error, played.unfinished)


def _update(state: TrialState | EpisodeState, update: Mapping[str, Any]) -> None:
    cast(dict[str, Any], state).update(update)


def error_record(error: Exception, state: TrialState, episode: EpisodeState | None) -> Json:
    """What the log says of the error that ended a trial, and where it struck."""
    return {
        "type": type(error).__name__,
        "message": str(error)[:2_000],
        "episode": len(state["episodes"]),
        "turn": None if episode is None else len(episode["turns"]),
    }
