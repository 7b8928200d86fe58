"""Requests per second against one vLLM: OpenAIPolicy and `collect` beside a bare AsyncOpenAI loop, in turns.

All three make the same calls, those of recorded trials, 64 at a time. On a machine where vLLM and its clients share the
cores, a client's own CPU time is taken from the server, so the ratio shows both.
"""

from __future__ import annotations

import asyncio
from statistics import median
from typing import Any

from bench import row
from bench.bare_openai import bare
from bench.game_calls import ENV, collected, made_again, policy_folder, recorded

CONCURRENCY = 64
TASKS = 80
REPEATS = 3


async def _measure(server: Any) -> list[dict[str, Any]]:
    policy = server.policy()
    calls = await recorded(policy, TASKS)
    prompts = [messages for messages, _, _ in calls]
    limits = [sampling.max_tokens for _, sampling, _ in calls]
    theirs, ours, through = [], [], []
    for repeat in range(REPEATS):
        theirs.append(await bare(server.base_url, server.model_name, prompts, limits, CONCURRENCY))
        ours.append(await made_again(policy, calls, CONCURRENCY))
        through.append(await collected(policy, TASKS, CONCURRENCY, seed=repeat))
    await policy.aclose()
    base = median(rate for rate, _ in theirs)
    made = median(rate for rate, _ in ours)
    gathered = median(through)
    note = f"{ENV}, {len(calls)} calls, {CONCURRENCY} at a time"
    return [
        row("vLLM: OpenAIPolicy / bare AsyncOpenAI", made / base, "ratio", ">= 0.85", note),
        row("vLLM: collect / bare AsyncOpenAI", gathered / base, "ratio", ">= 0.85"),
        row("vLLM: bare AsyncOpenAI", base, "1/s"),
        row("vLLM: OpenAIPolicy", made, "1/s"),
        row("vLLM: collect", gathered, "1/s"),
        row("vLLM: bare AsyncOpenAI, client CPU a call", median(cpu for _, cpu in theirs), "ms"),
        row("vLLM: OpenAIPolicy, client CPU a call", median(cpu for _, cpu in ours), "ms"),
    ]


def rows() -> list[dict[str, Any]]:
    from lamer_graph.serving.vllm import VllmServer, vllm_flavour

    if vllm_flavour() is None:
        return []
    with VllmServer(policy_folder(), max_adapters=0) as server:
        return asyncio.run(_measure(server))
