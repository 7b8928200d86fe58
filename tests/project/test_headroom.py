"""`examples/headroom.py`: what perfect notes are worth to players that make no mistakes of their own."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

from lamer_envs import make

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def headroom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("headroom", ROOT / "examples/headroom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def won(headroom: ModuleType, spec: str, notes: bool, tasks: int = 30) -> list[int]:
    """How many of the tasks are won by the first, second and third attempt."""
    env = make(spec)
    wins = [headroom.first_win(env, seed, notes, 3) for seed in islice(env.seeds("val"), tasks)]
    return [sum(win is not None and win <= attempt for win in wins) for attempt in range(3)]


@pytest.mark.parametrize("spec", ["minesweeper:4x4-3", "sokoban:6x6-1-pits=1", "alfworld", "webshop:1000"])
def test_notes_change_no_first_attempt_and_win_more_thirds(headroom: ModuleType, spec: str) -> None:
    noted, plain = won(headroom, spec, True), won(headroom, spec, False)
    assert noted[0] == plain[0]
    assert noted[2] > plain[2]


def test_where_nothing_is_hidden_the_first_attempt_wins(headroom: ModuleType) -> None:
    assert won(headroom, "sokoban:6x6-2", False, tasks=10) == [10, 10, 10]


def test_what_is_printed_is_the_share_of_tasks_also_where_tasks_share_an_instance(
    headroom: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, tasks = "sokoban:6x6-1-pits=1", 60
    words = ["headroom.py", "--env", spec, "--tasks", str(tasks), "--split", "test", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    headroom.main()
    env = make(spec)
    seeds = list(islice(env.seeds("test"), tasks))
    assert len({env.instance(env.reset(seed)) for seed in seeds}) < tasks
    share = sum(headroom.first_win(env, seed, False, 3) == 0 for seed in seeds) / tasks
    said = json.loads((tmp_path / "headroom.json").read_text())[spec]["without"][0]
    assert said["value"] == pytest.approx(share)
