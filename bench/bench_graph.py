"""CPU cost of a turn: the LangGraph path, and the bulk driver against a plain loop.

Rows: CPU per turn of the graph (checkpointing off), sync and async, with a policy that answers at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from lamer_envs import make
from lamer_graph import create_lamer_agent
from lamer_graph.policy import Policy
from lamer_graph.types import Completion, Message, Sampling

TURNS = 20


class InstantPolicy(Policy):
    """Answers at once with an invalid action, so that every episode has all its turns."""

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        return Completion("<action>(9, 9)</action>", [1] * 40, [2, 3, 4], [-0.1] * 3, "policy-v0000", "stop")


def _turns(result: dict[str, Any]) -> int:
    return sum(len(episode["turns"]) for episode in result["episodes"])


def rows() -> list[dict[str, Any]]:
    """CPU microseconds a turn, with the environment's and the prompt's own work in it."""
    agent = create_lamer_agent(
        InstantPolicy(), make("minesweeper", size=4, mines=3), "none", max_turns=TURNS, prompt_style="compact"
    )
    agent.invoke({"task": {"seed": 0}})

    def sync() -> int:
        return sum(_turns(agent.invoke({"task": {"seed": seed}})) for seed in range(20))

    async def async_() -> int:
        return sum([_turns(await agent.ainvoke({"task": {"seed": seed}})) for seed in range(20)])

    out = []
    for name, run in (("async", lambda: asyncio.run(async_())), ("sync", sync)):
        best = float("inf")
        for _ in range(5):
            started = time.process_time()
            turns = run()
            best = min(best, (time.process_time() - started) / turns)
        out.append(
            {"name": f"LangGraph path, {name}: CPU per turn", "value": best * 1e6, "unit": "us", "target": "<= 300"}
        )
    return out


if __name__ == "__main__":
    for row in rows():
        print(row)
