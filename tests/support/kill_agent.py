"""Plays a checkpointed trial and kills itself with SIGKILL at a given point; run as a child process by the tests.

    python kill_agent.py DATABASE POINT     POINT: "act:N" (before the N-th action's answer), "reflect:N",
                                            "remember:N" (after reflecting, before the record is written), or "none"
Resumes if the thread already has a checkpoint. Prints the result as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence

from langgraph.checkpoint.sqlite import SqliteSaver

from lamer_envs import make
from lamer_graph import create_lamer_agent
from lamer_graph.types import Message, Sampling
from lamer_memory import InContextMemory, MemoryConfig, MemoryRecord
from scripted import ScriptedPolicy, is_reflection, random_player

CONFIG = {"configurable": {"thread_id": "t"}}


def main(database: str, point: str) -> None:
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
        return random_player(messages, sampling)

    class Memory(InContextMemory):
        def put(self, namespace: tuple[str, ...], records: Sequence[MemoryRecord]) -> None:
            tick("remember")
            super().put(namespace, records)

    with SqliteSaver.from_conn_string(database) as saver:
        agent = create_lamer_agent(
            ScriptedPolicy(answer),
            make("minesweeper", size=4, mines=3),
            MemoryConfig("both", backend=Memory()),
            checkpointer=saver,
        )
        begun = saver.get_tuple(CONFIG) is not None
        result = agent.invoke(None if begun else {"task": {"seed": 11}}, CONFIG, durability="sync")
    print(json.dumps(result, sort_keys=True))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
