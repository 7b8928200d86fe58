"""CPU cost of a turn of the LangGraph path, and of a bare nested graph of the same shape.

Rows: CPU per turn (checkpointing off), sync and async, with a policy that answers at once: the least of many short
rounds. Ours against the bare one: the median over rounds that follow each other, so that a busy machine slows both.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench import row
from bench.bare_graph import bare_agent
from lamer_envs import make
from lamer_graph import create_lamer_agent
from lamer_graph.policies.base import Policy
from lamer_graph.types import Completion, Message, Sampling

TURNS = 20
TRIALS = 2
ROUNDS = 40
TARGETS = {"async": 1.2, "sync": 1.35}


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

    spent: dict[str, list[float]] = {}
    with asyncio.Runner() as runner:
        runs: dict[str, Callable[[], int]] = {
            "async": lambda: runner.run(ours_async()),
            "bare async": lambda: runner.run(bare_async()),
            "sync": ours,
            "bare sync": bare,
        }
        for _ in range(ROUNDS):
            for name, run in runs.items():
                started = time.process_time()
                turns = run()
                spent.setdefault(name, []).append((time.process_time() - started) / turns * 1e6)
    out = []
    for name, target in TARGETS.items():
        mine, theirs = spent[name], spent[f"bare {name}"]
        against = statistics.median(one / other for one, other in zip(mine, theirs, strict=True))
        out += [
            row(f"LangGraph path, {name}: CPU per turn", min(mine), "us", "<= 300"),
            row(f"bare nested graph, {name}: CPU per turn", min(theirs), "us"),
            row(f"LangGraph path, {name}, against the bare graph", against, "x", f"<= {target}"),
        ]
    return out
