"""ALFWorld on one core: resets, commands with their admissible sets, and the command rate against the real TextWorld.

Commands are random play over whole episodes of drawn households: `admissible`, a choice, `step` with its page. The
comparison with TextWorld plays the same households with the same choices in the same run; it needs the extra `alfworld`
and is left out without it.
"""

from __future__ import annotations

import random
import time
from typing import Any

from bench import row
from lamer_envs import Env, EnvParameterError, make

ROUNDS = 3
SECONDS = 0.8
TURNS = 10
TEXTWORLD_EPISODES = 6


def resets_per_second(env: Env) -> float:
    """Best of ROUNDS; every reset draws a household that was not drawn before."""
    best, seed = 0.0, 0
    for _ in range(ROUNDS):
        first, started = seed, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < SECONDS:
            for _ in range(100):
                env.reset(seed)
                seed += 1
        best = max(best, (seed - first) / elapsed)
    return best


def play(env: Env, state: dict[str, Any], seed: int) -> int:
    """Up to TURNS random commands from a state; how many they were."""
    rng = random.Random(seed)
    for turn in range(TURNS):
        step = env.step(state, rng.choice(sorted(env.admissible(state))))
        state = step.state
        if step.done:
            return turn + 1
    return TURNS


def commands_per_second(env: Env) -> float:
    """Best of ROUNDS, the resets not counted."""
    best = 0.0
    for number in range(ROUNDS):
        states = [env.reset(seed) for seed in range(number * 400, number * 400 + 400)]
        done, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < SECONDS:
            done += sum(play(env, state, seed) for seed, state in enumerate(states[:100]))
            states = states[100:] + states[:100]
        best = max(best, done / elapsed)
    return best


def textworld_rates() -> tuple[float, float] | None:
    """(ours, TextWorld's) commands a second on the same episodes, None where TextWorld is not installed."""
    try:
        original = make("alfworld", engine="textworld")
    except EnvParameterError:
        return None
    rates = []
    for env, repeats in ((make("alfworld"), 50), (original, 1)):
        spent, done = 0.0, 0
        for seed in range(TEXTWORLD_EPISODES):
            state = env.reset(seed)
            started = time.perf_counter()
            done += sum(play(env, state, seed) for _ in range(repeats))
            spent += time.perf_counter() - started
        rates.append(done / spent)
    return rates[0], rates[1]


def rows() -> list[dict[str, Any]]:
    env = make("alfworld")
    each = "with the admissible set of each turn"
    table = [
        row("alfworld resets", resets_per_second(env), "1/s", ">= 2000"),
        row("alfworld commands", commands_per_second(env), "1/s", ">= 10000", each),
    ]
    if (rates := textworld_rates()) is not None:
        ours, theirs = rates
        table += [
            row("TextWorld commands", theirs, "1/s", note="same episodes"),
            row("alfworld over TextWorld", ours / theirs, "x", ">= 500"),
        ]
    return table
