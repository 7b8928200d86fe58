"""The baseline of the collection bench: the loop that a user would write, with nothing of ours but the environment.

128 trials at once, a policy that answers after 20 ms, three episodes each, a JSON line with fsync per trial.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from pathlib import Path

from lamer_envs import make

CONCURRENCY = 128
DELAY = 0.020


async def plain(folder: Path, trials: int) -> tuple[int, float, float]:
    """Turns, wall seconds and CPU seconds of the baseline."""
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
