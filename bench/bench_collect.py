"""Throughput of `collect` against a plain loop that does the same environment and logging work, interleaved.

The plain loop is the baseline a user would write: it imports nothing of ours but the environment. Both play the same
boards with a policy that answers after 20 ms, 128 trials at once, and write a JSON line per trial with fsync.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

CONCURRENCY = 128
DELAY = 0.020
TRIALS = 1_500
REPEATS = 3


async def plain(folder: Path, trials: int) -> tuple[int, float, float]:
    """Turns, wall seconds and CPU seconds of the baseline."""
    from lamer_envs import make

    env = make("minesweeper", size=4, mines=3)
    tasks = iter(range(trials))
    tag = re.compile(r"<action>(.*?)</action>", re.S)
    turns = 0
    with (folder / "plain.jsonl").open("wb") as file:

        async def policy(prompt: str, rng: random.Random) -> tuple[str, list[int], list[float]]:
            await asyncio.sleep(DELAY)
            return f"<action>({rng.randint(1, 4)}, {rng.randint(1, 4)})</action>", [5, 6, 7, 8], [-0.5] * 4

        async def worker() -> None:
            nonlocal turns
            for seed in tasks:
                rng, start, episodes = random.Random(seed), env.reset(seed), []
                for _ in range(3):
                    state, played, done, success = start, [], False, False
                    while not done and len(played) < env.max_turns:
                        observation = env.observe(state)
                        prompt = f"{env.rules}\n{observation}\nAct"
                        text, tokens, logprobs = await policy(prompt, rng)
                        found = tag.findall(text)
                        action = env.parse(found[-1]) if found else None
                        state, _, reward, done, success, valid = env.step(state, action or "")
                        turn = {"observation": observation, "action": action, "reward": reward, "valid": valid}
                        call = {"prompt_token_ids": [1] * 40, "token_ids": tokens, "logprobs": logprobs}
                        played.append({**turn, "prompt": prompt, "text": text, **call})
                    turns += len(played)
                    episodes.append({"turns": played, "success": success})
                    if success:
                        break
                file.write(json.dumps({"seed": seed, "episodes": episodes}).encode() + b"\n")
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())

        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
        return turns, time.perf_counter() - started, time.process_time() - cpu


def _policy() -> Any:
    from lamer_graph.policy import Policy
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
    from lamer_graph.collect import CollectConfig, collect

    config = CollectConfig(env="minesweeper:4x4-3", tasks=trials, contents="none", prompt_style="compact")
    started, cpu = time.perf_counter(), time.process_time()
    done = await collect(config, _policy(), folder / "run", concurrency=CONCURRENCY)
    return done.turns, time.perf_counter() - started, time.process_time() - cpu


async def memory_growth(folder: Path) -> tuple[float, float]:
    """Resident MiB after 1,000 and after 5,000 trials of one collection with reflection memory."""
    from lamer_graph.collect import CollectConfig, collect

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
        {"name": "plain asyncio loop (baseline)", "value": plain_rate, "unit": "turns/s", "target": ">= 4000"},
        {"name": "collect, 128 trials, 20 ms policy", "value": ours_rate, "unit": "turns/s", "target": ""},
        {"name": "collect / plain loop", "value": ours_rate / plain_rate, "unit": "x", "target": ">= 0.75"},
        {"name": "collect: CPU per turn above plain", "value": ours_cpu - plain_cpu, "unit": "us", "target": "<= 100"},
        {"name": "memory, trial 5,000 / trial 1,000", "value": late / early, "unit": "x", "target": "<= 1.10"},
    ]


if __name__ == "__main__":
    for row in rows():
        print(row)
