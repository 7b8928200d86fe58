"""The baseline of the vLLM bench: `openai.AsyncOpenAI` as its documentation shows it, with nothing of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from openai import AsyncOpenAI


async def bare(
    base_url: str, model: str, prompts: Sequence[Any], limits: Sequence[int], concurrency: int
) -> tuple[float, float]:
    """Requests/s and CPU milliseconds a request for one chat completion per prompt, its exact tokens included."""
    client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    jobs = iter(range(len(prompts)))

    async def caller() -> None:
        for job in jobs:
            answer: Any = await client.chat.completions.create(
                model=model,
                messages=prompts[job],
                temperature=1.0,
                max_tokens=limits[job],
                seed=job,
                logprobs=True,
                extra_body={"return_token_ids": True, "top_k": 0},
            )
            assert len(answer.choices[0].token_ids) == len(answer.choices[0].logprobs.content)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    await client.close()
    return len(prompts) / seconds, cpu / len(prompts) * 1e3
