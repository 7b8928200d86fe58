"""What a trial and its episode are between two steps: the states that drivers checkpoint.

What must stay true: JSON-plain throughout, so that any checkpointer can hold them and any process go on from them.
"""

from __future__ import annotations

from typing import Annotated, Any

from typing_extensions import TypedDict

from lamer_envs.base import State
from lamer_graph.text import plain

Json = dict[str, Any]


class TurnRecord(TypedDict, total=False):
    """One turn as states, results and logs hold it. `observation` is `Env.observe` of the state before it, whatever the
    prompt showed of that (style "compact": `Env.compact`); `action` is what was played, as it stood if unreadable;
    `plan` is what the first turn of an episode planned, where its strategy asks for that."""

    observation: str
    action: str
    reward: float
    valid: bool
    text: str
    plan: str
    call: Json


class EpisodeRecord(TypedDict):
    """One played episode. `reward` is the sum over its turns; `truncated`: the turn budget (or an error) ended it."""

    turns: list[TurnRecord]
    success: bool
    reward: float
    truncated: bool


def _entering(_: str | None, text: str | None) -> str | None:
    """How LangGraph updates a text of the state: also one that a person hands in (`update_state`) can be stored."""
    return plain(text) if isinstance(text, str) else text


class TrialState(TypedDict, total=False):
    """The state of a trial between episodes; JSON-plain throughout.

    `task` is the input; opening the trial takes it over into `playing`, so that a new input on a used thread is a new
    trial and a resumed run is not. `number` counts the thread's trials from 1; one that is `named` is known by
    what its caller said instead. `namespace` says whose memory it plays with (a resume need not say so again), `user`
    for whom it was begun, where records outlive it. `started` is in seconds since the epoch.
    `calls` are those of each episode's turns, packed (see `deltas`), where they are not in the turns themselves.
    `progress` is the environment's of the start and of each episode's last state, empty where it states none.
    """

    task: Json | None
    playing: Json
    namespace: list[str]
    user: str | None
    task_id: str
    trial_id: str
    trial: int
    number: int
    named: bool
    seed: int
    started: float
    start: State
    memory: list[Json]
    reads: list[Json]
    writes: list[Json]
    records: list[Json]
    episodes: list[EpisodeRecord]
    calls: list[list[Json | None]]
    outcomes: list[str]
    progress: list[float]
    last_observation: Annotated[str, _entering]
    reflections: list[str]
    reflection: Annotated[str | None, _entering]
    reflection_calls: list[Json]
    success: bool


class EpisodeState(TypedDict, total=False):
    """The state of the episode being played; JSON-plain throughout. `last_plan` is that of the episode before."""

    task_id: str
    trial: int
    seed: int
    episode: int
    memory: list[Json]
    trial_id: str
    start: State
    env_state: State
    seen: str
    last_plan: str
    turns: list[TurnRecord]
    outcomes: list[str]
    done: bool
    terminated: bool
    success: bool
