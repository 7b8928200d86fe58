"""The bulk driver: one trial as a plain coroutine over the same steps as the graph.

What must stay true: for the same harness, task and seed it asks the policy exactly what the graph asks, in the same
order, and ends in the same state (a test compares the two). It checkpoints nothing, so a turn costs a fraction of the
graph's; a trial that is cut short is played again from its start.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, cast

from lamer_envs.errors import EnvError
from lamer_graph import calls, trial
from lamer_graph.errors import LamerError
from lamer_graph.trial import EpisodeState, Harness, Json, TrialState
from lamer_memory import MemoryBackendError

Exchange = Callable[[TrialState, str], Awaitable[str]]
"""Replaces a trial's reflection before it is remembered (ablations)."""


TRIAL_ERRORS = (LamerError, MemoryBackendError, EnvError)
"""What ends a trial and is recorded; anything else is a defect and ends the run."""


class Played(NamedTuple):
    """A trial's last state; `error` says what ended it early, `unfinished` is the episode that was being played."""

    state: TrialState
    error: Json | None
    unfinished: EpisodeState | None


async def play_trial(
    h: Harness,
    task: Mapping[str, Any],
    *,
    namespace: tuple[str, ...] = ("lamer",),
    unique: str = "",
    seed: int | None = None,
    record: bool = True,
    exchange: Exchange | None = None,
) -> Played:
    """Play one trial to its end. Errors of policy, memory and environment end the trial, and are returned.

    `record` keeps every call's tokens in the state. Raises ConfigError or lamer_envs errors for a malformed task.
    """
    state = trial.open_trial(h, task, unique=unique, seed=seed, started=time.time())
    episode: EpisodeState | None = None
    try:
        while True:
            _update(state, await calls.arecall(h, state, namespace))
            episode = trial.begin(state)
            while not episode["done"]:
                reply = await calls.call(h.policy, trial.ask_action(h, episode))
                _update(episode, trial.acted(h, episode, reply, record))
            _update(state, trial.ended(h, state, episode))
            episode = None
            if trial.is_over(h, state):
                break
            if h.reflects:
                reply = await calls.call(h.policy, trial.ask_reflection(h, state))
                _update(state, trial.reflected(h, state, reply, record))
                if exchange is not None:
                    state["reflection"] = await exchange(state, state["reflection"] or "")
            if h.remembers:
                records = trial.memories(h, state)
                await h.backend.aput(trial.namespace_of(h, namespace, state), records)
                _update(state, trial.remembered(h, state, records))
    except TRIAL_ERRORS as error:
        return Played(state, error_record(error, state, episode), episode)
    finally:
        await calls.aforget(h, state, namespace)
    return Played(state, None, None)


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
