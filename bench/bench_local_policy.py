"""Calls per second of LocalPolicy on the calls of real trials: alone, and through `collect` with logging.

The shipped MineSweeper policy answers; `alone` makes the recorded calls of trials again, 128 callers at a time.
"""

from __future__ import annotations

import asyncio
from statistics import mean
from typing import Any

from bench import row
from bench.game_calls import ENV, collected, made_again, policy_folder, recorded

CALLERS = 128
TASKS = 400
REPEATS = 3


async def _measure() -> list[dict[str, Any]]:
    from lamer_graph.policies.local import LocalPolicy

    policy = LocalPolicy(policy_folder())
    exact = LocalPolicy(policy_folder(), deterministic=True)
    calls = await recorded(policy, TASKS)
    shape = (
        f"{ENV}, {mean(len(done.prompt_token_ids) for _, _, done in calls):.0f} tokens in, "
        f"{mean(len(done.token_ids) for _, _, done in calls):.1f} out, {CALLERS} callers"
    )
    alone = [await made_again(policy, calls, CALLERS) for _ in range(REPEATS)]
    through = max([await collected(policy, TASKS, CALLERS) for _ in range(REPEATS)])
    deterministic, _ = await made_again(exact, calls, CALLERS)
    policy.close()
    exact.close()
    return [
        row("LocalPolicy, calls alone", max(rate for rate, _ in alone), "1/s", ">= 1200", shape),
        row("LocalPolicy, calls alone, CPU a call", min(cpu for _, cpu in alone), "ms"),
        row("LocalPolicy, calls through collect", through, "1/s", ">= 600"),
        row("LocalPolicy, calls alone, deterministic", deterministic, "1/s"),
    ]


def rows() -> list[dict[str, Any]]:
    return asyncio.run(_measure())
