"""The node functions of one agent: fetch, ask `trial` what it means, return the update; see `graph` for their order.

What must stay true: every decision is a pure step of `trial.steps`; what a node does again after a crash changes
nothing. An error that ends a trial is logged with what had been played, where there is a log.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from langgraph.errors import GraphBubbleUp
from langgraph.runtime import get_runtime

from lamer_graph.agent import invocation, tracing
from lamer_graph.agent.episode import EpisodeGraph, EpisodeRun
from lamer_graph.agent.person import reviewed
from lamer_graph.agent.stops import kept
from lamer_graph.errors import RunLogError
from lamer_graph.policies.base import run_sync
from lamer_graph.runlog.recording import TrialRecorder
from lamer_graph.trial import calls, events, steps
from lamer_graph.trial.driver import error_record
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.states import EpisodeState, Json, TrialState
from lamer_memory import MemoryRecord
from lamer_memory.base import Namespace

LOGGED = "what had been played of the trial is in the run log, with this error"
"""Note on an exception that ended a trial with a recorder."""


def _emit(event: Json) -> None:
    get_runtime().stream_writer(event)


class Nodes:
    """The node functions of one agent."""

    def __init__(
        self, harness: Harness, recorder: TrialRecorder | None, namespace: Namespace | None, tell_state: bool
    ) -> None:
        self.h = harness
        self._recorder = recorder
        self._namespace = namespace
        self.inner = EpisodeGraph(harness, tell_state)

    # -- recall -------------------------------------------------------------------------------------------------------

    def _opened(self, state: TrialState) -> tuple[TrialState, Json]:
        """The trial's state, and the update that opens it if there is a new task to take over."""
        task = state.get("task")
        if task is None and "playing" in state:
            return self._owned(state), {}
        invocation.check_context()
        owner = invocation.chosen(self.h, self._namespace) or ()
        unique, of_thread = invocation.unique(owner)
        opened = steps.open_trial(
            self.h,
            cast(Json, task),
            namespace=owner,
            unique=unique,
            seed=invocation.seed(self.h),
            started=time.time(),
        )
        if of_thread:
            opened = steps.nth_of_thread(opened, state, unique)
        opened["named"] = not of_thread
        if self.h.outlives:
            opened["user"] = invocation.user(self.h)
        return opened, cast(Json, opened)

    def _owned(self, state: TrialState) -> TrialState:
        return invocation.owned(self.h, state, self._namespace)

    def recall(self, state: TrialState) -> Json:
        state, update = self._opened(state)
        with self._logged(_Reached(state)):
            recall = tracing.Recall(state)
            if recall.is_heard:
                return {**update, **run_sync(recall.around(calls.arecall(self.h, state)))}
            return {**update, **calls.recall(self.h, state)}

    async def arecall(self, state: TrialState) -> Json:
        state, update = self._opened(state)
        async with self._alogged(_Reached(state)):
            return {**update, **await tracing.Recall(state).around(calls.arecall(self.h, state))}

    # -- episode ------------------------------------------------------------------------------------------------------

    def episode(self, state: TrialState) -> Json:
        run = self._run(state)
        with self._logged(_Reached(state, run)) as reached:
            update, reached.state = self._ended(state, self.inner.play(run))
            if steps.is_over(self.h, reached.state) and not steps.teaches(self.h, reached.state):
                update = self._over(update, reached)
            return update

    def _over(self, update: Json, reached: _Reached) -> Json:
        """The end of a trial: what it leaves to other tasks', what it says of what it saw, its line in the log."""
        if lessons := steps.lessons(self.h, reached.state):
            calls.remember(self.h, self._owned(reached.state), lessons)
            update, reached.state = self._taught(update, reached.state, lessons)
        calls.settle(self.h, self._owned(reached.state))
        if (recorder := self._recording()) is not None:
            recorder.record(self.h, reached.state)
        return update

    async def aepisode(self, state: TrialState) -> Json:
        run = self._run(state)
        async with self._alogged(_Reached(state, run)) as reached:
            update, reached.state = self._ended(state, await self.inner.aplay(run))
            if steps.is_over(self.h, reached.state) and not steps.teaches(self.h, reached.state):
                update = await self._aover(update, reached)
            return update

    async def _aover(self, update: Json, reached: _Reached) -> Json:
        """`_over`, async."""
        if lessons := steps.lessons(self.h, reached.state):
            await calls.aremember(self.h, self._owned(reached.state), lessons)
            update, reached.state = self._taught(update, reached.state, lessons)
        await calls.asettle(self.h, self._owned(reached.state))
        if (recorder := self._recording()) is not None:
            await recorder.arecord(self.h, reached.state)
        return update

    def _run(self, state: TrialState) -> EpisodeRun:
        return EpisodeRun(steps.begin(state), get_runtime().stream_writer, self._recording() is not None)

    def _ended(self, state: TrialState, played: EpisodeState) -> tuple[Json, TrialState]:
        update = steps.ended(self.h, state, played)
        _emit(events.episode_event(len(state["episodes"]), update["episodes"][-1]))
        update = steps.with_calls_apart(state, update)
        after = cast(TrialState, {**state, **update})
        if not self.h.remembers and not steps.is_over(self.h, after):
            nothing = steps.recalled(self.h, after, steps.NOTHING)
            update, after = {**update, **nothing}, cast(TrialState, {**after, **nothing})
        return update, after

    @staticmethod
    def _taught(update: Json, after: TrialState, lessons: Sequence[MemoryRecord]) -> tuple[Json, TrialState]:
        """The update, and the state after it, with the lessons' write noted."""
        written = steps.taught(after, lessons)
        return {**update, **written}, cast(TrialState, {**after, **written})

    # -- reflect and remember -----------------------------------------------------------------------------------------

    def reflect(self, state: TrialState) -> Json:
        if (text := steps.written(self.h, state)) is not None:
            return self._told(state, {"reflection": text})
        with self._logged(_Reached(state)):
            return self._reflected(state, run_sync(self._asked(state)))

    async def areflect(self, state: TrialState) -> Json:
        if (text := steps.written(self.h, state)) is not None:
            return self._told(state, {"reflection": text})
        async with self._alogged(_Reached(state)):
            return self._reflected(state, await self._asked(state))

    def _asked(self, state: TrialState) -> Coroutine[Any, Any, steps.Reply]:
        """The call for a reflection; what traces it is found where this is called, in the node."""
        around = tracing.around(self.h.policy, lambda: tracing.end_of(state))
        return calls.call(self.h.policy, steps.ask_reflection(self.h, state), around)

    def _reflected(self, state: TrialState, reply: steps.Reply) -> Json:
        return self._told(state, steps.reflected(self.h, state, reply, self._recording() is not None))

    @staticmethod
    def _told(state: TrialState, update: Json) -> Json:
        _emit(events.reflection_event(len(state["episodes"]) - 1, update["reflection"]))
        return update

    def review(self, state: TrialState) -> Json:
        return {"reflection": reviewed({"reflection": state["reflection"], "episode": len(state["episodes"]) - 1})}

    async def areview(self, state: TrialState) -> Json:
        return self.review(state)

    def remember(self, state: TrialState) -> Json:
        steps.written(self.h, state)
        if steps.is_over(self.h, state):
            update, after = self._concluded(state)
            with self._logged(_Reached(after)) as reached:
                return self._over(update, reached)
        records = steps.memories(self.h, state)
        owned = self._owned(state)
        with self._logged(_Reached(state)):
            calls.remember(self.h, owned, records)
        return steps.remembered(self.h, state, records)

    async def aremember(self, state: TrialState) -> Json:
        steps.written(self.h, state)
        if steps.is_over(self.h, state):
            update, after = self._concluded(state)
            async with self._alogged(_Reached(after)) as reached:
                return await self._aover(update, reached)
        records = steps.memories(self.h, state)
        owned = self._owned(state)
        async with self._alogged(_Reached(state)):
            await calls.aremember(self.h, owned, records)
        return steps.remembered(self.h, state, records)

    def _concluded(self, state: TrialState) -> tuple[Json, TrialState]:
        """The update of a trial that was won and reflected on, and the state after it."""
        update = steps.concluded(state)
        return update, cast(TrialState, {**self._owned(state), **update})

    # -- the log ------------------------------------------------------------------------------------------------------

    def _recording(self) -> TrialRecorder | None:
        return invocation.recorder(self._recorder)

    @contextmanager
    def _logged(self, reached: _Reached) -> Iterator[_Reached]:
        """Log what had been played of the trial if an error ends it; a resume then logs the whole."""
        try:
            with kept():
                yield reached
        except Exception as error:
            if (recorder := self._recording()) is not None and _ends_the_trial(error):
                recorder.record(self.h, reached.state, *reached.cut_short(error))
                error.add_note(LOGGED)
            raise

    @asynccontextmanager
    async def _alogged(self, reached: _Reached) -> AsyncIterator[_Reached]:
        """`_logged`, async."""
        try:
            with kept():
                yield reached
        except Exception as error:
            if (recorder := self._recording()) is not None and _ends_the_trial(error):
                await recorder.arecord(self.h, reached.state, *reached.cut_short(error))
                error.add_note(LOGGED)
            raise


@dataclass
class _Reached:
    """How far a trial has come: its state, and the episode that is being played if there is one."""

    state: TrialState
    run: EpisodeRun | None = None

    def cut_short(self, error: Exception) -> tuple[Json, EpisodeState | None]:
        """What the log says of the error that ends it here, and the episode that it cuts short."""
        playing = self.run is not None and self.run.setup["episode"] == len(self.state["episodes"])
        episode = self.run.reached if self.run is not None and playing else None
        return error_record(error, self.state, episode), episode


def _ends_the_trial(error: Exception) -> bool:
    """Not so an interrupt, which LangGraph makes an exception of, nor a log that takes nothing."""
    return not isinstance(error, GraphBubbleUp | RunLogError)
