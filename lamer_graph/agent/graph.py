"""The trial as a LangGraph state machine: `recall -> episode -> (END | reflect) -> remember -> recall`.

What must stay true: the nodes only fetch and store; every decision is a pure step of `trial.steps`, which the bulk
driver runs too. State is JSON-plain, so a checkpointer can save it anywhere and a killed run resumes to the same
result; handles (policy, environment, memory, log) live in the closure or in the run's context.

`episode` runs an inner graph `act -> act ..` (`episode`) through its own call with its own recursion limit:
LangChain injects a limit of 25 through `.batch`, `|` and tools, which a long episode would break.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.runnables import Runnable
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.store.base import BaseStore
from langgraph.types import Checkpointer
from typing_extensions import TypedDict

from lamer_envs import make
from lamer_envs.base import Env
from lamer_graph.agent import invocation
from lamer_graph.agent.choosing import as_policy, kept_in, taught_strategy, taught_style
from lamer_graph.agent.invocation import LamerContext
from lamer_graph.agent.node import Node
from lamer_graph.agent.nodes import LOGGED, Nodes
from lamer_graph.agent.person import Review, check_review
from lamer_graph.agent.stops import Agent
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Policy
from lamer_graph.runlog.recording import TrialRecorder
from lamer_graph.trial import steps
from lamer_graph.trial.driver import TRIAL_ERRORS
from lamer_graph.trial.harness import Harness, Stop, make_harness
from lamer_graph.trial.prompt_texts import STANDARD, PromptTexts
from lamer_graph.trial.prompts import ActionLists, PromptStyle
from lamer_graph.trial.states import EpisodeRecord, Json, TrialState
from lamer_graph.trial.strategies import Strategy, Thoughts, check_style, memory_of
from lamer_graph.trial.whose import as_namespace
from lamer_graph.types import Sampling
from lamer_memory import MemoryConfig, StoreMemory


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
    memory: str | MemoryConfig | None = None,
    *,
    max_episodes: int = 3,
    max_turns: int | None = None,
    prompt_style: PromptStyle | None = None,
    strategy: Strategy | None = None,
    thoughts: Thoughts | None = None,
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
    MemoryConfig; by itself "reflection", or what the strategy implies. `max_turns` bounds an episode (the environment's
    default if None). `prompt_style` is by itself the one that the policy's own card names, else "standard".

    `strategy` is by itself the card's, else "lamer": act, reflect, remember all of it. "zero_shot" acts, and remembers
    nothing; "react" asks for a short reasoning before each action; "reflexion" shows the last three reflections; "plan"
    asks for a plan in each attempt's first answer, which later turns show and the next attempt revises (see
    `trial.strategies`). `thoughts="shown"` tells turns with what was said before their actions, thoughts of thinking
    models included; by itself ("hidden", unless the card says otherwise) they are logged and in no later prompt.
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
    taught = taught_strategy(policy, prompt_style)
    strategy, thoughts = strategy or taught[0], thoughts or taught[1]
    check_style(prompt_style, strategy, thoughts)
    harness = make_harness(
        policy,
        make(env) if isinstance(env, str) else env,
        memory if store is None else kept_in(store, memory or memory_of(strategy, None).contents),
        max_episodes=max_episodes,
        max_turns=max_turns,
        prompt_style=prompt_style,
        strategy=strategy,
        thoughts=thoughts,
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
    nodes = Nodes(harness, recorder, None if namespace is None else as_namespace(namespace, "namespace"), tell_state)
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
        if harness.memory.lessons == "all":
            graph.add_conditional_edges(
                "remember", lambda state: END if steps.is_over(harness, state) else "recall", [END, "recall"]
            )
        else:
            graph.add_edge("remember", "recall")

    def route(state: TrialState) -> str:
        return END if steps.is_over(harness, state) and not steps.teaches(harness, state) else after

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
        nodes: Nodes = cast(Any, self.nodes["episode"].bound).sync.__self__
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
