"""The LangGraph state machine: what it returns, and that it behaves wherever LangGraph users put it."""

from __future__ import annotations

import asyncio
import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from lamer_envs import make
from lamer_graph import Sampling, create_lamer_agent
from lamer_graph.errors import ConfigError
from lamer_graph.trial.driver import play_trial
from lamer_graph.trial.harness import make_harness
from lamer_graph.trial.tasks import start_of
from lamer_graph.types import Message
from lamer_memory import MemoryConfigError
from scripted import DICE, ScriptedPolicy, is_reflection, memory_lines, planner, random_player

LOSING = 1
"""A seed whose three episodes random_player all loses."""


@pytest.fixture
def env() -> Any:
    return make("minesweeper", size=4, mines=3)


def expert(env: Any, seed: int) -> ScriptedPolicy:
    actions = iter(env.solve(env.reset(seed)))
    return ScriptedPolicy(lambda messages, sampling: f"<action>{next(actions)}</action>")


def fails_then_wins(env: Any, seed: int) -> ScriptedPolicy:
    """Hits a mine in episode 1, names it, and wins once the remark stands in its prompt."""
    start = env.reset(seed)
    good = env.solve(start)
    bad = next(a for a in env.admissible(start) if env.step(start, a).done and not env.step(start, a).success)
    played = iter(good)

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        if is_reflection(messages):
            return f"I should remember. <remark>mine at {bad}</remark>"
        if f"mine at {bad}" in memory_lines(messages[-1]["content"]):
            return f"<action>{next(played)}</action>"
        return f"<action>{bad}</action>"

    return ScriptedPolicy(answer)


def test_a_trial_ends_at_its_first_success_with_the_documented_result(env: Any) -> None:
    result = create_lamer_agent(expert(env, 7), env).invoke({"task": {"seed": 7}})
    assert set(result) == {"success", "episodes", "reflections"}
    assert result["success"] is True
    assert result["reflections"] == []
    [episode] = result["episodes"]
    assert set(episode) == {"turns", "success", "reward", "truncated"}
    assert episode["success"] is True
    assert episode["truncated"] is False
    for turn in episode["turns"]:
        assert set(turn) == {"observation", "action", "reward", "valid", "text"}
    assert episode["turns"][-1]["reward"] == 10
    assert episode["reward"] == pytest.approx(sum(turn["reward"] for turn in episode["turns"]))


def test_a_reflection_written_after_a_failure_is_seen_in_the_next_episode(env: Any) -> None:
    result = create_lamer_agent(fails_then_wins(env, 7), env, memory="reflection").invoke({"task": {"seed": 7}})
    assert [episode["success"] for episode in result["episodes"]] == [False, True]
    assert len(result["reflections"]) == 1
    assert result["reflections"][0].startswith("mine at ")


def test_without_memory_nothing_is_learned_and_nothing_is_reflected_on(env: Any) -> None:
    policy = fails_then_wins(env, 7)
    result = create_lamer_agent(policy, env, memory="none").invoke({"task": {"seed": 7}})
    assert [episode["success"] for episode in result["episodes"]] == [False] * 3
    assert result["reflections"] == []
    assert not any(is_reflection(messages) for messages in policy.seen)


def test_the_last_allowed_episode_is_not_reflected_on(env: Any) -> None:
    for episodes in (1, 2, 3):
        policy = ScriptedPolicy(random_player)
        result = create_lamer_agent(policy, env, max_episodes=episodes).invoke({"task": {"seed": LOSING}})
        assert len(result["episodes"]) == episodes
        assert len(result["reflections"]) == episodes - 1


@pytest.mark.parametrize("contents", ["trajectory", "both"])
def test_trajectory_memory_shows_the_failed_moves_in_the_next_episode(env: Any, contents: str) -> None:
    policy = ScriptedPolicy(random_player)
    result = create_lamer_agent(policy, env, memory=contents).invoke({"task": {"seed": LOSING}})
    first_of_second = next(m for m in policy.seen if "Attempt 2 of 3, turn 1" in m[-1]["content"])
    lines = memory_lines(first_of_second[-1]["content"])
    for turn in result["episodes"][0]["turns"]:
        assert any(f"You played: {turn['action']} -> " in line for line in lines)
    assert len(result["reflections"]) == (2 if contents == "both" else 0)


def test_every_episode_starts_from_the_same_state(env: Any) -> None:
    result = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE).invoke({"task": {"seed": LOSING}})
    assert len({episode["turns"][0]["observation"] for episode in result["episodes"]}) == 1


def test_an_explicit_instance_is_played(env: Any) -> None:
    instance = {"size": 4, "mines": [[1, 1], [1, 2], [1, 3]], "opened": [[4, 4]]}
    policy = ScriptedPolicy(lambda m, s: "<action>(1, 1)</action>")
    result = create_lamer_agent(policy, env, max_episodes=1).invoke({"task": {"instance": instance}})
    assert result["episodes"][0]["turns"][0]["reward"] == pytest.approx(-0.1)


def test_turns_beyond_the_budget_are_not_played_and_the_episode_is_marked_truncated(env: Any) -> None:
    policy = ScriptedPolicy(lambda m, s: "no tag at all")
    result = create_lamer_agent(policy, env, max_episodes=1, max_turns=40).invoke({"task": {"seed": 3}})
    [episode] = result["episodes"]
    assert len(episode["turns"]) == 40
    assert episode["truncated"] is True
    assert not any(turn["valid"] for turn in episode["turns"])


@pytest.mark.parametrize(
    ("strategy", "memory", "thoughts"),
    [
        ("lamer", "both", "hidden"),
        ("zero_shot", None, "hidden"),
        ("react", "reflection", "shown"),
        ("reflexion", None, "hidden"),
        ("plan", "both", "shown"),
    ],
)
def test_sync_async_and_bulk_driver_agree(env: Any, strategy: Any, memory: Any, thoughts: Any) -> None:
    policies = [ScriptedPolicy(planner if strategy == "plan" else random_player) for _ in range(2)]
    asked: Any = {"strategy": strategy, "thoughts": thoughts, "max_episodes": 5}
    agent = create_lamer_agent(policies[0], env, memory, sampling=DICE, **asked)
    harness = make_harness(policies[1], env, memory, sampling=DICE, **asked)
    for seed in range(5):
        task = {"task": {"seed": seed}}
        result = agent.invoke(task)
        played = asyncio.run(play_trial(harness, {"seed": seed}, record=False))
        assert {key: played.state[key] for key in result} == result  # type: ignore[literal-required]
        assert policies[0].seen == policies[1].seen
        assert policies[0].samplings == policies[1].samplings
        assert asyncio.run(agent.ainvoke(task)) == result
        for policy in policies:
            policy.seen.clear()
            policy.samplings.clear()


def test_calls_are_seeded_by_run_task_trial_episode_and_turn(env: Any) -> None:
    def seeds(sampling: Sampling = DICE, **task: int) -> list[int | None]:
        policy = ScriptedPolicy(random_player)
        create_lamer_agent(policy, env, sampling=sampling).invoke({"task": {"seed": LOSING, **task}})
        return [s.seed for s in policy.samplings]

    first = seeds()
    assert first == seeds()
    assert len(set(first)) == len(first)
    assert not set(first) & set(seeds(trial=1))
    assert not set(first) & set(seeds(sampling=Sampling(seed=1)))


def test_the_custom_stream_has_an_event_per_turn_reflection_and_episode(env: Any) -> None:
    agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE)
    events = list(agent.stream({"task": {"seed": LOSING}}, stream_mode="custom"))
    result = agent.invoke({"task": {"seed": LOSING}})
    turns = [turn["action"] for episode in result["episodes"] for turn in episode["turns"]]
    assert [e["action"] for e in events if e["event"] == "turn"] == turns
    assert [e["text"] for e in events if e["event"] == "reflection"] == result["reflections"]
    assert [e["episode"] for e in events if e["event"] == "episode"] == [0, 1, 2]


async def test_async_streaming_gives_the_same_events(env: Any) -> None:
    agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE)
    task = {"task": {"seed": LOSING}}
    assert [e async for e in agent.astream(task, stream_mode="custom")] == list(
        agent.stream(task, stream_mode="custom")
    )


def test_batch_runs_long_episodes_under_the_recursion_limit_that_langchain_injects(env: Any) -> None:
    policy = ScriptedPolicy(lambda m, s: "nothing" if not is_reflection(m) else "<remark>hm</remark>")
    agent = create_lamer_agent(policy, env, max_turns=60)
    tasks = [{"task": {"seed": seed}} for seed in range(3)]
    results = agent.batch(tasks)
    assert [len(e["turns"]) for r in results for e in r["episodes"]] == [60] * 9
    assert results == [agent.invoke(task) for task in tasks]


def test_it_composes_with_runnables(env: Any) -> None:
    policy = ScriptedPolicy(lambda m, s: "nothing")
    chain = (
        RunnableLambda(lambda seed: {"task": {"seed": seed}})
        | create_lamer_agent(policy, env, memory="trajectory", max_turns=40)
        | RunnableLambda(lambda result: result["success"])
    )
    assert chain.invoke(3) is False


class ParentState(TypedDict):
    task: dict[str, Any]
    episodes: Annotated[list[Any], operator.add]
    success: bool


@pytest.mark.parametrize("limit", [3, 25])
def test_it_works_as_a_node_of_a_parent_graph_under_the_parents_recursion_limit(env: Any, limit: int) -> None:
    agent = create_lamer_agent(ScriptedPolicy(lambda m, s: "nothing"), env, max_episodes=2, max_turns=30)
    parent = StateGraph(ParentState)
    parent.add_node("player", lambda state: agent.invoke({"task": state["task"]}, {"recursion_limit": 25}))
    parent.add_edge(START, "player")
    parent.add_edge("player", END)
    result = parent.compile().invoke({"task": {"seed": 5}, "episodes": []}, {"recursion_limit": limit})
    assert len(result["episodes"]) == 2


def test_it_works_as_a_subgraph_with_shared_state(env: Any) -> None:
    agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE)
    parent = StateGraph(ParentState)
    parent.add_node("player", agent)
    parent.add_edge(START, "player")
    result = parent.compile(checkpointer=InMemorySaver()).invoke(
        {"task": {"seed": LOSING}, "episodes": []}, {"configurable": {"thread_id": "p"}, "recursion_limit": 25}
    )
    assert result["success"] is False
    assert len(result["episodes"]) == 3


class PlayArguments(TypedDict):
    task: dict[str, int]


def test_it_works_as_a_tool(env: Any) -> None:
    policy = ScriptedPolicy(lambda m, s: "nothing")
    agent = create_lamer_agent(policy, env, max_turns=40)
    tool = agent.as_tool(args_schema=PlayArguments, name="play", description="Plays MineSweeper.")
    assert tool.invoke({"task": {"seed": 3}})["success"] is False


def test_a_langchain_chat_model_can_play(env: Any) -> None:
    model = GenericFakeChatModel(messages=iter(AIMessage(f"<action>{a}</action>") for a in env.solve(env.reset(7))))
    assert create_lamer_agent(model, env).invoke({"task": {"seed": 7}})["success"] is True


# -- checkpointers ----------------------------------------------------------------------------------------------------


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


def expected(env: Any) -> dict[str, Any]:
    return create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE).invoke({"task": {"seed": LOSING}})


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_sqlite_checkpointer(env: Any, tmp_path: Path, durability: Any) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
        agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE, checkpointer=saver)
        result = agent.invoke({"task": {"seed": LOSING}}, thread("a"), durability=durability)
        assert result == expected(env)
        json.dumps(agent.get_state(thread("a")).values)
        checkpoints = len(list(agent.get_state_history(thread("a"))))
    assert checkpoints == 1 if durability == "exit" else checkpoints > 9


async def test_async_sqlite_checkpointer(env: Any, tmp_path: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
        agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE, checkpointer=saver)
        assert await agent.ainvoke({"task": {"seed": LOSING}}, thread("a"), durability="sync") == expected(env)


def test_postgres_checkpointer(env: Any, postgres_uri: str) -> None:
    with PostgresSaver.from_conn_string(postgres_uri) as saver:
        saver.setup()
        agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE, checkpointer=saver)
        assert agent.invoke({"task": {"seed": LOSING}}, thread("a"), durability="sync") == expected(env)


async def test_async_postgres_checkpointer(env: Any, postgres_uri: str) -> None:
    async with AsyncPostgresSaver.from_conn_string(postgres_uri) as saver:
        await saver.setup()
        agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE, checkpointer=saver)
        assert await agent.ainvoke({"task": {"seed": LOSING}}, thread("b"), durability="sync") == expected(env)


def test_a_new_task_on_a_used_thread_is_a_new_trial(env: Any) -> None:
    agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE, checkpointer=InMemorySaver())
    first = agent.invoke({"task": {"seed": LOSING}}, thread("a"))
    assert agent.invoke({"task": {"seed": LOSING}}, thread("a")) == first
    fresh = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE)
    assert agent.invoke({"task": {"seed": 2}}, thread("a")) == fresh.invoke({"task": {"seed": 2}})


# -- people in the loop -----------------------------------------------------------------------------------------------


def test_a_person_writes_the_reflection_at_an_interrupt_before_reflect(env: Any) -> None:
    policy = fails_then_wins(env, 7)
    agent = create_lamer_agent(policy, env, checkpointer=InMemorySaver(), interrupt_before=["reflect"])
    agent.invoke({"task": {"seed": 7}}, thread("a"))
    assert agent.get_state(thread("a")).next == ("reflect",)
    assert not any(is_reflection(messages) for messages in policy.seen)
    bad = agent.get_state(thread("a")).values["episodes"][0]["turns"][-1]["action"]
    agent.update_state(thread("a"), {"reflection": f"mine at {bad}"}, as_node="reflect")
    result = agent.invoke(None, thread("a"))
    assert result["success"] is True
    assert result["reflections"] == [f"mine at {bad}"]
    assert not any(is_reflection(messages) for messages in policy.seen)


def test_a_person_edits_the_drafted_reflection_at_an_interrupt_before_remember(env: Any) -> None:
    agent = create_lamer_agent(
        ScriptedPolicy(random_player), env, sampling=DICE, checkpointer=InMemorySaver(), interrupt_before=["remember"]
    )
    agent.invoke({"task": {"seed": LOSING}}, thread("a"))
    draft = agent.get_state(thread("a")).values["reflection"]
    assert draft.startswith("note ")
    agent.update_state(thread("a"), {"reflection": draft + ", edited"}, as_node="reflect")
    agent.invoke(None, thread("a"))
    assert agent.get_state(thread("a")).values["reflections"] == [draft + ", edited"]


def test_time_travel_forks_a_trial_from_an_earlier_checkpoint(env: Any) -> None:
    policy = ScriptedPolicy(random_player)
    agent = create_lamer_agent(policy, env, checkpointer=InMemorySaver())
    whole = agent.invoke({"task": {"seed": LOSING}}, thread("a"))
    before = next(
        s for s in agent.get_state_history(thread("a")) if s.next == ("reflect",) and len(s.values["episodes"]) == 1
    )
    assert agent.invoke(None, before.config) == whole
    forked = agent.update_state(before.config, {"reflection": "a different thought"}, as_node="reflect")
    policy.seen.clear()
    other = agent.invoke(None, forked)
    assert other["reflections"][0] == "a different thought"
    assert other["episodes"][0] == whole["episodes"][0]
    assert "a different thought" in memory_lines(policy.seen[0][-1]["content"])


# -- context, memory, bad input ---------------------------------------------------------------------------------------


def test_a_seed_in_the_context_replaces_the_runs_seed(env: Any) -> None:
    agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE)
    one = agent.invoke({"task": {"seed": LOSING}}, context={"seed": 1})
    assert one == create_lamer_agent(ScriptedPolicy(random_player), env, sampling=Sampling(seed=1)).invoke(
        {"task": {"seed": LOSING}}
    )
    assert one != agent.invoke({"task": {"seed": LOSING}})


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({}, "a task is"),
        ({"seed": 1, "instance": {}}, "one of the two"),
        ({"seed": "seven"}, "whole number"),
        ({"seed": 1, "trial": -1}, "trial"),
        ({"seed": 1, "trial": 0.0}, "trial"),
        ({"seed": 7.0}, "whole number"),
        ({"seed": True}, "whole number"),
        ({"seed": 1 << 64}, "64 bits"),
        (None, "a task is"),
        (7, "a task is"),
        ("7", "a task is"),
        ([{"seed": 7}], "a task is"),
        ({"instance": 7}, "JSON object"),
        ({"instance": [1]}, "JSON object"),
        ({"instance": {1: 2}}, "JSON object"),
    ],
)
def test_a_malformed_task_is_refused_in_one_line(env: Any, task: dict[str, Any], says: str) -> None:
    agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE)
    for play in (agent.invoke, lambda given: asyncio.run(agent.ainvoke(given))):
        with pytest.raises(ConfigError, match=says) as caught:
            play({"task": task})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("context", "says"),
    [
        ({"seed": "abc"}, "context's seed must be a whole number"),
        ({"seed": 1.5}, "context's seed"),
        ({"seed": True}, "context's seed"),
        ({"seed": 1 << 64}, "context's seed"),
        ({"unique": 7}, "context's unique"),
        ({"recorder": "log"}, "context's recorder"),
    ],
)
def test_a_malformed_context_is_refused_before_any_call(env: Any, context: Any, says: str) -> None:
    policy = ScriptedPolicy(random_player)
    agent = create_lamer_agent(policy, env)
    for play in (agent.invoke, lambda *a, **k: asyncio.run(agent.ainvoke(*a, **k))):
        with pytest.raises(ConfigError, match=says):
            play({"task": {"seed": 1}}, context=context)
    assert policy.seen == []


def test_no_text_in_a_task_opens_a_file(env: Any, tmp_path: Path) -> None:
    instance = {"size": 4, "mines": [[1, 1], [1, 2], [1, 3]], "opened": [[4, 4]]}
    path = tmp_path / "instance.json"
    path.write_text(json.dumps(instance))
    agent = create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE)
    for name in (str(path), f"file://{path}", "/etc/hostname", "~/x.json"):
        with pytest.raises(ConfigError, match="not its path"):
            agent.invoke({"task": {"instance": name}})
        with pytest.raises(ConfigError, match="not its path"):
            start_of(env, {"seed": None, "instance": name})
    assert agent.invoke({"task": {"instance": json.dumps(instance)}}) == agent.invoke({"task": {"instance": instance}})


def test_malformed_arguments_are_refused_when_the_agent_is_made(env: Any) -> None:
    policy = ScriptedPolicy(random_player)
    with pytest.raises(ConfigError, match="max_episodes"):
        create_lamer_agent(policy, env, max_episodes=0)
    with pytest.raises(ConfigError, match="prompt style"):
        create_lamer_agent(policy, env, prompt_style="loud")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="strategy"):
        create_lamer_agent(policy, env, strategy="magic")  # type: ignore[arg-type]
    with pytest.raises(MemoryConfigError, match="reflection"):
        create_lamer_agent(policy, env, memory="reflections")
    with pytest.raises(ConfigError, match="chat model"):
        create_lamer_agent("gpt", env)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="recall, episode"):
        create_lamer_agent(policy, env, memory="none", interrupt_before=["reflect"])
