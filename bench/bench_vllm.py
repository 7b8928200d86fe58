"""Requests per second against one vLLM: OpenAIPolicy and `collect` beside a bare AsyncOpenAI loop, in turns.

All three make the same calls, those of recorded trials, 64 at a time. On a machine where vLLM and its clients share the
cores, a client's own CPU time is taken from the server, so the ratio shows both.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.bare_openai import bare
from bench.game_calls import ENV, config, policy_folder, recorded

CONCURRENCY = 64
TASKS = 80
REPEATS = 3


async def _policy(policy: Any, calls: list[Any]) -> tuple[float, float]:
    jobs = iter(calls)

    async def caller() -> None:
        for messages, sampling, _ in jobs:
            await policy.generate(messages, sampling)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return len(calls) / seconds, cpu / len(calls) * 1e3


async def _collect(policy: Any, seed: int) -> float:
    from lamer_graph.collection.collect import collect

    with tempfile.TemporaryDirectory() as folder:
        run = config(TASKS).model_copy(update={"seed": seed})
        done = await collect(run, policy, Path(folder) / "run", concurrency=CONCURRENCY)
    return done.calls / done.seconds


async def _measure(server: Any) -> list[dict[str, Any]]:
    policy = server.policy()
    calls = await recorded(policy, TASKS)
    prompts = [messages for messages, _, _ in calls]
    limits = [sampling.max_tokens for _, sampling, _ in calls]
    theirs, ours, collected = [], [], []
    for repeat in range(REPEATS):
        theirs.append(await bare(server.base_url, server.model_name, prompts, limits, CONCURRENCY))
        ours.append(await _policy(policy, calls))
        collected.append(await _collect(policy, repeat))
    await policy.aclose()
    base = median(rate for rate, _ in theirs)
    made = median(rate for rate, _ in ours)
    gathered = median(collected)
    note = f"{ENV}, {len(calls)} calls, {CONCURRENCY} at a time"

    def row(name: str, value: float, unit: str, target: str = "") -> dict[str, Any]:
        return {"name": name, "value": value, "unit": unit, "target": target, "note": note}

    return [
        row("vLLM: OpenAIPolicy / bare AsyncOpenAI", made / base, "ratio", ">= 0.85"),
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
