"""Writes that a trial does not wait for: gathered, acknowledged before the trial is logged, each failing for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lamer_envs import make
from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.runlog import read_trials
from lamer_graph.trial.driver import Played, play_trial, settled
from lamer_graph.trial.harness import make_harness
from lamer_graph.trial.write_behind import WriteBehind
from lamer_memory import ChromaMemory, InContextMemory, MemoryBackendError, MemoryConfig, MemoryRecord
from lamer_memory.recall import make_record, own_records
from scripted import ScriptedPolicy, random_player

SPACE = ("lamer",)


class Slow(InContextMemory):
    """Keeps what it is given for as long as the process lives; slow to acknowledge, and refuses some records."""

    persistent = True

    def __init__(self, refuses: str = "\0") -> None:
        super().__init__()
        self.refuses = refuses
        self.acknowledged: set[str] = set()
        self.batches: list[int] = []

    async def aput(self, namespace: tuple[str, ...], records: Sequence[MemoryRecord]) -> None:
        await asyncio.sleep(0.01)
        if any(self.refuses in record.key for record in records):
            raise MemoryBackendError(f"the slow store refuses {self.refuses}")
        self.put(namespace, records)
        self.acknowledged |= {record.key for record in records}

    async def aput_all(
        self, writes: Sequence[tuple[tuple[str, ...], Sequence[MemoryRecord]]]
    ) -> list[Exception | None]:
        self.batches.append(len(writes))
        return await super().aput_all(writes)


def harness(backend: Any, contents: Any = "both") -> Any:
    memory = MemoryConfig(contents, backend=backend)
    return make_harness(ScriptedPolicy(random_player), make("minesweeper:4x4-3"), memory, max_episodes=4)


async def both_ways(backend: Any, contents: Any, seed: int) -> tuple[Played, Played]:
    h = harness(backend, contents)
    waited = await play_trial(h, {"seed": seed}, namespace=SPACE, unique="waited")
    behind = WriteBehind(backend, linger=0.0)
    gone_on = await settled(await play_trial(h, {"seed": seed}, namespace=SPACE, unique="behind", behind=behind))
    return waited, gone_on


def calls_of(played: Played) -> list[Any]:
    made = [turn["call"]["messages"] for episode in played.state["episodes"] for turn in episode["turns"]]
    return made + [call["call"]["messages"] for call in played.state["reflection_calls"]]


@pytest.mark.parametrize("contents", ["trajectory", "reflection", "both"])
def test_what_a_trial_knows_of_itself_is_what_the_store_would_have_told_it(tmp_path: Path, contents: str) -> None:
    memory = ChromaMemory(tmp_path / "memory")
    recalled = 0
    for seed in range(4):
        waited, gone_on = asyncio.run(both_ways(memory, contents, seed))
        assert calls_of(waited) == calls_of(gone_on)
        assert waited.error is gone_on.error is None
        config = MemoryConfig(contents, backend=memory)  # type: ignore[arg-type]
        trial_id, episodes = gone_on.state["trial_id"], len(gone_on.state["episodes"])
        stored = own_records(config, memory, (*SPACE, trial_id), trial_id, episodes - 1)
        assert [record.to_json() for record in stored] == gone_on.state["memory"]
        recalled += len(stored)
    assert recalled > 4
    memory.close()


def test_a_trial_is_logged_only_when_its_records_are_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Slow()
    monkeypatch.setattr("lamer_graph.collection.run_memory._open", lambda config, folder: store)
    config = CollectConfig(env="minesweeper:4x4-3", tasks=20, contents="both", backend="chroma")
    early: list[str] = []

    def logged(line: Any) -> None:
        early.extend(key for write in line["memory_writes"] for key in write["keys"] if key not in store.acknowledged)

    done = asyncio.run(
        collect(config, ScriptedPolicy(random_player), tmp_path / "run", concurrency=20, on_trial=logged)
    )
    assert done.finished == 20
    assert early == []
    assert len(store.acknowledged) > 20
    assert max(store.batches) > 1


def test_a_write_that_fails_ends_its_own_trial_and_is_not_among_its_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CollectConfig(env="minesweeper:4x4-3", tasks=6, contents="trajectory", backend="chroma")

    def play(store: Slow, name: str) -> dict[str, Any]:
        monkeypatch.setattr("lamer_graph.collection.run_memory._open", lambda config, folder: store)
        asyncio.run(collect(config, ScriptedPolicy(random_player), tmp_path / name, concurrency=6))
        return {trial["trial_id"]: trial for trial in read_trials(tmp_path / name)}

    well = play(Slow(), "well")
    victim = next(name for name, trial in well.items() if trial["memory_writes"])
    trials = play(Slow(refuses=victim), "refused")
    assert trials.keys() == well.keys()
    assert [name for name, trial in trials.items() if trial["error"] is not None] == [victim]
    assert trials[victim]["error"]["type"] == "MemoryBackendError"
    assert trials[victim]["memory_writes"] == []


def test_writes_of_many_trials_go_out_together() -> None:
    store = Slow(refuses="bad")

    async def write() -> list[Any]:
        behind = WriteBehind(store, linger=0.02)
        names = [f"t{number}" for number in range(30)] + ["bad"]
        waits = [behind.put((name,), [make_record(name, "t", 0, "reflection", "x", False)]) for name in names]
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        await behind.put(("one",), [make_record("one", "t", 0, "reflection", "x", False)])
        await behind.aclose()
        return outcomes

    outcomes = asyncio.run(write())
    assert outcomes[:30] == [None] * 30
    assert isinstance(outcomes[30], MemoryBackendError)
    assert store.batches == [31, 1]


def test_in_a_hurry_nobody_waits_for_company() -> None:
    store = Slow()

    async def write() -> None:
        behind = WriteBehind(store, linger=3600)
        first = behind.put(("a",), [make_record("a", "t", 0, "reflection", "x", False)])
        await asyncio.sleep(0)
        behind.hurry()
        await asyncio.wait_for(first, 10)
        await asyncio.wait_for(behind.put(("a",), [make_record("b", "t", 0, "reflection", "x", False)]), 10)
        await behind.aclose()

    asyncio.run(write())
    assert store.batches == [1, 1]


def test_chroma_takes_many_puts_as_one_upsert_in_their_order(tmp_path: Path) -> None:
    memory = ChromaMemory(tmp_path / "memory")
    sizes: list[int] = []
    write = memory._writer._write

    def counted(rows: list[Any]) -> None:
        sizes.append(len(rows))
        write(rows)

    memory._writer._write = counted  # type: ignore[method-assign]
    writes = [
        ((f"n{number % 7}",), [make_record("t", "t", number, "reflection", f"{number}", False)]) for number in range(60)
    ]
    assert asyncio.run(memory.aput_all([*writes, (("n0",), [])])) == [None] * 61
    assert sizes == [60]
    for number in range(7):
        texts = [found.record.text for found in memory.search((f"n{number}",), limit=100)]
        assert texts == [str(n) for n in range(59, -1, -1) if n % 7 == number]
    memory.close()
