"""Throughput of the environments on one core: resets and turns of random play, and levels drawn and solved.

Each number is the best of three rounds of about a second. Turns are whole `step` calls with their observations; every
episode starts from a reset of another seed, and Sokoban's turns take three moves.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from bench import row
from lamer_envs import Env, make

ROUNDS = 3
SECONDS = 0.8


def rate(batch: Callable[[int], int]) -> float:
    """Things a second, best of ROUNDS; `batch(first_seed)` does some and says how many."""
    best, seed = 0.0, 0
    for _ in range(ROUNDS):
        done, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < SECONDS:
            done += batch(seed)
            seed += 100
        best = max(best, done / elapsed)
    return best


def minesweeper(env: Env, first: int) -> int:
    """Resets and turns of 100 episodes that open random closed cells."""
    rng, count = random.Random(first), 0
    for seed in range(first, first + 100):
        state = env.reset(seed)
        count += 1
        for _ in range(env.max_turns):
            step = env.step(state, rng.choice(env.admissible(state)))
            state = step.state
            count += 1
            if step.done:
                break
    return count


def sokoban_turns(env: Env) -> float:
    """Turns of random play a second; the levels are drawn before the clock starts."""
    rng = random.Random(1)
    states = [env.reset(seed) for seed in range(2000)]
    actions = [", ".join(rng.choices(["up", "down", "left", "right"], k=3)) for _ in range(1000)]

    def batch(first: int) -> int:
        count = 0
        for state in states[first % 2000 : first % 2000 + 100]:
            for _ in range(env.max_turns):
                step = env.step(state, rng.choice(actions))
                state = step.state
                count += 1
                if step.done:
                    break
        return count

    return rate(batch)


def levels(env: Env) -> float:
    """Solved levels drawn a second."""
    step = 100 if env.params["boxes"] < 4 else 5

    def batch(first: int) -> int:
        for seed in range(first, first + step):
            env.reset(seed)
        return step

    return rate(batch)


def rows() -> list[dict[str, Any]]:
    mines, two, five = make("minesweeper"), make("sokoban"), make("sokoban", boxes=5)
    return [
        row(f"{mines.spec}: resets and turns", rate(lambda first: minesweeper(mines, first)), "1/s", ">= 20000"),
        row(f"{two.spec}: solved levels", levels(two), "1/s", ">= 1000"),
        row(f"{two.spec}: turns", sokoban_turns(two), "1/s", ">= 20000"),
        row(f"{five.spec}: solved levels", levels(five), "1/s", ">= 20"),
    ]
