"""The report of a run is read from its log, once, and says what is wrong with a log that gives none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import RunLogError
from lamer_graph.evaluation import evaluate
from lamer_graph.runlog import RunLog, read_trials
from scripted import ScriptedPolicy, random_player


@pytest.fixture
def played(tmp_path: Path) -> Path:
    config = CollectConfig(env="minesweeper:4x4-3", tasks=3)
    asyncio.run(collect(config, ScriptedPolicy(random_player), tmp_path / "run"))
    return tmp_path / "run"


def test_a_log_is_read_once(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = 0

    def counted(folder: Path) -> Iterator[dict[str, Any]]:
        nonlocal times
        times += 1
        return read_trials(folder)

    monkeypatch.setattr(evaluate, "read_trials", counted)
    found = evaluate.report(played)
    assert times == 1
    assert found.summary.tasks == len(found.instances) == 3


def test_a_malformed_trial_is_named_as_one(played: Path) -> None:
    log = played / "trials.jsonl"
    first, *rest = log.read_bytes().splitlines(keepends=True)
    trial = orjson.loads(first)
    del trial["episodes"]
    log.write_bytes(orjson.dumps(trial) + b"\n" + b"".join(rest))
    with pytest.raises(RunLogError, match=r"malformed trial .*log check"):
        evaluate.report(played)


def test_a_run_of_something_else_is_named_as_such(tmp_path: Path) -> None:
    RunLog.create(tmp_path, {"app": "mine"}).close()
    with pytest.raises(RunLogError, match="is no run of `collect` or `eval`"):
        evaluate.report(tmp_path)
