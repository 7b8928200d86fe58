"""Plays a checkpointed trial and kills itself with SIGKILL at a given point; run as a child process by the tests.

    python kill_agent.py DATABASE POINT STRATEGY    POINT: "act:N" (before the N-th action's answer), "reflect:N",
                                                    "remember:N" (after reflecting, before the record is written), or
                                                    "none"
Resumes if the thread already has a checkpoint. Prints the result, and what was logged of it, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver

from lamer_envs import make
from lamer_graph import create_lamer_agent
from lamer_graph.runlog import RunLog, read_trials
from lamer_graph.runlog.recording import TrialRecorder
from lamer_graph.types import Message, Sampling
from lamer_memory import InContextMemory, MemoryConfig, MemoryRecord
from scripted import DICE, ScriptedPolicy, is_reflection, planner, random_player

CONFIG = {"configurable": {"thread_id": "t"}}


def main(database: str, point: str, strategy: Any) -> None:
    where, _, number = point.partition(":")
    countdown = int(number or 0)

    def tick(kind: str) -> None:
        nonlocal countdown
        if kind == where:
            countdown -= 1
            if countdown == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        tick("reflect" if is_reflection(messages) else "act")
        return (planner if strategy == "plan" else random_player)(messages, sampling)

    class Memory(InContextMemory):
        def put(self, namespace: tuple[str, ...], records: Sequence[MemoryRecord]) -> None:
            tick("remember")
            super().put(namespace, records)

    folder = Path(database).parent / "log"
    with SqliteSaver.from_conn_string(database) as saver, RunLog.create(folder, {}, resume=True) as log:
        agent = create_lamer_agent(
            ScriptedPolicy(answer),
            make("minesweeper", size=4, mines=3),
            MemoryConfig("both", backend=Memory()),
            strategy=strategy,
            thoughts="shown" if strategy == "plan" else "hidden",
            sampling=DICE,
            checkpointer=saver,
        )
        begun = saver.get_tuple(CONFIG) is not None
        given = None if begun else {"task": {"seed": 11}}
        result = agent.invoke(given, CONFIG, context={"recorder": TrialRecorder(log)}, durability="sync")
    (line,) = read_trials(folder)
    made = [turn.pop("call") for episode in line["episodes"] for turn in episode["turns"]]
    made += [reflection.pop("call") for reflection in line["reflections"]]
    for call in made:
        del call["seconds"]  # all else of a call is the same whenever it is made
    print(json.dumps([result, line["texts"], line["episodes"], line["reflections"], made], sort_keys=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
