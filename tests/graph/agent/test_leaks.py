"""Memory that ends with its trial leaves nothing in the process, however the trial ends, or if it never does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from lamer_envs import make
from lamer_graph import MemoryConfig, RunLog, TrialRecorder, create_lamer_agent
from lamer_graph.agent import compile_agent, play_in_graph
from lamer_graph.errors import PolicyError
from lamer_graph.runlog import read_trials
from lamer_graph.trial.driver import play_trial
from lamer_graph.trial.harness import make_harness
from lamer_graph.types import Message, Sampling
from lamer_memory import InContextMemory, StoreMemory
from scripted import ScriptedPolicy, is_reflection, random_player

ENV = make("minesweeper", size=4, mines=3)
LOSING = 1


def fails_in_the_last_episode(messages: Sequence[Message], sampling: Sampling) -> str:
    if "Attempt 3 of 3" in messages[-1]["content"] and not is_reflection(messages):
        raise PolicyError("the server is gone")
    return random_player(messages, sampling)


@pytest.fixture(params=[InContextMemory, lambda: StoreMemory(InMemoryStore())])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param()


def memory_of(backend: Any) -> MemoryConfig:
    return MemoryConfig("both", backend=backend)


def test_failing_trials_of_the_agent_leave_nothing_sync_and_async(backend: Any) -> None:
    agent = create_lamer_agent(ScriptedPolicy(fails_in_the_last_episode), ENV, memory_of(backend))
    failed = 0
    for seed in range(12):
        for play in (agent.invoke, lambda task: asyncio.run(agent.ainvoke(task))):
            try:
                play({"task": {"seed": seed}})
            except PolicyError:
                failed += 1
    assert failed > 10
    assert backend.namespaces() == []


async def test_failing_trials_of_a_collection_leave_nothing_in_either_driver(backend: Any, tmp_path: Path) -> None:
    h = make_harness(ScriptedPolicy(fails_in_the_last_episode), ENV, memory_of(backend))
    played = [await play_trial(h, {"seed": seed}) for seed in range(12)]
    with RunLog.create(tmp_path, {}) as log:
        agent, recorder = compile_agent(h), TrialRecorder(log)
        for seed in range(12):
            await play_in_graph(agent, {"seed": seed}, recorder, namespace=("run",))
    errors = [one.error for one in played] + [trial["error"] for trial in read_trials(tmp_path)]
    assert len(errors) == 24
    assert sum(error is not None for error in errors) > 10
    assert backend.namespaces() == []


async def test_a_cancelled_trial_leaves_nothing(backend: Any) -> None:
    policy = ScriptedPolicy(random_player, delay=0.002)
    agent = create_lamer_agent(policy, ENV, memory_of(backend))
    h = make_harness(policy, ENV, memory_of(backend))
    for milliseconds in range(0, 60, 4):
        for trial in (agent.ainvoke({"task": {"seed": LOSING}}), play_trial(h, {"seed": LOSING})):
            task: asyncio.Task[Any] = asyncio.ensure_future(trial)
            await asyncio.sleep(milliseconds / 1000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.1)  # what was being read at that moment is put away by its own task
    assert backend.namespaces() == []


@pytest.mark.parametrize("node", ["reflect", "remember"])
def test_a_trial_that_waits_for_a_person_who_never_comes_leaves_nothing(backend: Any, node: str) -> None:
    agent = create_lamer_agent(
        ScriptedPolicy(random_player),
        ENV,
        memory_of(backend),
        checkpointer=InMemorySaver(),
        interrupt_before=[node],
    )
    for number, resumes in enumerate([0, 1, 1]):
        thread: Any = {"configurable": {"thread_id": str(number)}}
        agent.invoke({"task": {"seed": LOSING}}, thread)
        for _ in range(resumes):
            agent.invoke(None, thread)
        assert agent.get_state(thread).next == (node,)
    assert backend.namespaces() == []


def test_a_store_that_fails_leaves_its_error_and_nothing_else() -> None:
    class Failing(InContextMemory):
        def search(self, *args: Any, **kwargs: Any) -> Any:
            from lamer_memory import MemoryBackendError

            raise MemoryBackendError("no index")

    backend = Failing()
    h = make_harness(ScriptedPolicy(random_player), ENV, memory_of(backend))
    played = asyncio.run(play_trial(h, {"seed": LOSING}))
    assert played.error is not None
    assert played.error["type"] == "MemoryBackendError"
    assert backend.namespaces() == []
