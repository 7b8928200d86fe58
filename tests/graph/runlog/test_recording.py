"""What the graph logs: a line per trial of whoever played it, and nobody is told of a line that is not on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from lamer_envs import make
from lamer_graph import create_lamer_agent
from lamer_graph.runlog import RunLog, check, read_trials
from lamer_graph.runlog.recording import TrialRecorder
from lamer_graph.trial.steps import Json
from scripted import ScriptedPolicy, random_player

TASK: Any = {"task": {"seed": 11}}


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


def an_agent(policy: ScriptedPolicy | None = None, **options: Any) -> Any:
    policy = policy or ScriptedPolicy(random_player)
    return create_lamer_agent(policy, make("minesweeper", size=4, mines=3), checkpointer=InMemorySaver(), **options)


# -- whose trial it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sync", "async"])
def test_two_threads_that_play_one_task_into_one_recorder_are_two_lines(form: str, tmp_path: Path) -> None:
    told: list[Json] = []
    agent = an_agent()
    with RunLog.create(tmp_path, {}) as log:
        context = {"recorder": TrialRecorder(log, on_line=told.append)}
        for name in ("ann", "bob"):
            if form == "sync":
                agent.invoke(TASK, thread(name), context=context)
            else:
                asyncio.run(agent.ainvoke(TASK, thread(name), context=context))
    logged = list(read_trials(tmp_path))
    assert [trial["trial_id"].rpartition("@")[2] for trial in logged] == ["ann", "bob"]
    assert [line["trial_id"] for line in told] == [trial["trial_id"] for trial in logged]
    assert len({(trial["task"]["id"], trial["trial"]) for trial in logged}) == 1
    assert check(tmp_path).ok


def test_a_task_played_again_on_its_thread_is_another_trial(tmp_path: Path) -> None:
    agent = an_agent()
    with RunLog.create(tmp_path, {}) as log:
        for _ in range(3):
            agent.invoke(TASK, thread("ann"), context={"recorder": TrialRecorder(log)})
    names = [trial["trial_id"].partition("#")[2] for trial in read_trials(tmp_path)]
    assert names == ["0@ann", "0.2@ann", "0.3@ann"]


def test_nobody_is_told_of_a_line_that_was_not_written(tmp_path: Path) -> None:
    told: list[Json] = []
    agent = an_agent()
    for _ in range(2):
        with RunLog.create(tmp_path, {}, resume=True) as log:
            recorder = TrialRecorder(log, on_line=told.append)
            agent.invoke(TASK, thread("a"), context={"recorder": recorder, "unique": "one"})
            asyncio.run(agent.ainvoke(TASK, thread("b"), context={"recorder": recorder, "unique": "one"}))
    assert len(told) == len(list(read_trials(tmp_path))) == 1
