"""The trial as a LangGraph state machine: `recall -> episode -> (END | reflect) -> remember -> recall`.

What must stay true: the nodes only fetch and store; every decision is a pure step of `trial.steps`, which the bulk
driver runs too. State is JSON-plain, so a checkpointer can save it anywhere and a killed run resumes to the same
result; handles (policy, environment, memory, log) live in the closure or in the run's context.

`episode` runs an inner graph `act -> act ..` (`episode`) through its own call with its own recursion limit:
LangChain injects a limit of 25 through `.batch`, `|` and tools, which a long episode would break.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.runnables import Runnable
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import get_runtime
from langgraph.store.base import BaseStore
from langgraph.types import Checkpointer
from typing_extensions import TypedDict

from lamer_envs import make
from lamer_envs.base import Env
from lamer_graph.agent import invocation, tracing
from lamer_graph.agent.choosing import as_policy, kept_in, taught_style
from lamer_graph.agent.episode import EpisodeGraph, EpisodeRun
from lamer_graph.agent.invocation import LamerContext
from lamer_graph.agent.node import Node
from lamer_graph.agent.person import Review, check_review, reviewed
from lamer_graph.agent.stops import Agent, kept
from lamer_graph.errors import ConfigError, RunLogError
from lamer_graph.policies.base import Policy, run_sync
from lamer_graph.runlog.recording import TrialRecorder
from lamer_graph.trial import calls, events, steps
from lamer_graph.trial.driver import TRIAL_ERRORS, error_record
from lamer_graph.trial.harness import Harness, Stop, make_harness
from lamer_graph.trial.prompt_texts import STANDARD, PromptTexts
from lamer_graph.trial.prompts import ActionLists, PromptStyle, Strategy, check_strategy
from lamer_graph.trial.states import EpisodeRecord, EpisodeState, Json, TrialState
from lamer_graph.trial.whose import as_namespace
from lamer_graph.types import Sampling
from lamer_memory import MemoryConfig, MemoryRecord, StoreMemory
from lamer_memory.base import Namespace

LOGGED = "what had been played of the trial is in the run log, with this error"
"""Note on an exception that ended a trial with a recorder."""


class LamerTask(TypedDict, total=False):
    """One task: a `seed`, or an explicit `instance`; `trial` (0 if left out) tells repeated trials of it apart."""

    seed: int
    instance: dict[str, Any]
    trial: int


class LamerInput(TypedDict):
    """`{"task": {"seed": 7}}` or `{"task": {"instance": {...}}}`, optionally with `"trial": index` in the task."""

    task: LamerTask


class LamerOutput(TypedDict):
    """What a trial came to."""

    success: bool
    episodes: list[EpisodeRecord]
    reflections: list[str]


def create_lamer_agent(
    model: Runnable[Any, Any] | Policy,
    env: Env | str,
    memory: str | MemoryConfig = "reflection",
    *,
    max_episodes: int = 3,
    max_turns: int | None = None,
    prompt_style: PromptStyle | None = None,
    strategy: Strategy = "lamer",
    actions: ActionLists = "auto",
    texts: PromptTexts = STANDARD,
    sampling: Sampling | None = None,
    stop: Stop = "auto",
    checkpointer: Checkpointer = None,
    store: BaseStore | None = None,
    interrupt_before: Sequence[str] | None = None,
    review: Review | None = None,
    recorder: TrialRecorder | None = None,
    namespace: str | Sequence[str] | None = None,
    name: str = "lamer",
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """An agent that plays a task for up to `max_episodes` episodes and reflects after each failed one but the last.

    `model` is a LangChain chat model, as it is or inside other runnables (`with_retry`, `bind`, `with_fallbacks`), or a
    Policy; `env` an environment or its spec; `memory` one of "none", "trajectory", "reflection", "both", or a
    MemoryConfig. `max_turns` bounds an episode (the environment's default if None). `prompt_style` is by itself the one
    that the policy's own card names, else "standard". `strategy="react"` asks for a short reasoning before each action.
    `actions` says whether standard prompts list what can be done now ("auto": where the environment knows it and tells
    it nowhere else), `texts` replaces what they say. `sampling` is how answers are drawn, its `seed` the run's (without
    one every trial draws its own); a chat model keeps its own settings where there is none, and what it cannot take of
    one is refused. `stop="auto"` ends an answer at the closing tag that standard prompts ask for, where the policy can
    (a LangChain chat model ends its answers by itself).

    `review="reflection"` stops with an `interrupt()` after each reflection: `__interrupt__` carries {"reflection",
    "episode"}, and what `invoke(Command(resume=text), config)` says is remembered, nothing where it is blank.
    `interrupt_before=["reflect"]` or `["remember"]` lets a person write or edit the reflection: `update_state(config,
    {"reflection": text})`, then `invoke(None, config)`. With a blank text no reflection on this episode is remembered;
    with None the policy writes it (before "reflect"), or none is remembered (before "remember"). As a node of another
    graph the trial's config is `get_state(config, subgraphs=True).tasks[0].state.config`. To stop takes a checkpointer,
    the agent's or that graph's; so does an `interrupt()` of the policy.

    `store` is a LangGraph store that keeps what is remembered from trial to trial: a memory that is given by its
    contents alone is then of scope "tasks", under which records of other tasks are recalled (the most similar by the
    store's own `index`; the newest, with a warning, where it has none), never those of another trial of the same task.
    `namespace` says whose trial and memory it is where neither the context nor the invocation's
    `user_id` does; `recorder` logs every trial with its exact tokens unless the context names another (see
    LamerContext).

    Returns a compiled graph: `invoke({"task": {"seed": 7}})` gives `{"success", "episodes", "reflections"}`. The
    custom stream has an event per turn, per reflection and per episode, which tell nothing that the policy cannot
    see; checkpoints hold the environment's whole state. Raises ConfigError, MemoryConfigError or
    lamer_envs errors for what cannot be played; policy errors come through the invocation.
    """
    policy = as_policy(model, sampling)
    prompt_style = taught_style(policy) if prompt_style is None else prompt_style
    check_strategy(prompt_style, strategy)
    harness = make_harness(
        policy,
        make(env) if isinstance(env, str) else env,
        memory if store is None else kept_in(store, memory),
        max_episodes=max_episodes,
        max_turns=max_turns,
        prompt_style=prompt_style,
        strategy=strategy,
        actions=actions,
        texts=texts,
        sampling=sampling,
        stop=stop,
    )
    if store is not None and harness.transient:
        raise ConfigError(
            "store= outlives its trials, memory of scope 'trial' does not: use MemoryConfig(scope='tasks')"
        )
    return compile_agent(
        harness,
        checkpointer=checkpointer,
        interrupt_before=interrupt_before,
        review=review,
        recorder=recorder,
        namespace=namespace,
        name=name,
    )


def compile_agent(
    harness: Harness,
    *,
    checkpointer: Checkpointer = None,
    interrupt_before: Sequence[str] | None = None,
    review: Review | None = None,
    recorder: TrialRecorder | None = None,
    namespace: str | Sequence[str] | None = None,
    name: str = "lamer",
    tell_state: bool = False,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The graph of a harness; `create_lamer_agent` without the choosing. `tell_state` puts the environment's state,
    with what the policy cannot see, into the events of turns. Raises ConfigError."""
    invocation.check_recorder("recorder", recorder)
    check_review(review, harness)
    nodes = _Nodes(harness, recorder, None if namespace is None else as_namespace(namespace, "namespace"), tell_state)
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(
        TrialState, context_schema=LamerContext, input_schema=LamerInput, output_schema=LamerOutput
    )
    # Without memory there is nothing to recall between two episodes, and a node costs as much as a turn.
    after = "reflect" if harness.reflects else "remember" if harness.remembers else "episode"
    graph.add_node("recall", Node("recall", nodes.recall, nodes.arecall))
    graph.add_node("episode", Node("episode", nodes.episode, nodes.aepisode))
    graph.add_edge(START, "recall")
    graph.add_edge("recall", "episode")
    if harness.reflects:
        graph.add_node("reflect", Node("reflect", nodes.reflect, nodes.areflect))
        graph.add_edge("reflect", "review" if review else "remember")
    if review:
        graph.add_node("review", Node("review", nodes.review, nodes.areview))
        graph.add_edge("review", "remember")
    if harness.remembers:
        graph.add_node("remember", Node("remember", nodes.remember, nodes.aremember))
        graph.add_edge("remember", "recall")

    def route(state: TrialState) -> str:
        return END if steps.is_over(harness, state) else after

    graph.add_conditional_edges("episode", route, [END, after])
    unknown = set(interrupt_before or ()) - set(graph.nodes)
    if unknown:
        raise ConfigError(
            f"interrupt_before names {', '.join(sorted(unknown))}; with memory '{harness.memory.contents}' the nodes "
            f"are {', '.join(graph.nodes)}"
        )
    compiled = graph.compile(
        checkpointer=checkpointer,
        store=harness.backend.store if isinstance(harness.backend, StoreMemory) else None,
        interrupt_before=list(interrupt_before) if interrupt_before else None,
        name=name,
    )
    return LamerAgent(**vars(compiled))  # as `Pregel.copy` makes another of its kind


class LamerAgent(Agent):
    """The compiled graph of `create_lamer_agent`."""

    @property
    def inner(self) -> Mapping[str, CompiledStateGraph[Any, Any, Any, Any]]:
        nodes: _Nodes = cast(Any, self.nodes["episode"].bound).sync.__self__
        return {"episode": nodes.inner.graph}


async def play_in_graph(
    agent: CompiledStateGraph[Any, Any, Any, Any],
    task: Json,
    recorder: TrialRecorder,
    *,
    namespace: tuple[str, ...],
) -> None:
    """One trial through the graph, for collection: like `driver.play_trial`, and logged by the graph itself.

    An error ends the trial and is logged with what had been played. Raises what the log and a malformed task raise.
    """
    try:
        context = {"recorder": recorder, "unique": invocation.BY_INDEX, "namespace": namespace}
        await agent.ainvoke({"task": task}, context=context)
    except TRIAL_ERRORS as error:
        if LOGGED not in getattr(error, "__notes__", ()):
            raise


def episode_graph(agent: CompiledStateGraph[Any, Any, Any, Any]) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The inner graph of an agent made by `create_lamer_agent`, to draw or inspect."""
    if not isinstance(agent, LamerAgent):
        raise ConfigError("this graph was not made by create_lamer_agent")
    return agent.inner["episode"]


def _emit(event: Json) -> None:
    get_runtime().stream_writer(event)


class _Nodes:
    """The node functions of one agent: fetch, ask `trial` what it means, return the update."""

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
            if lessons := steps.lessons(self.h, reached.state):
                calls.remember(self.h, self._owned(reached.state), lessons)
                update, reached.state = self._taught(update, reached.state, lessons)
            if steps.is_over(self.h, reached.state):
                calls.settle(self.h, self._owned(reached.state))
                if (recorder := self._recording()) is not None:
                    recorder.record(self.h, reached.state)
            return update

    async def aepisode(self, state: TrialState) -> Json:
        run = self._run(state)
        async with self._alogged(_Reached(state, run)) as reached:
            update, reached.state = self._ended(state, await self.inner.aplay(run))
            if lessons := steps.lessons(self.h, reached.state):
                await calls.aremember(self.h, self._owned(reached.state), lessons)
                update, reached.state = self._taught(update, reached.state, lessons)
            if steps.is_over(self.h, reached.state):
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
            nothing = steps.recalled(after, steps.NOTHING)
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
        records = steps.memories(self.h, state)
        owned = self._owned(state)
        with self._logged(_Reached(state)):
            calls.remember(self.h, owned, records)
        return steps.remembered(self.h, state, records)

    async def aremember(self, state: TrialState) -> Json:
        steps.written(self.h, state)
        records = steps.memories(self.h, state)
        owned = self._owned(state)
        async with self._alogged(_Reached(state)):
            await calls.aremember(self.h, owned, records)
        return steps.remembered(self.h, state, records)

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
