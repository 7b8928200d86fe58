"""Two trials are never one: not in a log, not in memory, whoever plays them and inside whichever graph."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from lamer_envs import make
from lamer_graph import MemoryConfig, RunLog, TrialRecorder, create_lamer_agent
from lamer_graph.errors import ConfigError, PolicyError
from lamer_graph.runlog import read_trials
from lamer_memory import InContextMemory
from scripted import ScriptedPolicy, random_player

ENV = make("minesweeper", size=4, mines=3)
TASK: Any = {"task": {"seed": 1}}
THREAD: Any = {"configurable": {"thread_id": "s"}}


class Parent(TypedDict, total=False):
    task: dict[str, Any]
    reflections: list[str]


def parent_of(agent: Any, saver: Any) -> Any:
    graph = StateGraph(Parent)
    graph.add_node("play", agent)
    graph.add_edge(START, "play")
    return graph.compile(checkpointer=saver)


def ids(folder: Path) -> list[str]:
    return [trial["trial_id"] for trial in read_trials(folder)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_task_played_again_in_one_thread_of_a_parent_is_another_trial(tmp_path: Path, asynchronous: bool) -> None:
    backend = InContextMemory()
    memory = MemoryConfig("trajectory", backend=backend, scope="tasks")
    with RunLog.create(tmp_path, {}) as log:
        agent = create_lamer_agent(
            ScriptedPolicy(random_player), ENV, memory, recorder=TrialRecorder(log), namespace="acme"
        )
        app = parent_of(agent, InMemorySaver())
        for _ in range(2):
            if asynchronous:
                asyncio.run(app.ainvoke(TASK, THREAD))
            else:
                app.invoke(TASK, THREAD)
    assert len(set(ids(tmp_path))) == 2
    keys = [{key for write in trial["memory_writes"] for key in write["keys"]} for trial in read_trials(tmp_path)]
    assert keys[0]
    assert not keys[0] & keys[1]


def test_an_agent_asked_twice_by_one_step_of_a_parent_plays_two_trials(tmp_path: Path) -> None:
    with RunLog.create(tmp_path, {}) as log:
        agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, recorder=TrialRecorder(log))

        def twice(state: Parent) -> Parent:
            agent.invoke(TASK)
            return {"reflections": agent.invoke(TASK)["reflections"]}

        parent_of(twice, InMemorySaver()).invoke(TASK, THREAD)
    assert len(set(ids(tmp_path))) == 2


class Dying(ScriptedPolicy):
    """Its call number `at` fails once, as if the process had died there."""

    def __init__(self, at: int) -> None:
        super().__init__(random_player)
        self.at = at

    async def generate(self, *asked: Any) -> Any:
        self.at -= 1
        if not self.at:
            raise PolicyError("the process died")
        return await super().generate(*asked)


@pytest.mark.parametrize("node", ["reflect", "remember"])
def test_a_trial_inside_a_parent_keeps_its_id_when_it_goes_on(tmp_path: Path, node: str) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver, RunLog.create(tmp_path / "log", {}) as log:
        policy = Dying(3)

        def app() -> Any:  # another process has nothing but the checkpoints
            return parent_of(
                create_lamer_agent(policy, ENV, interrupt_before=[node], recorder=TrialRecorder(log)), saver
            )

        with pytest.raises(PolicyError):
            app().invoke(TASK, THREAD)
        seen = set()
        for _ in range(4):
            app().invoke(None, THREAD)
            if tasks := app().get_state(THREAD, subgraphs=True).tasks:
                seen.add(tasks[0].state.values["trial_id"])
    lines = list(read_trials(tmp_path / "log"))
    assert [line["error"] is None for line in lines] == [False, True]
    assert {line["trial_id"] for line in lines} == seen


def test_a_trial_of_the_agents_own_keeps_todays_ids(tmp_path: Path) -> None:
    with RunLog.create(tmp_path, {}) as log:
        agent = create_lamer_agent(
            ScriptedPolicy(random_player), ENV, checkpointer=InMemorySaver(), recorder=TrialRecorder(log)
        )
        agent.invoke(TASK, THREAD)
        agent.invoke(TASK, THREAD)
    assert ids(tmp_path) == ["minesweeper:4x4-3/1#0@s", "minesweeper:4x4-3/1#0.2@s"]


def test_two_users_of_one_thread_id_are_two_trials_whose_ids_name_nobody(tmp_path: Path) -> None:
    with RunLog.create(tmp_path, {}) as log:
        memory = MemoryConfig("reflection", backend=InContextMemory(), scope="tasks")
        for user in ("anna", "bob"):
            agent = create_lamer_agent(
                ScriptedPolicy(random_player), ENV, memory, checkpointer=InMemorySaver(), recorder=TrialRecorder(log)
            )
            agent.invoke(TASK, {"configurable": {"thread_id": "s", "user_id": user}})
            agent.invoke({"task": {"seed": 2}}, THREAD, context={"unique": "x", "namespace": user})
    found = ids(tmp_path)
    assert len(set(found)) == 4
    assert not any("anna" in name or "bob" in name for name in found)
    assert not any(name.count("~") > 1 for name in found)  # told apart by whose they are, not by the log


async def test_another_trial_of_a_logged_id_is_logged_under_an_id_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):  # a restart with a checkpointer in memory
        with RunLog.create(tmp_path, {}, resume=True) as log:
            agents = [
                create_lamer_agent(
                    ScriptedPolicy(random_player), ENV, checkpointer=InMemorySaver(), recorder=TrialRecorder(log)
                )
                for _ in range(2)
            ]
            await asyncio.gather(*(agent.ainvoke(TASK, THREAD) for agent in agents))
    assert len(set(ids(tmp_path))) == 4


def test_a_trial_recorded_again_after_a_crash_is_the_same_trial(tmp_path: Path) -> None:
    saver = InMemorySaver()

    def again(log: RunLog, of: Any) -> None:
        agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, checkpointer=of, recorder=TrialRecorder(log))
        before = next(s for s in agent.get_state_history(THREAD) if s.next == ("episode",))
        agent.invoke(None, before.config)

    other = InMemorySaver()
    with RunLog.create(tmp_path, {}) as log:
        for of in (saver, other):
            agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, checkpointer=of, recorder=TrialRecorder(log))
            agent.invoke(TASK, THREAD)
            again(log, of)
    with RunLog.create(tmp_path, {}, resume=True) as log:
        again(log, other)
        again(log, saver)
    assert len(ids(tmp_path)) == len(set(ids(tmp_path))) == 2


def test_a_log_of_before_that_says_milliseconds_holds_the_same_trial(tmp_path: Path) -> None:
    def line(started: str) -> Any:
        return {"trial_id": "t#0@s", "error": None, "timings": {"started": started}}

    with RunLog.create(tmp_path, {}) as log:
        log.append(line("2026-01-01T00:00:00.123+00:00"))
    with RunLog.create(tmp_path, {}, resume=True) as log:
        assert log.name_of(line("2026-01-01T00:00:00.123456+00:00")) == "t#0@s"
        other = log.name_of(line("2026-01-01T00:00:00.124456+00:00"))
        assert other != "t#0@s"
        assert log.name_of(line("2026-01-01T00:00:00.124456+00:00")) == other


# -- a user who goes on -----------------------------------------------------------------------------------------------


def test_another_user_does_not_go_on_with_a_users_trial() -> None:
    backend = InContextMemory()
    memory = MemoryConfig("reflection", backend=backend, scope="tasks")
    agent = create_lamer_agent(
        ScriptedPolicy(random_player), ENV, memory, checkpointer=InMemorySaver(), interrupt_before=["reflect"]
    )

    def of(user: str) -> Any:
        return {"configurable": {"thread_id": "s", "user_id": user}}

    agent.invoke(TASK, of("anna"))
    for other in (lambda: agent.invoke(None, of("bob")), lambda: asyncio.run(agent.ainvoke(None, of("bob")))):
        agent.update_state(THREAD, {"reflection": "mine"})
        with pytest.raises(ConfigError, match="not begun for user_id 'bob'"):
            other()
    agent.invoke(None, THREAD)
    agent.invoke(None, of("anna"))
    assert backend.namespaces() == [("anna",)]
    agent.invoke(TASK, {"configurable": {"thread_id": "b", "user_id": "bob"}}, context={"namespace": "acme"})
    agent.invoke(None, {"configurable": {"thread_id": "b", "user_id": "bob"}})  # need not say the namespace again
    assert ("acme",) in backend.namespaces()


# -- stops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stop_that_no_checkpointer_would_keep_is_refused_before_any_call(asynchronous: bool) -> None:
    policy = ScriptedPolicy(random_player)
    stops = create_lamer_agent(policy, ENV, interrupt_before=["reflect"])
    plain = create_lamer_agent(policy, ENV)
    first = create_lamer_agent(policy, ENV, interrupt_before=["recall"])

    def play(agent: Any, **options: Any) -> Any:
        return asyncio.run(agent.ainvoke(TASK, **options)) if asynchronous else agent.invoke(TASK, **options)

    for run in (
        lambda: play(stops),
        lambda: play(first),
        lambda: play(plain, interrupt_before=["reflect"]),
        lambda: play(plain, interrupt_after=["episode"]),
        lambda: play(parent_of(stops, None)),
    ):
        with pytest.raises(ConfigError, match="give a checkpointer") as caught:
            run()
        assert "\n" not in str(caught.value)
    assert policy.seen == []
    assert play(plain)


class Asking(ScriptedPolicy):
    """Asks a person before its first answer."""

    def __init__(self) -> None:
        super().__init__(random_player)

    async def generate(self, *asked: Any) -> Any:
        if not self.seen:
            interrupt("go on?")
        return await super().generate(*asked)


async def test_an_interrupt_of_the_policy_that_nothing_would_keep_is_an_error(tmp_path: Path) -> None:
    with RunLog.create(tmp_path, {}) as log:
        agent = create_lamer_agent(Asking(), ENV, recorder=TrialRecorder(log))
        for lost in (agent, parent_of(agent, None)):
            with pytest.raises(ConfigError, match=r"an interrupt\(\) stops a trial that nothing keeps"):
                await lost.ainvoke(TASK)
    assert [trial["error"]["type"] for trial in read_trials(tmp_path)] == ["ConfigError"] * 2
    for kept in (
        create_lamer_agent(Asking(), ENV, checkpointer=InMemorySaver()),
        parent_of(create_lamer_agent(Asking(), ENV), InMemorySaver()),
    ):
        assert (await kept.ainvoke(TASK, THREAD))["__interrupt__"]
        assert "__interrupt__" not in await kept.ainvoke(Command(resume="yes"), THREAD)


def test_a_stop_that_the_parents_checkpointer_keeps_is_taken() -> None:
    agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, interrupt_before=["reflect"])
    app = parent_of(lambda state: agent.invoke(TASK), InMemorySaver())
    app.invoke(TASK, THREAD)
    assert app.get_state(THREAD).next == ("play",)
    for _ in range(2):
        app.invoke(None, THREAD)
    assert app.get_state(THREAD).next == ()
