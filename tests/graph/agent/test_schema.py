"""What others read of the agent before they call it: its JSON schemas, and the tool that LangChain makes of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import ToolMessage
from pydantic import TypeAdapter, ValidationError

from lamer_envs import make
from lamer_graph import RunLog, TrialRecorder, create_lamer_agent
from lamer_graph.agent import episode_graph
from lamer_graph.runlog import read_trials
from scripted import DICE, ScriptedPolicy, random_player

LOSING = 1


def agent_of(**options: Any) -> Any:
    env = make("minesweeper", size=4, mines=3)
    return create_lamer_agent(ScriptedPolicy(random_player), env, sampling=DICE, **options)


def test_input_output_and_context_have_json_schemas() -> None:
    agent = agent_of()
    given = agent.get_input_jsonschema()
    assert "task" in given["properties"]
    assert set(agent.get_output_jsonschema()["properties"]) == {"success", "episodes", "reflections"}
    assert "namespace" in agent.get_context_jsonschema()["properties"]
    for schema in (given, agent.get_output_jsonschema(), agent.get_context_jsonschema()):
        json.dumps(schema)


def test_the_context_schema_leaves_out_the_recorder_which_no_client_can_send() -> None:
    assert "recorder" not in agent_of().get_context_jsonschema()["properties"]


def test_every_channel_of_both_graphs_has_a_json_schema() -> None:
    agent = agent_of()
    for graph in (agent, episode_graph(agent)):
        for name in graph.stream_channels_list:
            TypeAdapter(graph.channels[name].UpdateType).json_schema()


def test_a_tool_of_the_agent_plays_what_a_tool_call_asks_for_sync_and_async() -> None:
    agent = agent_of()
    tool = agent.as_tool(name="play", description="Plays MineSweeper.")
    call = {"name": "play", "args": {"task": {"seed": LOSING}}, "id": "1", "type": "tool_call"}
    expected = agent.invoke({"task": {"seed": LOSING}})
    for answer in (tool.invoke(call), asyncio.run(tool.ainvoke(call))):
        assert isinstance(answer, ToolMessage)
        assert json.loads(str(answer.content)) == expected
    instance = {"size": 4, "mines": [[1, 1], [1, 2], [1, 3]], "opened": [[4, 4]]}
    call["args"] = {"task": {"instance": instance, "trial": 2}}
    assert json.loads(tool.invoke(call).content) == agent.invoke({"task": {"instance": instance, "trial": 2}})


def test_a_tool_tells_a_model_what_a_task_is_and_refuses_another_form() -> None:
    tool = agent_of().as_tool(name="play", description="Plays MineSweeper.")
    schema = json.dumps(tool.get_input_jsonschema())
    assert '"seed"' in schema
    assert '"instance"' in schema
    with pytest.raises(ValidationError):
        tool.invoke({"task": {"seed": "seven"}})


def test_a_recorder_given_to_the_agent_logs_every_trial_of_it(tmp_path: Path) -> None:
    with RunLog.create(tmp_path, {}) as log:
        agent = agent_of(recorder=TrialRecorder(log))
        agent.invoke({"task": {"seed": LOSING}})
        asyncio.run(agent.ainvoke({"task": {"seed": 2}}))
    lines = list(read_trials(tmp_path))
    assert [line["task"]["seed"] for line in lines] == [LOSING, 2]
    assert all(turn["call"]["token_ids"] for line in lines for e in line["episodes"] for turn in e["turns"])
