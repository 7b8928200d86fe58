"""WebShop: steps a second, search latency, index building and memory, on one core.

The steps are those of the weak player, recorded first and then played again with an empty search cache, so the rate is
the environment's alone. Indexes are built into empty folders.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from bench import row
from lamer_envs.base import State
from lamer_envs.webshop.catalogue import Catalogue, GeneratedCatalogue
from lamer_envs.webshop.env import Webshop
from lamer_envs.webshop.official import OfficialCatalogue
from lamer_envs.webshop.search import CACHE_VARIABLE, build_index, open_index
from lamer_envs.webshop.words import keywords

LARGE = 100_000


def recorded(env: Webshop, seeds: range) -> list[tuple[State, list[str]]]:
    """Start states and actions of the weak player."""
    rng, found = random.Random(seeds.start), []
    for seed in seeds:
        start = state = env.reset(seed)
        actions: list[str] = []
        for _ in range(env.max_turns):
            actions.append(env.weak(state, rng))
            step = env.step(state, actions[-1])
            state = step.state
            if step.done:
                break
        found.append((start, actions))
    return found


def steps_a_second(env: Webshop, episodes: list[tuple[State, list[str]]]) -> float:
    env.shop.index.search.cache_clear()
    began = time.perf_counter()
    for start, actions in episodes:
        state = start
        for action in actions:
            state = env.step(state, action).state
    return sum(len(actions) for _, actions in episodes) / (time.perf_counter() - began)


def trial_turns(number: int) -> int:
    """Turns of ten episodes in an environment of its own, as a thread of many plays them."""
    return sum(len(actions) for _, actions in recorded(Webshop(), range(10 * number, 10 * number + 10)))


def search_ms(env: Webshop, queries: list[str]) -> list[float]:
    taken = []
    for query in queries:
        began = time.perf_counter()
        env.shop.search(query)
        taken.append(1e3 * (time.perf_counter() - began))
    return sorted(taken)


def build_seconds(catalogue: Catalogue, folder: Path) -> float:
    began = time.perf_counter()
    build_index(catalogue, folder)
    return time.perf_counter() - began


def peak_mb() -> float:
    """Largest resident memory of this process so far (kilobytes on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def rows() -> list[dict[str, Any]]:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = folder
        small = Webshop()
        episodes = recorded(small, range(1500))
        rate = max(steps_a_second(small, episodes) for _ in range(3))
        with ThreadPoolExecutor(64) as pool:
            began = time.perf_counter()
            turns = sum(pool.map(trial_turns, range(64)))
            together = turns / (time.perf_counter() - began)

        built = build_seconds(GeneratedCatalogue(LARGE), Path(tempfile.mkdtemp(dir=folder)))
        large = Webshop(LARGE)
        large.shop.search("warm up")
        began = time.perf_counter()
        open_index(large.shop.catalogue)
        opened = time.perf_counter() - began
        queries = [" ".join(keywords(large.goal(large.reset(seed))["instruction_text"])) for seed in range(1000)]
        taken = search_ms(large, queries)
        large_rate = steps_a_second(large, recorded(large, range(300)))
        peak = peak_mb()

        kept = OfficialCatalogue([large.shop.catalogue.product(at) for at in range(LARGE)])
        indexed = min(build_seconds(kept, Path(tempfile.mkdtemp(dir=folder))) for _ in range(2))
        kept_peak = peak_mb()
    return [
        row("webshop, 1,000 products: steps", rate, "1/s", ">= 3000", "weak player, observations included"),
        row("webshop, 64 concurrent trials, one index", together, "1/s", "", "threads; choosing the actions included"),
        row("webshop, 100,000 products: steps", large_rate, "1/s"),
        row("webshop, 100,000 products: search p50", median(taken), "ms", "<= 1", "words of the instruction, top 50"),
        row("webshop, 100,000 products: search p99", taken[len(taken) * 99 // 100], "ms"),
        row("webshop, 100,000 products: build index", indexed, "s", "<= 5", "of products that are in memory"),
        row("webshop, 100,000 products: generate and index", built, "s"),
        row("webshop, 100,000 products: open index", 1e3 * opened, "ms", "", "what every further process does"),
        row("webshop, 100,000 products: peak memory", peak, "MB", "<= 1500", "generating and indexing included"),
        row("webshop, 100,000 products held as data from files are: peak memory", kept_peak, "MB", "<= 1500"),
    ]
