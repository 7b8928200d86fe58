"""Throughput of `collect` against a plain loop that does the same environment and logging work, interleaved.

The plain loop is the baseline a user would write: it imports nothing of ours but the environment. Both play the same
boards with a policy that answers after 20 ms, 128 trials at once, and write a JSON line per trial with fsync.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench import row
from bench.plain_loop import CONCURRENCY, DELAY, plain

TRIALS = 1_500
REPEATS = 3


def _policy() -> Any:
    from lamer_graph.policies.base import Policy
    from lamer_graph.types import Completion

    class SlowPolicy(Policy):
        """Plays at random after 20 ms."""

        async def generate(self, messages: Any, sampling: Any) -> Completion:
            await asyncio.sleep(DELAY)
            rng = random.Random(sampling.seed)
            text = f"<action>({rng.randint(1, 4)}, {rng.randint(1, 4)})</action>"
            return Completion(text, [1] * 40, [5, 6, 7, 8], [-0.5] * 4, "policy-v0000", "stop")

    return SlowPolicy()


async def ours(folder: Path, trials: int) -> tuple[int, float, float]:
    """Turns, wall seconds and CPU seconds of `collect`."""
    from lamer_graph.collection.collect import collect
    from lamer_graph.collection.config import CollectConfig

    config = CollectConfig(env="minesweeper:4x4-3", tasks=trials, contents="none", prompt_style="compact")
    started, cpu = time.perf_counter(), time.process_time()
    done = await collect(config, _policy(), folder / "run", concurrency=CONCURRENCY)
    return done.turns, time.perf_counter() - started, time.process_time() - cpu


async def memory_growth(folder: Path) -> tuple[float, float]:
    """Resident MiB after 1,000 and after 5,000 trials of one collection with reflection memory."""
    from lamer_graph.collection.collect import collect
    from lamer_graph.collection.config import CollectConfig

    seen: list[float] = []
    count = 0
    process = psutil.Process()

    def on_trial(line: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count in (1_000, 5_000):
            seen.append(process.memory_info().rss / 2**20)

    config = CollectConfig(env="minesweeper:4x4-3", tasks=5_000, contents="both", prompt_style="compact")
    await collect(config, _policy(), folder / "flat", concurrency=CONCURRENCY, on_trial=on_trial)
    return seen[0], seen[1]


def rows() -> list[dict[str, Any]]:
    """Ratios from interleaved runs, and absolute rates."""
    rates: dict[str, list[tuple[float, float]]] = {"plain": [], "ours": []}
    for _ in range(REPEATS):
        for name, run in (("plain", plain), ("ours", ours)):
            with tempfile.TemporaryDirectory() as folder:
                turns, wall, cpu = asyncio.run(run(Path(folder), TRIALS))
            rates[name].append((turns / wall, cpu / turns * 1e6))
    plain_rate, ours_rate = (max(r for r, _ in rates[n]) for n in ("plain", "ours"))
    plain_cpu, ours_cpu = (min(c for _, c in rates[n]) for n in ("plain", "ours"))
    with tempfile.TemporaryDirectory() as folder:
        early, late = asyncio.run(memory_growth(Path(folder)))
    return [
        row("plain asyncio loop (baseline)", plain_rate, "turns/s", ">= 4000"),
        row("collect, 128 trials, 20 ms policy", ours_rate, "turns/s"),
        row("collect / plain loop", ours_rate / plain_rate, "x", ">= 0.75"),
        row("collect: CPU per turn above plain", ours_cpu - plain_cpu, "us", "<= 100"),
        row("memory, trial 5,000 / trial 1,000", late / early, "x", "<= 1.10"),
    ]
