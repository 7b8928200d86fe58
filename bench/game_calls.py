"""The calls of real trials, written down to be made again: what a policy is asked in compact MineSweeper."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.policies.base import Policy, Wrapped
from lamer_graph.policies.shipped import shipped_policy
from lamer_graph.types import Completion, Message, Sampling

ENV = "minesweeper:4x4-3"


def policy_folder() -> Path:
    """The shipped policy of `ENV`. Raises FileNotFoundError."""
    folder = shipped_policy(ENV)
    if folder is None:
        raise FileNotFoundError(f"no policy for {ENV} in examples/policies: make one with `lamer-graph warmup`")
    return folder


def config(tasks: int, contents: Any = "reflection") -> CollectConfig:
    return CollectConfig(env=ENV, tasks=tasks, contents=contents, prompt_style="compact", max_tokens=24)


Call = tuple[list[Message], Sampling, Completion]


class Recorder(Wrapped):
    """Passes calls on and keeps them."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.calls: list[Call] = []

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        completion = await self.policy.generate(messages, sampling)
        self.calls.append((list(messages), sampling, completion))
        return completion


async def recorded(policy: Policy, tasks: int) -> list[Call]:
    """Every call of `tasks` trials."""
    recorder = Recorder(policy)
    await collected(recorder, tasks, 64)
    return recorder.calls


async def collected(policy: Policy, tasks: int, concurrency: int, seed: int = 0) -> float:
    """Calls per second of `collect`."""
    with tempfile.TemporaryDirectory() as folder:
        run = config(tasks).model_copy(update={"seed": seed})
        done = await collect(run, policy, Path(folder) / "run", concurrency=concurrency)
    return done.calls / done.seconds


async def made_again(policy: Policy, calls: Sequence[Call], concurrency: int) -> tuple[float, float]:
    """Calls per wall second, and CPU milliseconds a call on all threads (which other processes disturb less)."""
    jobs = iter(calls)

    async def caller() -> None:
        for messages, sampling, _ in jobs:
            await policy.generate(messages, sampling)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return len(calls) / seconds, cpu / len(calls) * 1e3
