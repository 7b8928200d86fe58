"""What a tracer sees of a trial: model calls, turns and recalls, with where they were and what they came to."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from lamer_graph import create_lamer_agent
from lamer_graph.agent.graph import LamerAgent
from scripted import ScriptedPolicy, is_reflection


class Runs(BaseCallbackHandler):
    """The runs as they came: kind, name, attributes, what came out."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.open: dict[Any, dict[str, Any]] = {}

    def _began(self, kind: str, serialized: Any, given: Any, run_id: Any, metadata: Any) -> None:
        run = {"kind": kind, "name": (serialized or {}).get("name"), "in": given, "about": dict(metadata or {})}
        self.seen.append(run)
        self.open[run_id] = run

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: Any, metadata: Any = None, **_: Any
    ) -> None:
        self._began("model", serialized, messages[0], run_id, metadata)

    def on_tool_start(self, serialized: Any, input_str: Any, *, run_id: Any, metadata: Any = None, **_: Any) -> None:
        self._began("tool", serialized, input_str, run_id, metadata)

    def on_retriever_start(self, serialized: Any, query: Any, *, run_id: Any, metadata: Any = None, **_: Any) -> None:
        self._began("retriever", serialized, query, run_id, metadata)

    def _ended(self, run_id: Any, out: Any) -> None:
        self.open.pop(run_id)["out"] = out

    def on_llm_end(self, response: Any, *, run_id: Any, **_: Any) -> None:
        self._ended(run_id, response.generations[0][0].message)

    def on_tool_end(self, output: Any, *, run_id: Any, **_: Any) -> None:
        self._ended(run_id, output)

    def on_retriever_end(self, documents: Any, *, run_id: Any, **_: Any) -> None:
        self._ended(run_id, documents)

    def on_llm_error(self, error: Any, *, run_id: Any, **_: Any) -> None:
        self._ended(run_id, error)


def agent(**more: Any) -> LamerAgent:
    def answer(messages: Any, *_: Any) -> str:
        return "<remark>Not there.</remark>" if is_reflection(messages) else "<action>(1, 1)</action>"

    return create_lamer_agent(  # type: ignore[return-value]
        ScriptedPolicy(answer), "minesweeper:4x4-3", "reflection", max_episodes=2, max_turns=2, **more
    )


@pytest.mark.parametrize("sync", [True, False])
def test_model_calls_turns_and_recalls_are_runs_with_attributes(sync: bool) -> None:
    runs = Runs()
    config: Any = {"callbacks": [runs]}
    task: Any = {"task": {"seed": 3}}
    made = agent().invoke(task, config) if sync else asyncio.run(agent().ainvoke(task, config))
    turns = [turn for episode in made["episodes"] for turn in episode["turns"]]
    assert not runs.open
    tools = [run for run in runs.seen if run["kind"] == "tool"]
    assert [run["about"]["lamer_reward"] for run in tools] == [turn["reward"] for turn in turns]
    assert {run["name"] for run in tools} == {"minesweeper:4x4-3"}
    places = [(run["about"]["lamer_episode"], run["about"]["lamer_turn"]) for run in tools]
    assert places == [
        (n + 1, m + 1) for n, episode in enumerate(made["episodes"]) for m in range(len(episode["turns"]))
    ]
    models = [run for run in runs.seen if run["kind"] == "model"]
    assert len(models) == len(turns) + len(made["reflections"])
    assert models[0]["name"] == "ScriptedPolicy"
    assert models[0]["out"].text == "<action>(1, 1)</action>"
    assert models[0]["in"][0].type == "system"
    assert models[0]["about"]["lamer_trial"].startswith("minesweeper:4x4-3/3#0")
    recalls = [run for run in runs.seen if run["kind"] == "retriever"]
    assert [[doc.page_content for doc in run["out"]] for run in recalls] == [[], ["Not there."]]


def test_opentelemetry_gets_a_span_for_each() -> None:
    pytest.importorskip("openinference.instrumentation.langchain", reason="no extra `trace` here")
    path = Path(__file__).parents[3] / "examples" / "traced_agent.py"
    spec = importlib.util.spec_from_file_location("traced_agent", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    told = [example.line(span) for span in example.traced(3)]
    turns = [line for line in told if line.startswith("tool") and "minesweeper:4x4-3" in line]
    calls = [line for line in told if line.startswith("llm") and "LocalPolicy" in line]
    assert len(calls) == len(turns) + sum("reflect" in line for line in told)
    assert all("'reward'" in line and "'turn'" in line for line in turns)
    assert any(line.startswith("retriever memory") for line in told)


def test_what_is_played_is_the_same_whether_somebody_listens_or_not() -> None:
    from lamer_graph import Sampling

    plain = agent(sampling=Sampling(seed=1)).invoke({"task": {"seed": 3}})
    traced = agent(sampling=Sampling(seed=1)).invoke({"task": {"seed": 3}}, {"callbacks": [Runs()]})
    assert plain == traced


def test_a_failed_call_is_a_failed_run() -> None:
    from lamer_graph.errors import PolicyError

    def fail(*_: Any) -> str:
        raise PolicyError("down")

    runs = Runs()
    with pytest.raises(PolicyError):
        create_lamer_agent(ScriptedPolicy(fail), "minesweeper:4x4-3", "none").invoke(
            {"task": {"seed": 3}}, {"callbacks": [runs]}
        )
    assert not runs.open
    assert isinstance(runs.seen[-1]["out"], PolicyError)


def test_messages_are_streamed_of_any_policy() -> None:
    stream: Any = agent().stream({"task": {"seed": 3}}, stream_mode="messages", subgraphs=True)
    seen = [message.text for _, (message, about) in stream if about["lamer_episode"] == 1]
    assert seen[0] == "<action>(1, 1)</action>"


def test_what_nodes_run_by_themselves_is_drawn() -> None:
    drawn = agent().get_graph(xray=True)
    assert "episode:act" in drawn.nodes
    assert "episode" in agent().get_graph().nodes


# -- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_dice")
def test_every_trial_draws_its_own_seed_unless_one_is_given() -> None:
    from langgraph.checkpoint.memory import InMemorySaver

    from lamer_graph import Sampling

    def seed_of(made: LamerAgent, name: str) -> int:
        config: Any = {"configurable": {"thread_id": name}}
        made.invoke({"task": {"seed": 3}}, config)
        return int(made.get_state(config).values["seed"])

    fresh = agent(checkpointer=InMemorySaver())
    assert len({seed_of(fresh, name) for name in "abc"}) == 3
    fixed = agent(checkpointer=InMemorySaver(), sampling=Sampling(seed=7))
    assert {seed_of(fixed, name) for name in "abc"} == {7}
