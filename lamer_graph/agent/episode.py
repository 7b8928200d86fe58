"""One episode as a LangGraph graph inside the agent's: `act -> act -> ..`, a policy call and the environment's answer.

What must stay true: a turn adds to a checkpoint what is new in it, whatever the episode's length: the episode is a
channel of additions (LangGraph's `DeltaChannel`), calls are packed (`trial.deltas`), and what an episode starts from is
not in it at all, because the outer graph's state gives it again. One channel, because LangGraph's work per turn grows
with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import Command
from typing_extensions import TypedDict

from lamer_graph.agent import tracing
from lamer_graph.agent.node import Node
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import run_sync
from lamer_graph.trial import calls, events, steps
from lamer_graph.trial.deltas import packed, unpacked
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.states import EpisodeState, Json, TurnRecord

RECURSION_MARGIN = 5
"""Supersteps beyond one per turn."""

NEVER = 1 << 30
"""Turns after which a checkpoint would hold all of them again."""


class _Turn(TypedDict, total=False):
    """What a turn adds: its record and outcome, and what it makes of the rest of the episode's state."""

    turn: TurnRecord
    outcome: str
    state: Json


def _added(played: Json, turns: Sequence[_Turn]) -> Json:
    """The episode with more turns played. The empty one, with which it starts, adds nothing."""
    new = [one for one in turns if one]
    if not new:
        return played
    return {
        **played,
        **new[-1]["state"],
        "turns": [*played.get("turns", ()), *[one["turn"] for one in new]],
        "outcomes": [*played.get("outcomes", ()), *[one["outcome"] for one in new]],
    }


class _State(TypedDict, total=False):
    """What was played of the episode. A checkpoint of before holds it whole; what is played on is added to that."""

    progress: Annotated[Json, DeltaChannel(_added, dict, snapshot_frequency=NEVER)]


class EpisodeRun:
    """One run of the graph: what it starts from, whom it tells, and how far it has come."""

    def __init__(self, setup: EpisodeState, write: Callable[[Json], None], record: bool) -> None:
        self.setup = setup
        self.write = write
        self.record = record
        self.values: _State = {}
        self._last: Json | None = None

    def now(self, values: _State) -> EpisodeState:
        """The episode's state at `values`."""
        return cast(EpisodeState, {**self.setup, **values["progress"]})

    @property
    def reached(self) -> EpisodeState | None:
        """The episode as far as it was played, if it was."""
        return self.now(self.values) if "progress" in self.values else None

    def added(self, before: EpisodeState, update: EpisodeState) -> _Turn:
        """The turn that `update` adds, for the channel: its call packed against the one before it."""
        turn, state = update["turns"][-1], {**update}
        del state["turns"], state["outcomes"]
        call = turn.get("call")
        if call is not None:
            if self._last is None:  # the first of this run, which may be a resumed one
                made = [one for one in unpacked([t.get("call") for t in before["turns"]]) if one is not None]
                self._last = made[-1] if made else None
            turn = {**turn, "call": packed(call, self._last)}
            self._last = call
        return {"turn": turn, "outcome": update["outcomes"][-1], "state": state}


class EpisodeGraph:
    """The compiled graph of a harness's episodes, and the two doors to it."""

    def __init__(self, h: Harness, tell_state: bool) -> None:
        self.h = h
        self._tell_state = tell_state
        graph: StateGraph[Any, Any, Any, Any] = StateGraph(_State, context_schema=EpisodeRun)
        graph.add_node("act", Node("act", self._act, self._aact), destinations=("act", END))
        graph.add_edge(START, "act")
        self.graph = graph.compile(name="episode")
        self._config: Any = {"recursion_limit": h.max_turns + RECURSION_MARGIN}

    def play(self, run: EpisodeRun) -> EpisodeState:
        """Play the episode to its end; `run` knows how far it came if that fails."""
        # `stream` instead of `invoke`: the latter asks for every update as well, only to drop it.
        for values in self.graph.stream({"progress": {}}, self._config, context=run, stream_mode="values"):
            run.values = cast(_State, values)
        return _whole(run)

    async def aplay(self, run: EpisodeRun) -> EpisodeState:
        """`play`, async."""
        async for values in self.graph.astream({"progress": {}}, self._config, context=run, stream_mode="values"):
            run.values = cast(_State, values)
        return _whole(run)

    def _act(self, values: _State) -> Command[str]:
        run = cast(EpisodeRun, get_runtime().context)
        now = run.now(values)
        around = tracing.around(self.h.policy, lambda: tracing.turn_of(now))
        update = self._acted(run, now, run_sync(calls.call(self.h.policy, steps.ask_action(self.h, now), around)))
        if (callbacks := tracing.listening()) is not None:
            run_sync(tracing.step(callbacks, self.h.env.spec, now, update))
        return self._ended(run, now, update)

    async def _aact(self, values: _State) -> Command[str]:
        run = cast(EpisodeRun, get_runtime().context)
        now = run.now(values)
        around = tracing.around(self.h.policy, lambda: tracing.turn_of(now))
        update = self._acted(run, now, await calls.call(self.h.policy, steps.ask_action(self.h, now), around))
        if (callbacks := tracing.listening()) is not None:
            await tracing.step(callbacks, self.h.env.spec, now, update)
        return self._ended(run, now, update)

    def _acted(self, run: EpisodeRun, now: EpisodeState, reply: steps.Reply) -> EpisodeState:
        update = steps.acted(self.h, now, reply, run.record)
        event = events.turn_event(now, update)
        run.write({**event, "state": update["env_state"]} if self._tell_state else event)
        return update

    @staticmethod
    def _ended(run: EpisodeRun, now: EpisodeState, update: EpisodeState) -> Command[str]:
        return Command(update={"progress": run.added(now, update)}, goto=END if update["done"] else "act")


def _whole(run: EpisodeRun) -> EpisodeState:
    played = run.reached
    if played is None or not played["done"]:
        raise ConfigError(
            "the checkpoint of this episode was written by another version and cannot be gone on with: play the task "
            "again, on a new thread"
        )
    return played
