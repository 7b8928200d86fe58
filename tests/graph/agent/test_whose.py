"""Whose memory it is: one user's words never stand in another's prompt, whatever their ids and wherever records lie."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from pydantic import BaseModel
from typing_extensions import TypedDict

from lamer_envs import make
from lamer_graph import MemoryConfig, create_lamer_agent
from lamer_graph.errors import ConfigError
from lamer_graph.trial.driver import play_trial
from lamer_graph.trial.harness import make_harness
from lamer_graph.trial.whose import as_namespace
from lamer_graph.types import Message, Sampling
from lamer_memory import ChromaMemory, InContextMemory, MemoryBackend, StoreMemory
from lamer_memory.recall import make_record, own_records, similar_records, trial_namespace
from scripted import ScriptedPolicy, is_reflection, random_player

ENV = make("minesweeper", size=4, mines=3)
LOSING = (1, 2, 3, 4, 5, 6, 7, 8)
"""Seeds, most of which random_player loses."""


class Diary:
    """Plays at random and reflects with the words of whoever is named."""

    def __init__(self) -> None:
        self.name = ""
        self.policy = ScriptedPolicy(self.answer)

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> str:
        if is_reflection(messages):
            return f"<remark>the secret of {self.name}</remark>"
        return random_player(messages, sampling)

    def plays(self, name: str, play: Callable[[], Any]) -> str:
        """All that the policy was asked while `name` played."""
        self.name = name
        self.policy.seen.clear()
        play()
        return "\n".join(message["content"] for messages in self.policy.seen for message in messages)


def in_context(folder: Path) -> MemoryBackend:
    return InContextMemory()


def chroma(folder: Path) -> MemoryBackend:
    return ChromaMemory(folder / "chroma")


def store(folder: Path) -> MemoryBackend:
    return StoreMemory(InMemoryStore())


@pytest.fixture(params=[in_context, chroma, store])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryBackend]:
    with closing(request.param(tmp_path)) as opened:
        yield opened


def user(name: Any) -> Any:
    return {"configurable": {"user_id": name}}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_second_users_prompts_hold_nothing_of_the_first_but_their_own(
    backend: MemoryBackend, asynchronous: bool
) -> None:
    diary = Diary()
    agent = create_lamer_agent(diary.policy, ENV, MemoryConfig("reflection", backend=backend, scope="tasks"))

    def play(name: str, seeds: Sequence[int]) -> str:
        def all_of() -> None:
            for seed in seeds:
                task = {"task": {"seed": seed}}
                if asynchronous:
                    asyncio.run(agent.ainvoke(task, user(name)))
                else:
                    agent.invoke(task, user(name))

        return diary.plays(name, all_of)

    play("alice", LOSING[:3])
    assert "secret of alice" not in play("bob", LOSING[3:6])
    assert "secret of bob" in play("bob", LOSING[6:])
    again = play("alice", LOSING[6:])
    assert "secret of alice" in again
    assert "secret of bob" not in again


@pytest.mark.parametrize("scope", ["tasks", "trial"])
def test_what_outlives_a_trial_is_refused_before_any_call_where_nobody_says_whose_it_is(
    tmp_path: Path, scope: Any
) -> None:
    with closing(InContextMemory() if scope == "tasks" else ChromaMemory(tmp_path)) as backend:
        policy = ScriptedPolicy(random_player)
        memory = MemoryConfig("reflection", backend=backend, scope=scope)
        agent = create_lamer_agent(policy, ENV, memory)
        for play in (
            lambda: agent.invoke({"task": {"seed": 1}}),
            lambda: asyncio.run(agent.ainvoke({"task": {"seed": 1}})),
            lambda: asyncio.run(play_trial(make_harness(policy, ENV, memory), {"seed": 1})),
        ):
            with pytest.raises(ConfigError, match="nobody has said whose it is") as caught:
                play()
            assert "\n" not in str(caught.value)
        assert policy.seen == []
        assert create_lamer_agent(policy, ENV, memory, namespace="acme").invoke({"task": {"seed": 1}})
        assert policy.seen


def test_what_ends_with_its_trial_needs_no_namespace() -> None:
    for memory in ("none", "reflection", MemoryConfig("both", backend=StoreMemory(InMemoryStore()))):
        assert create_lamer_agent(ScriptedPolicy(random_player), ENV, memory).invoke({"task": {"seed": 1}})


def spaces(agent_options: Any = None, **invocation: Any) -> list[tuple[str, ...]]:
    """Where the trial of one invocation wrote."""
    backend = InContextMemory()
    memory = MemoryConfig("trajectory", backend=backend, scope="tasks")
    agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, memory, **(agent_options or {}))
    agent.invoke({"task": {"seed": 1}}, **invocation)
    return backend.namespaces()


def test_a_text_is_one_part_of_a_namespace() -> None:
    assert spaces(context={"namespace": "acme"}) == [("acme",)]
    assert spaces(context={"namespace": ["acme", "bob"]}) == [("acme", "bob")]
    assert spaces({"namespace": "acme"}) == [("acme",)]
    assert spaces(config=user("a/b")) == [("a/b",)]


def test_the_contexts_namespace_goes_before_the_users_and_the_users_before_the_agents() -> None:
    own = {"namespace": "agent"}
    assert spaces(own) == [("agent",)]
    assert spaces(own, config=user("bob")) == [("bob",)]
    assert spaces(own, config=user("bob"), context={"namespace": "acme"}) == [("acme",)]
    assert spaces(own, context={"user_id": "bob"}) == [("bob",)]


@pytest.mark.parametrize("wrong", ["", " ", (), [], ("a", ""), ("a", 1), 7, True, b"a", {"a": 1}, ("a", "x/7#0@t")])
def test_a_namespace_that_says_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="namespace"):
        spaces(context={"namespace": wrong})
    with pytest.raises(ConfigError, match="namespace"):
        spaces({"namespace": wrong})


@pytest.mark.parametrize("wrong", ["", 7, 1.0, True, ("a", "b"), ["a"], b"a"])
def test_a_user_id_is_a_text_so_that_no_two_users_become_one(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="user_id"):
        spaces(config=user(wrong))


def test_a_user_id_of_another_kind_is_no_matter_where_nothing_outlives_the_trial() -> None:
    assert create_lamer_agent(ScriptedPolicy(random_player), ENV).invoke({"task": {"seed": 1}}, user(7))


# -- an application's own context -------------------------------------------------------------------------------------


@dataclass
class AppContext:
    user_id: str
    seed: str = "not ours"


class AppModel(BaseModel):
    user_id: str
    namespace: int = 5


class AppDict(TypedDict, total=False):
    user_id: str
    tenant: int


class AppState(TypedDict, total=False):
    task: dict[str, Any]
    success: bool


@pytest.mark.parametrize(
    ("schema", "context"),
    [
        (AppContext, AppContext("bob")),
        (AppModel, AppModel(user_id="bob")),
        (AppDict, {"user_id": "bob", "tenant": 3}),
        (None, None),
    ],
)
def test_an_applications_own_context_breaks_nothing_and_its_user_is_the_user(schema: Any, context: Any) -> None:
    def app(memory: Any, **options: Any) -> Any:
        agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, memory, **options)
        graph = StateGraph(AppState, context_schema=schema)
        graph.add_node("play", agent)
        graph.add_edge(START, "play")
        return graph.compile()

    for run in (lambda g: g.invoke, lambda g: lambda *a, **k: asyncio.run(g.ainvoke(*a, **k))):
        assert "success" in run(app("reflection"))({"task": {"seed": 1}}, context=context)
        backend = InContextMemory()
        kept = app(MemoryConfig("trajectory", backend=backend, scope="tasks"), namespace="agent")
        run(kept)({"task": {"seed": 1}}, context=context)
        assert backend.namespaces() == [("agent",) if context is None else ("bob",)]


# -- a trial that goes on ---------------------------------------------------------------------------------------------


def test_a_trial_that_goes_on_stays_in_its_namespace_and_is_refused_under_another() -> None:
    backend = InContextMemory()
    memory = MemoryConfig("reflection", backend=backend, scope="tasks")
    agent = create_lamer_agent(
        ScriptedPolicy(random_player), ENV, memory, checkpointer=InMemorySaver(), interrupt_before=["reflect"]
    )
    thread: Any = {"configurable": {"thread_id": "t"}}
    agent.invoke({"task": {"seed": 1}}, thread, context={"namespace": "alice"})
    with pytest.raises(ConfigError, match=r"belongs to namespace \('alice',\), not to 'bob'"):
        agent.invoke(None, thread, context={"namespace": "bob"})
    agent.invoke(None, thread)
    agent.invoke(None, thread, context={"namespace": ("alice",)})
    assert backend.namespaces() == [("alice",)]


def test_a_checkpoint_of_before_trials_kept_their_namespace_goes_on_in_the_one_that_is_chosen_now() -> None:
    backend = InContextMemory()
    memory = MemoryConfig("trajectory", backend=backend, scope="tasks")
    agent = create_lamer_agent(
        ScriptedPolicy(random_player), ENV, memory, checkpointer=InMemorySaver(), interrupt_before=["remember"]
    )
    thread: Any = {"configurable": {"thread_id": "t"}}
    agent.invoke({"task": {"seed": 1}}, thread, context={"namespace": "alice"})
    agent.update_state(thread, {"namespace": None})
    with pytest.raises(ConfigError, match="nobody has said whose it is"):
        agent.invoke(None, thread)
    agent.invoke(None, thread, context={"namespace": "bob"})
    assert backend.namespaces() == [("bob",)]


async def test_two_users_of_one_thread_id_at_once_do_not_meet_in_memory_that_ends_with_the_trial() -> None:
    backend = InContextMemory()

    def policy_of(name: str) -> ScriptedPolicy:
        diary = Diary()
        diary.name, diary.policy.delay = name, 0.001
        return diary.policy

    policies = {name: policy_of(name) for name in ("alice", "bob")}
    memory = MemoryConfig("reflection", backend=backend)
    await asyncio.gather(
        *(
            create_lamer_agent(policy, ENV, memory).ainvoke({"task": {"seed": 1}}, {"configurable": {"thread_id": "1"}})
            for policy in policies.values()
        )
    )
    for name, policy in policies.items():
        asked = "\n".join(message["content"] for messages in policy.seen for message in messages)
        assert f"secret of {name}" in asked
        assert all(f"secret of {other}" not in asked for other in policies if other != name)


# -- every pair of ids ------------------------------------------------------------------------------------------------

PART = st.one_of(
    st.text(max_size=4),
    st.text(st.sampled_from("a/1#@\0\udc80 '\""), max_size=6),
    st.sampled_from(["a", "b", "a/b", "a,b", "1", "('a', 'b')", "minesweeper:4x4-3/7#0@t", "lamer", "="]),
)
CHOICE = st.one_of(PART, st.lists(PART, max_size=3), st.lists(PART, max_size=3).map(tuple), st.integers(0, 1))
RECORD = make_record("minesweeper:4x4-3/7#0@t", "minesweeper:4x4-3/7", 0, "reflection", "a secret", False)
DATABASE = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
SQLITE = SqliteStore(DATABASE)
SQLITE.setup()
BACKENDS = [InContextMemory(), StoreMemory(InMemoryStore()), StoreMemory(SQLITE)]


def accepted(choice: Any) -> tuple[str, ...] | None:
    try:
        return as_namespace(choice, "namespace")
    except ConfigError:
        return None


@settings(deadline=None, max_examples=300)
@given(CHOICE, CHOICE, st.sampled_from(["trial", "tasks"]), st.sampled_from(["trial", "tasks"]))
def test_no_id_reaches_what_another_has_written(one: Any, other: Any, writes: Any, reads: Any) -> None:
    writer, reader = accepted(one), accepted(other)
    if writer is None or reader is None or writer == reader:
        return  # refused, or one and the same
    trial = str(RECORD.metadata["trial_id"])
    place = trial_namespace(MemoryConfig("reflection", scope=writes), writer, trial)
    config = MemoryConfig("reflection", scope=reads)
    for backend in BACKENDS:
        backend.put(place, [RECORD])
        try:
            own = own_records(MemoryConfig("reflection", scope=writes), backend, place, trial, 5)
            assert [record.text for record in own] == ["a secret"]
            for name in (trial, "minesweeper:4x4-3/8#0@t"):
                found = trial_namespace(config, reader, name)
                assert own_records(config, backend, found, name, 5) == []
                assert similar_records(config, backend, found, name, "a board") == []
        finally:
            backend.delete(place)
