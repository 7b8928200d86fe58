"""A pretrained model (SmolLM2, standard prompts, MineSweeper 4x4-3): calls per second of LocalPolicy and of vLLM.

All make the same calls, the first ones of trials of random play: each trial's one after another, all trials at once,
answers as long as random play's. `prompt by prompt` is LocalPolicy as it was before it shared prefixes: every prompt is
computed whole, in transformers' own forward pass.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from statistics import mean
from typing import Any
from unittest.mock import patch

from bench import row
from bench.real_play import ENV, TRIALS, model_folder, skipped, trials

TASKS, PLAYED = 4, 200
"""Tasks, and more calls of each than its trials have."""
CALLS = 10
"""Of each trial, at most."""


def _asked(trial: dict[str, Any]) -> list[dict[str, Any]]:
    """A trial's calls in their order."""
    calls: list[dict[str, Any]] = []
    reflections = {made["episode"]: made["call"] for made in trial["reflections"]}
    for number, episode in enumerate(trial["episodes"]):
        calls += [turn["call"] for turn in episode["turns"]]
        calls += [reflections[number]] if number in reflections else []
    return calls[:CALLS]


async def _made_again(policy: Any, asked: list[list[dict[str, Any]]]) -> float:
    """Calls per second."""
    from lamer_graph.types import Sampling

    async def trial(number: int, calls: list[dict[str, Any]]) -> None:
        for turn, call in enumerate(calls):
            sampling = Sampling(max_tokens=len(call["token_ids"]), seed=100 * number + turn)
            await policy.generate(call["messages"], sampling)

    started = time.perf_counter()
    await asyncio.gather(*(trial(number, calls) for number, calls in enumerate(asked)))
    return sum(map(len, asked)) / (time.perf_counter() - started)


@contextmanager
def _prompt_by_prompt() -> Iterator[None]:
    with (
        patch("lamer_graph.policies.dense.supports", lambda model, **how: False),
        patch("lamer_graph.policies.engine.grouped", lambda model: nullcontext()),
    ):
        yield


def _here(folder: Any, asked: list[list[dict[str, Any]]], **options: Any) -> tuple[float, float]:
    """Calls per second of a LocalPolicy, and the share of the prompts' tokens that it found."""
    from lamer_graph.policies.local import LocalPolicy

    policy = LocalPolicy(folder, **options)
    rate = asyncio.run(_made_again(policy, asked))
    found = 0 if policy.prefixes is None else policy.prefixes.reused
    policy.close()
    return rate, found / sum(len(call["prompt_token_ids"]) for calls in asked for call in calls)


def _served(folder: Any, asked: list[list[dict[str, Any]]]) -> float:
    from lamer_graph.serving.vllm import VllmServer

    async def measure(server: Any) -> float:
        policy = server.policy()
        await _made_again(policy, [calls[:1] for calls in asked[:2]])
        rate = await _made_again(policy, asked)
        await policy.aclose()
        return rate

    with VllmServer(folder, max_adapters=0) as server:
        return asyncio.run(measure(server))


def rows() -> list[dict[str, Any]]:
    folder = model_folder()
    if folder is None:
        return skipped()
    from lamer_graph.policies.loading import multiplies_bfloat16
    from lamer_graph.serving.vllm import vllm_flavour

    asked = [_asked(trial) for trial in trials(folder, TASKS * PLAYED)[: TASKS * TRIALS]]
    calls = [call for one in asked for call in one]
    shared, found = _here(folder, asked)
    exact, _ = _here(folder, asked, deterministic=True)
    with _prompt_by_prompt():
        before, _ = _here(folder, asked, share_prefixes=False)
    whole, _ = _here(folder, asked, share_prefixes=False)
    note = (
        f"{folder.name}, {ENV}, {len(asked)} trials at once, {len(calls)} calls, "
        f"{mean(len(call['prompt_token_ids']) for call in calls):.0f} tokens in, {found:.0%} of them found, "
        f"{mean(len(call['token_ids']) for call in calls):.1f} out"
    )
    made = [
        row("SmolLM2, LocalPolicy: shared prefixes / prompt by prompt", shared / before, "x", ">= 5", note),
        row("SmolLM2, LocalPolicy: shared prefixes / the same pass, none shared", shared / whole, "x"),
        row("SmolLM2, LocalPolicy: calls, shared prefixes", shared, "1/s"),
        row("SmolLM2, LocalPolicy: calls, shared prefixes, deterministic (one thread)", exact, "1/s"),
        row("SmolLM2, LocalPolicy: calls, prompt by prompt", before, "1/s"),
    ]
    if multiplies_bfloat16():
        brief, _ = _here(folder, asked, dtype="bfloat16")
        made.append(row("SmolLM2, LocalPolicy: bfloat16 / float32", brief / shared, "x"))
    if vllm_flavour() is not None:
        made.append(row("SmolLM2, vLLM: calls", _served(folder, asked), "1/s"))
    return made
