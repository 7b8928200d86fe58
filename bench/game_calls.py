"""The calls of real trials, written down to be made again: what a policy is asked in compact MineSweeper."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.policies.base import Policy
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


class Recorder(Policy):
    """Passes calls on and keeps them."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.calls: list[tuple[list[Message], Sampling, Completion]] = []

    async def window(self) -> int | None:
        return await self.policy.window()

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        completion = await self.policy.generate(messages, sampling)
        self.calls.append((list(messages), sampling, completion))
        return completion

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return await self.policy.count_tokens(messages)


async def recorded(policy: Policy, tasks: int) -> list[tuple[list[Message], Sampling, Completion]]:
    """Every call of `tasks` trials."""
    recorder = Recorder(policy)
    with tempfile.TemporaryDirectory() as folder:
        await collect(config(tasks), recorder, Path(folder) / "run", concurrency=64)
    return recorder.calls
