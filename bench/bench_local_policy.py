"""Calls per second of LocalPolicy on the calls of real trials: alone, and through `collect` with logging.

The shipped MineSweeper policy answers; `alone` makes the recorded calls of trials again, 128 callers at a time.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from bench.game_calls import ENV, config, policy_folder, recorded

CALLERS = 128
TASKS = 400
REPEATS = 3


async def _alone(policy: Any, calls: list[Any]) -> tuple[float, float]:
    """Calls per wall second, and CPU milliseconds a call on all threads (which other processes disturb less)."""
    jobs = iter(calls)

    async def caller() -> None:
        for messages, sampling, _ in jobs:
            await policy.generate(messages, sampling)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return len(calls) / (time.perf_counter() - started), (time.process_time() - cpu) / len(calls) * 1e3


async def _collect(policy: Any) -> float:
    from lamer_graph.collection.collect import collect

    with tempfile.TemporaryDirectory() as folder:
        done = await collect(config(TASKS), policy, Path(folder) / "run", concurrency=CALLERS)
    return done.calls / done.seconds


async def _measure() -> list[dict[str, Any]]:
    from lamer_graph.policies.local import LocalPolicy

    policy = LocalPolicy(policy_folder())
    exact = LocalPolicy(policy_folder(), deterministic=True)
    calls = await recorded(policy, TASKS)
    shape = (
        f"{ENV}, {mean(len(done.prompt_token_ids) for _, _, done in calls):.0f} tokens in, "
        f"{mean(len(done.token_ids) for _, _, done in calls):.1f} out, {CALLERS} callers"
    )
    alone = [await _alone(policy, calls) for _ in range(REPEATS)]
    through = max([await _collect(policy) for _ in range(REPEATS)])
    deterministic, _ = await _alone(exact, calls)
    policy.close()
    exact.close()

    def row(name: str, value: float, unit: str, target: str = "") -> dict[str, Any]:
        return {"name": f"LocalPolicy, {name}", "value": value, "unit": unit, "target": target, "note": shape}

    return [
        row("calls alone", max(rate for rate, _ in alone), "1/s", ">= 1200"),
        row("calls alone, CPU a call", min(cpu for _, cpu in alone), "ms"),
        row("calls through collect", through, "1/s", ">= 600"),
        row("calls alone, deterministic", deterministic, "1/s"),
    ]


def rows() -> list[dict[str, Any]]:
    return asyncio.run(_measure())
