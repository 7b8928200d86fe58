"""A person writes or edits the reflection as the documentation says: update_state(config, {"reflection": text})."""

from __future__ import annotations

import asyncio
import inspect
import re
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from lamer_envs import make
from lamer_graph import RunLog, TrialRecorder, create_lamer_agent
from lamer_graph.errors import ConfigError
from lamer_graph.runlog import read_trials
from places import ROOT
from scripted import DICE, ScriptedPolicy, is_reflection, memory_lines, random_player

ENV = make("minesweeper", size=4, mines=3)
LOSING = 1
THREAD: Any = {"configurable": {"thread_id": "t"}}


class Doors:
    """The agent's methods, through the synchronous doors or the asynchronous ones."""

    def __init__(self, agent: Any, asynchronous: bool) -> None:
        def door(name: str) -> Any:
            if not asynchronous:
                return getattr(agent, name)
            return lambda *a, **k: asyncio.run(getattr(agent, f"a{name}")(*a, **k))

        self.invoke, self.update_state, self.get_state = door("invoke"), door("update_state"), door("get_state")


def agent_of(policy: ScriptedPolicy, node: str, memory: str, **options: Any) -> Any:
    kept: Any = {"checkpointer": InMemorySaver(), "interrupt_before": [node]}
    return create_lamer_agent(policy, ENV, memory, sampling=DICE, **kept, **options)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("memory", ["reflection", "both"])
@pytest.mark.parametrize("node", ["reflect", "remember"])
@pytest.mark.parametrize("as_node", [{}, {"as_node": "reflect"}])
def test_what_a_person_writes_is_the_reflection_and_what_the_next_episode_sees(
    node: str, memory: str, asynchronous: bool, as_node: Any
) -> None:
    policy = ScriptedPolicy(random_player)
    doors = Doors(agent_of(policy, node, memory), asynchronous)
    doors.invoke({"task": {"seed": LOSING}}, THREAD)
    assert doors.get_state(THREAD).next == (node,)
    for number in (1, 2):
        doors.update_state(THREAD, {"reflection": f"beware of corner {number}"}, **as_node)
        policy.seen.clear()
        doors.invoke(None, THREAD)
        assert f"beware of corner {number}" in memory_lines(policy.seen[0][-1]["content"])
        if node == "reflect":
            assert not any(is_reflection(messages) for messages in policy.seen)
    values = doors.get_state(THREAD).values
    assert doors.get_state(THREAD).next == ()
    assert values["reflections"] == ["beware of corner 1", "beware of corner 2"]


@pytest.mark.parametrize("node", ["reflect", "remember"])
def test_where_the_person_writes_nothing_the_policy_reflects(node: str) -> None:
    agent = agent_of(ScriptedPolicy(random_player), node, "reflection")
    for given in ({"task": {"seed": LOSING}}, None, None):
        result = agent.invoke(given, THREAD)
    free = create_lamer_agent(ScriptedPolicy(random_player), ENV, sampling=DICE).invoke({"task": {"seed": LOSING}})
    assert result == free


def test_a_person_may_want_no_reflection_at_all() -> None:
    policy = ScriptedPolicy(random_player)
    agent = agent_of(policy, "reflect", "reflection")
    agent.invoke({"task": {"seed": LOSING}}, THREAD)
    agent.update_state(THREAD, {"reflection": ""})
    policy.seen.clear()
    agent.invoke(None, THREAD)
    assert not any(is_reflection(messages) for messages in policy.seen)
    assert memory_lines(policy.seen[0][-1]["content"]) == []


def test_the_stream_tells_of_a_persons_reflection_and_the_log_has_it_without_a_call(tmp_path: Any) -> None:
    with RunLog.create(tmp_path, {}) as log:
        agent = agent_of(ScriptedPolicy(random_player), "reflect", "reflection", recorder=TrialRecorder(log))
        agent.invoke({"task": {"seed": LOSING}}, THREAD)
        agent.update_state(THREAD, {"reflection": "by hand"})
        events = list(agent.stream(None, THREAD, stream_mode="custom"))
        assert [e["text"] for e in events if e["event"] == "reflection"] == ["by hand"]
        agent.invoke(None, THREAD)
    [line] = read_trials(tmp_path)
    assert line["reflections"][0]["text"] == "by hand"
    assert [made["call"] is None for made in line["reflections"]] == [True, False]


def test_an_earlier_checkpoint_is_forked_with_another_thought() -> None:
    agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, sampling=DICE, checkpointer=InMemorySaver())
    whole = agent.invoke({"task": {"seed": LOSING}}, THREAD)
    before = [s for s in agent.get_state_history(THREAD) if s.next == ("reflect",)][-1]
    forked = agent.update_state(before.config, {"reflection": "a different thought"})
    other = agent.invoke(None, forked)
    assert other["reflections"][0] == "a different thought"
    assert other["episodes"][0] == whole["episodes"][0]
    assert agent.invoke(None, before.config) == whole


class Parent(TypedDict, total=False):
    task: dict[str, Any]
    reflections: list[str]


def test_the_same_holds_for_an_agent_that_is_a_node_of_another_graph() -> None:
    graph = StateGraph(Parent)
    player = create_lamer_agent(ScriptedPolicy(random_player), ENV, sampling=DICE, interrupt_before=["reflect"])
    graph.add_node("play", player)
    graph.add_edge(START, "play")
    app = graph.compile(checkpointer=InMemorySaver())
    app.invoke({"task": {"seed": LOSING}}, THREAD)
    inside = app.get_state(THREAD, subgraphs=True).tasks[0].state
    assert inside.next == ("reflect",)
    app.update_state(inside.config, {"reflection": "from above"})
    app.invoke(None, THREAD)
    assert app.invoke(None, THREAD)["reflections"][0] == "from above"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_reflection_that_no_memory_would_show_is_refused_and_the_trial_can_go_on_without_it(
    asynchronous: bool,
) -> None:
    doors = Doors(agent_of(ScriptedPolicy(random_player), "remember", "trajectory"), asynchronous)
    doors.invoke({"task": {"seed": LOSING}}, THREAD)
    doors.update_state(THREAD, {"reflection": "lost on you"})
    with pytest.raises(ConfigError, match="memory 'trajectory' shows no reflections"):
        doors.invoke(None, THREAD)
    doors.update_state(THREAD, {"reflection": None})
    doors.invoke(None, THREAD)
    assert len(doors.get_state(THREAD).values["episodes"]) == 2


@pytest.mark.parametrize("node", ["reflect", "remember"])
def test_a_reflection_that_is_no_text_is_refused(node: str) -> None:
    agent = agent_of(ScriptedPolicy(random_player), node, "reflection")
    agent.invoke({"task": {"seed": LOSING}}, THREAD)
    agent.update_state(THREAD, {"reflection": ["a", "list"]})
    with pytest.raises(ConfigError, match="a reflection must be a text, not a list"):
        agent.invoke(None, THREAD)


def test_no_document_asks_for_more_than_that() -> None:
    texts = [(ROOT / "docs" / "how-to" / "people.md").read_text(), (ROOT / "examples" / "embed_agent.py").read_text()]
    texts.append(inspect.getdoc(create_lamer_agent) or "")
    assert not any(re.search(r"as_node", text) for text in texts)
    assert all("update_state" in text for text in texts)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("node", "text"), [("reflect", ""), ("reflect", " \n"), ("remember", " "), ("remember", None)])
def test_of_a_blank_reflection_nothing_is_remembered_and_the_next_one_is_still_on_its_own_episode(
    node: str, text: str | None, asynchronous: bool, tmp_path: Any
) -> None:
    with RunLog.create(tmp_path, {}) as log:
        policy = ScriptedPolicy(random_player)
        doors = Doors(agent_of(policy, node, "reflection", recorder=TrialRecorder(log)), asynchronous)
        doors.invoke({"task": {"seed": LOSING}}, THREAD)
        doors.update_state(THREAD, {"reflection": text})
        doors.invoke(None, THREAD)
        state = doors.get_state(THREAD).values
        assert len(state["episodes"]) == 2
        assert state["memory"] == []
        doors.invoke(None, THREAD)
        state = doors.get_state(THREAD).values
    assert [bool(one.strip()) for one in state["reflections"]] == [False, True]
    assert [write["keys"] != [] for write in state["writes"]] == [False, True]
    [line] = read_trials(tmp_path)
    assert [made["call"] is None for made in line["reflections"]] == [True, False]


def test_none_before_reflect_leaves_the_reflection_to_the_policy() -> None:
    agent = agent_of(ScriptedPolicy(random_player), "reflect", "reflection")
    agent.invoke({"task": {"seed": LOSING}}, THREAD)
    agent.update_state(THREAD, {"reflection": None})
    assert agent.invoke(None, THREAD)["reflections"][0].startswith("note ")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_person_reviews_the_reflection_by_an_interrupt(asynchronous: bool) -> None:
    policy = ScriptedPolicy(random_player)
    doors = Doors(create_lamer_agent(policy, ENV, review="reflection", checkpointer=InMemorySaver()), asynchronous)
    stopped = doors.invoke({"task": {"seed": LOSING}}, THREAD)
    proposed = stopped["__interrupt__"][0].value
    assert proposed["episode"] == 0
    assert proposed["reflection"]
    policy.seen.clear()
    stopped = doors.invoke(Command(resume="beware of the corner"), THREAD)
    assert not is_reflection(policy.seen[0])
    assert "beware of the corner" in memory_lines(policy.seen[0][-1]["content"])
    assert stopped["__interrupt__"][0].value["episode"] == 1
    result = doors.invoke(Command(resume=""), THREAD)
    assert result["reflections"] == ["beware of the corner", ""]


def test_a_reviewed_reflection_is_logged_without_the_call_that_it_replaces(tmp_path: Any) -> None:
    with RunLog.create(tmp_path / "run") as log:
        agent = create_lamer_agent(
            ScriptedPolicy(random_player),
            ENV,
            review="reflection",
            checkpointer=InMemorySaver(),
            recorder=TrialRecorder(log),
        )
        proposed = agent.invoke({"task": {"seed": LOSING}}, THREAD)["__interrupt__"][0].value["reflection"]
        agent.invoke(Command(resume=proposed), THREAD)
        agent.invoke(Command(resume="mine, not the policy's"), THREAD)
    (trial,) = read_trials(tmp_path / "run")
    assert [reflection["call"] is None for reflection in trial["reflections"]] == [False, True]


def test_a_review_is_refused_where_it_could_not_work() -> None:
    with pytest.raises(ConfigError, match="review must be None or one of reflection"):
        create_lamer_agent(ScriptedPolicy(random_player), ENV, review="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="review= would do nothing"):
        create_lamer_agent(ScriptedPolicy(random_player), ENV, "trajectory", review="reflection")
    agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, sampling=DICE, review="reflection")
    with pytest.raises(ConfigError, match="checkpointer"):
        agent.invoke({"task": {"seed": LOSING}})
