"""Runs of `collect` with a memory, and what their trials saw and wrote."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from lamer_graph.collection.collect import CollectSummary, collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.collection.run_memory import Heritage
from lamer_graph.runlog import read_trials
from lamer_memory import ChromaMemory
from lamer_memory.hygiene import all_namespaces, read_all
from scripted import ScriptedPolicy, random_player

ALL = Heritage(budget=1_000, near=None)


def config(**changes: Any) -> CollectConfig:
    return CollectConfig(**{"env": "minesweeper:4x4-3", "tasks": 12, "backend": "chroma", **changes})


def run(settings: CollectConfig, folder: Path, policy: ScriptedPolicy | None = None, **options: Any) -> CollectSummary:
    return asyncio.run(collect(settings, policy or ScriptedPolicy(random_player), folder, **options))


def reads(folder: Path) -> dict[str, list[list[str]]]:
    """Per trial, the keys that each episode saw."""
    return {
        trial["trial_id"]: [read["keys"] for read in trial["memory_reads"]]
        for trial in read_trials(folder)
        if trial["error"] is None
    }


def written(folder: Path) -> dict[str, list[str]]:
    """Per trial, the keys that it wrote."""
    return {
        trial["trial_id"]: [key for write in trial["memory_writes"] for key in write["keys"]]
        for trial in read_trials(folder)
    }


def foreign(folder: Path) -> list[str]:
    """Every key that a trial saw of another trial."""
    return [
        key
        for trial_id, episodes in reads(folder).items()
        for keys in episodes
        for key in keys
        if not key.startswith(f"{trial_id}/")
    ]


def kept(folder: Path) -> dict[str, Any]:
    """What the run's Chroma folder holds, by key."""
    memory = ChromaMemory(folder / "memory")
    found = {one.key: one for space in all_namespaces(memory) for one in read_all(memory, space)}
    memory.close()
    return found
