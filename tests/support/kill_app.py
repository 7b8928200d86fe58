"""Plays a checkpointed trial of an agent and kills itself with SIGKILL at a given call; run as a child by the tests.

    python kill_app.py DATABASE N     N: the call of the model (from 1) before whose answer it dies, 0 for never
Resumes if the thread already has a checkpoint. Prints what came of it, and how many calls this process made, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.checkpoint.sqlite import SqliteSaver

from agents import QUESTION, agent_of, calling, graded, reviews
from lamer_graph import MemoryConfig, RunLog, with_retries
from lamer_graph.runlog import read_trials

CONFIG = {"configurable": {"thread_id": "t"}}


def main(database: str, fatal: int) -> None:
    made = 0

    def answer(messages: Sequence[BaseMessage]) -> AIMessage:
        """Two searches, then an answer, each with tokens that say what it answers."""
        nonlocal made
        made += 1
        if made == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        tools = sum(message.type == "tool" for message in messages)
        if reviews(messages):
            said = AIMessage("<remark>The code word is blue.</remark>")
        elif tools < 2:
            said = calling("search", query=f"code {tools}")
        else:
            said = AIMessage("blue" if "The code word is blue" in messages[0].text else "red")
        size = sum(len(message.text) for message in messages)
        said.response_metadata["lamer"] = {
            "prompt_token_ids": [size],
            "token_ids": [tools, size],
            "logprobs": [-0.5, -1.0],
            "policy_version": "policy-v0001",
        }
        return said

    folder = Path(database).parent / "log"
    with SqliteSaver.from_conn_string(database) as saver, RunLog.create(folder, resume=True) as log:
        agent, model = agent_of(answer)
        app = with_retries(agent, grade=graded, reflect=model, memory=MemoryConfig("both"), checkpointer=saver, log=log)
        given = None if saver.get_tuple(CONFIG) else QUESTION
        result = app.invoke(given, CONFIG, durability="sync")
    (line,) = read_trials(folder)
    tokens = [turn["call"]["token_ids"] for episode in line["episodes"] for turn in episode["turns"]]
    tokens += [reflection["call"]["token_ids"] for reflection in line["reflections"]]
    said = [[message.text for message in attempt["messages"]] for attempt in result["attempts"]]
    print(json.dumps([result["success"], result["reflections"], said, tokens, line["texts"]], sort_keys=True))
    print(made, file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
