"""Chroma memory: what a trial waits for at 10,000 records, and what memory costs a collection.

Embedded, on disk, hashing embedder; each number is a median. `LAMER_BENCH_LARGE=1` adds 100,000 records (minutes).
`LAMER_BENCH_MEM0=PYTHON` names an interpreter that has mem0 and scikit-learn: the same records and queries then go
through mem0's Chroma path too, in this run, and its times stand beside ours as ratios (`bench/peer_mem0.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from bench import row
from bench.plain_loop import CONCURRENCY, DELAY
from lamer_memory import ChromaMemory, ChromaProcess, MemoryBackend, MemoryConfig, MemoryRecord, make_record
from lamer_memory.base import record_key
from lamer_memory.ledger import settle
from lamer_memory.recall import own_records, similar_records
from lamer_memory.utility import Seen, Value

SHARED = ("bench",)
SMALL, LARGE = 10_000, 100_000
EPISODES = 2
K = 3
SAMPLES = 200
WRITTEN = 500
TRIALS = 1_000
ROUNDS = 5
WORDS = re.findall(
    r"\w+",
    "open the corner cells first then look at every number beside them push box along wall left right before because "
    "mine was there and lost so count closed neighbours twice never click where two may hide try the other side",
)
TASKS = MemoryConfig("reflection", scope="tasks", k=K)
VALUED = MemoryConfig("reflection", scope="tasks", k=K, select="ucb")


def lesson(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(20, 60)))


def trial_name(number: int) -> str:
    return f"minesweeper:6x6-3/{number // 8}#{number % 8}"


def record(number: int, rng: random.Random) -> MemoryRecord:
    trial, episode = divmod(number, EPISODES)
    name = trial_name(trial)
    worth = Value().with_outcomes([rng.random() for _ in range(4)], [rng.random() for _ in range(4)])
    text, won = lesson(rng), rng.random() < 0.3
    return make_record(name, name.partition("#")[0], episode, "reflection", text, won, worth.to_metadata())


def trial_key(number: int) -> str:
    return record_key(trial_name(number), 0, "reflection")


def median_ms(work: Iterable[Any], one: Callable[[Any], Any]) -> float:
    seconds = []
    for item in work:
        started = time.perf_counter()
        one(item)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3


def fill(memory: MemoryBackend, records: list[MemoryRecord]) -> float:
    """Records a second."""
    started = time.perf_counter()
    for first in range(0, len(records), 500):
        memory.put(SHARED, records[first : first + 500])
    return len(records) / (time.perf_counter() - started)


def measured(memory: MemoryBackend, count: int, rng: random.Random) -> dict[str, float]:
    """Medians at `count` records; what a trial of scope "tasks" does, own records and other tasks' in one namespace."""
    trials = [trial_name(rng.randrange(count // EPISODES)) for _ in range(SAMPLES)]
    found = own_records(TASKS, memory, SHARED, trials[0], EPISODES)
    assert len(found) == EPISODES, "a trial's own records are not all there"

    def query(text: str, config: MemoryConfig = TASKS) -> None:
        assert len(similar_records(config, memory, SHARED, "none#0", text, task_id="none")) == K

    def settled(number: int) -> None:
        seen = Seen(tuple(trial_key(rng.randrange(count // EPISODES)) for _ in range(K)), (), rng.random())
        settle(memory, SHARED, f"trial {number}", "none", seen)

    return {
        "recall": median_ms(trials, lambda name: own_records(TASKS, memory, SHARED, name, EPISODES)),
        "query": median_ms([lesson(rng) for _ in range(SAMPLES)], query),
        "valued": median_ms([lesson(rng) for _ in range(SAMPLES)], partial(query, config=VALUED)),
        "settled": median_ms(range(SAMPLES), settled),
        "upsert": median_ms(
            [record(count + number, rng) for number in range(SAMPLES)], lambda one: memory.put(SHARED, [one])
        ),
    }


def at_size(count: int, targets: dict[str, str]) -> list[dict[str, Any]]:
    rng = random.Random(count)
    with tempfile.TemporaryDirectory() as folder:
        memory = ChromaMemory(folder)
        rate = fill(memory, [record(number, rng) for number in range(count)])
        result = measured(memory, count, rng)
        memory.close()
    names = {
        "recall": "a trial's own records",
        "query": f"{K} of other tasks",
        "valued": f"{K} of other tasks, by likeness and value",
        "settled": f"the values of {K} records, after a trial",
        "upsert": "upsert of one record",
    }
    return [
        row(f"Chroma, {count:,} records: {names[key]}", result[key], "ms", target) for key, target in targets.items()
    ] + [row(f"Chroma: filling {count:,} by 500", rate, "records/s")]


def stops() -> list[dict[str, Any]]:
    """How long an event loop stands still while a Chroma in its process, or in another, takes WRITTEN records: with
    vectors, and without, as a trial's own are kept."""
    rng = random.Random(3)
    records = [record(number, rng) for number in range(WRITTEN)]

    async def longest(memory: MemoryBackend) -> float:
        done = asyncio.create_task(memory.aput(SHARED, records))
        longest, last = 0.0, time.perf_counter()
        while not done.done():
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        await done
        return 1e3 * longest

    found = []
    for kind, embedder in product((ChromaMemory, ChromaProcess), ("hashing", None)):
        with tempfile.TemporaryDirectory() as folder:
            memory = kind(folder, embedder=embedder)
            memory.put(SHARED, records[:1])
            value = asyncio.run(longest(memory))
            memory.close()
        name = f"longest stop of the event loop while {kind.__name__} takes {WRITTEN} records"
        found.append(row(name + ("" if embedder else " without vectors"), value, "ms"))
    return found


# -- a collection -----------------------------------------------------------------------------------------------------


def _policy() -> Any:
    from lamer_graph.policies.base import Policy
    from lamer_graph.types import Completion

    class SlowPolicy(Policy):
        """Plays at random after 20 ms, and says something about it when asked to reflect."""

        async def generate(self, messages: Any, sampling: Any) -> Completion:
            await asyncio.sleep(DELAY)
            rng = random.Random(sampling.seed)
            text = f"<action>({rng.randint(1, 6)}, {rng.randint(1, 6)})</action><remark>{lesson(rng)}</remark>"
            return Completion(text, [1] * 40, [5, 6, 7, 8], [-0.5] * 4, "policy-v0000", "stop")

    return SlowPolicy()


def collection(contents: Literal["reflection", "both"], backend: str) -> float:
    """Wall seconds of playing and logging TRIALS trials, CONCURRENCY at once; without opening the store."""
    from lamer_graph.collection.collect import collect
    from lamer_graph.collection.config import CollectConfig

    config = CollectConfig(
        env="minesweeper", tasks=TRIALS, contents=contents, backend=backend, prompt_style="compact", max_tokens=64
    )
    with tempfile.TemporaryDirectory() as folder:
        done = asyncio.run(collect(config, _policy(), Path(folder, "run"), concurrency=CONCURRENCY))
    assert done.finished == TRIALS, done
    return done.seconds


def overhead() -> list[dict[str, Any]]:
    """Collections with records in RAM, in Chroma, and in Chroma without a process of its own, alternating; best of
    ROUNDS. The processor time is that of the process that plays, which other work on the machine hardly touches."""
    found: list[dict[str, Any]] = []
    note = f"{TRIALS} trials, {CONCURRENCY} at once, 20 ms policy"
    for contents in ("reflection", "both"):
        walls: dict[str, list[float]] = {"in context": [], "Chroma": [], "Chroma in the run's process": []}
        busy: dict[str, list[float]] = {name: [] for name in walls}
        for _ in range(ROUNDS):
            for name in walls:
                kept = ChromaMemory if name.endswith("process") else ChromaProcess
                with patch("lamer_graph.collection.run_memory.ChromaProcess", kept):
                    before = time.process_time()
                    walls[name].append(collection(contents, "in-context" if name == "in context" else "chroma"))
                    busy[name].append(time.process_time() - before)
        for unit, seconds in (("wall", walls), ("CPU", busy)):
            best = {name: min(times) for name, times in seconds.items()}
            for name in list(best)[1:]:
                target = "<= 1.05" if (unit, name) == ("wall", "Chroma") else ""
                label = f"collection with {contents}, {name} / in context"
                found.append(row(label, best[name] / best["in context"], f"x {unit}", target, note))
            found += [row(f"the same, {name}", best[name], f"s {unit}") for name in best]
    return found


# -- a peer -----------------------------------------------------------------------------------------------------------


def against_mem0(python: str) -> list[dict[str, Any]]:
    """Both on the same records and queries, one after the other."""
    rng = random.Random(7)
    records = [record(number, rng) for number in range(SMALL)]
    new = [record(SMALL + number, rng) for number in range(SAMPLES)]
    queries = [lesson(rng) for _ in range(SAMPLES)]
    trials = [trial_name(rng.randrange(SMALL // EPISODES)) for _ in range(SAMPLES)]

    def plain(one: MemoryRecord) -> dict[str, Any]:
        return {"text": one.text, "trial": one.metadata["trial_id"]}

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "work.json")
        work.write_text(
            json.dumps(
                {
                    "records": [plain(one) for one in records],
                    "new": [plain(one) for one in new],
                    "queries": queries,
                    "trials": trials,
                    "k": K,
                }
            )
        )
        peer = Path(folder, "peer")
        peer.mkdir()
        script = Path(__file__).with_name("peer_mem0.py")
        done = subprocess.run(
            [python, str(script), str(work), str(peer)], stdout=subprocess.PIPE, text=True, check=True
        )
        theirs = json.loads(done.stdout.splitlines()[-1])
        memory = ChromaMemory(Path(folder, "ours"))
        fill(memory, records)
        ours = {
            "recall_ms": median_ms(trials, lambda name: own_records(TASKS, memory, SHARED, name, EPISODES)),
            "query_ms": median_ms(queries, lambda text: memory.search(SHARED, query=text, limit=K)),
            "upsert_ms": median_ms(new, lambda one: memory.put(SHARED, [one])),
        }
        memory.close()
    found = []
    for key, name in {"recall_ms": "a trial's own records", "query_ms": "search", "upsert_ms": "one write"}.items():
        found.append(row(f"mem0 / ours: {name}", theirs[key] / ours[key], "x"))
        found += [row(f"mem0: {name}", theirs[key], "ms"), row(f"ours: {name}", ours[key], "ms")]
    return found


def rows() -> list[dict[str, Any]]:
    found = at_size(SMALL, {"recall": "<= 2", "upsert": "<= 8", "query": "<= 5", "valued": "<= 15", "settled": ""})
    if os.environ.get("LAMER_BENCH_LARGE") == "1":
        found += at_size(LARGE, {"recall": "", "upsert": "", "query": "<= 15", "valued": "<= 15", "settled": ""})
    found += stops()
    found += overhead()
    if python := os.environ.get("LAMER_BENCH_MEM0"):
        found += against_mem0(python)
    return found
