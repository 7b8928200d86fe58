"""CPU cost of a turn of the LangGraph path, and of a bare nested graph of the same shape.

Rows: CPU per turn (checkpointing off), sync and async, with a policy that answers at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.bare_graph import bare_agent
from lamer_envs import make
from lamer_graph import create_lamer_agent
from lamer_graph.policies.base import Policy
from lamer_graph.types import Completion, Message, Sampling

TURNS = 20
TRIALS = 20
REPEATS = 5


class InstantPolicy(Policy):
    """Answers at once with an invalid action, so that every episode has all its turns."""

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        return Completion("<action>(9, 9)</action>", [1] * 40, [2, 3, 4], [-0.1] * 3, "policy-v0000", "stop")


def _turns(result: dict[str, Any]) -> int:
    return sum(len(episode["turns"]) for episode in result["episodes"])


def rows() -> list[dict[str, Any]]:
    """CPU microseconds a turn, with the environment's and the prompt's own work in it, beside a bare nested graph."""
    agent = create_lamer_agent(
        InstantPolicy(), make("minesweeper", size=4, mines=3), "none", max_turns=TURNS, prompt_style="compact"
    )

    def ours() -> int:
        return sum(_turns(agent.invoke({"task": {"seed": seed}})) for seed in range(TRIALS))

    async def ours_async() -> int:
        return sum([_turns(await agent.ainvoke({"task": {"seed": seed}})) for seed in range(TRIALS)])

    plain, plain_async = bare_agent(TURNS, asynchronous=False), bare_agent(TURNS, asynchronous=True)

    def bare() -> int:
        return sum(sum(plain.invoke({"seed": seed})["episodes"]) for seed in range(TRIALS))

    async def bare_async() -> int:
        return sum([sum((await plain_async.ainvoke({"seed": seed}))["episodes"]) for seed in range(TRIALS)])

    runs: dict[str, Callable[[], int]] = {
        "async": lambda: asyncio.run(ours_async()),
        "bare async": lambda: asyncio.run(bare_async()),
        "sync": ours,
        "bare sync": bare,
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(REPEATS):  # in turns, so that a busy moment falls on all of them
        for name, run in runs.items():
            started = time.process_time()
            turns = run()
            best[name] = min(best[name], (time.process_time() - started) / turns * 1e6)
    out = []
    for name in ("async", "sync"):
        mine, theirs = best[name], best[f"bare {name}"]
        out += [
            {"name": f"LangGraph path, {name}: CPU per turn", "value": mine, "unit": "us", "target": "<= 300"},
            {"name": f"bare nested graph, {name}: CPU per turn", "value": theirs, "unit": "us", "target": ""},
            {
                "name": f"LangGraph path, {name}, against the bare graph",
                "value": mine / theirs,
                "unit": "x",
                "target": "",
            },
        ]
    return out


if __name__ == "__main__":
    for row in rows():
        print(row)
