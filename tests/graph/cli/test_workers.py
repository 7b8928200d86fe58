"""A run that several processes share is the run that was asked for, and a worker's end is said in one line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broken_player import BrokenPlayer
from lamer_graph.cli import workers
from lamer_graph.cli.job import Job
from lamer_graph.cli.options import Effort, Player
from lamer_graph.cli.running import report_of
from lamer_graph.collection.collect import CollectSummary, Shard
from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import LamerError
from lamer_graph.policies.base import Policy
from lamer_graph.runlog import RunLog
from scripted import ScriptedPolicy, random_player


class Scripted(Player):
    @asynccontextmanager
    async def open(self, env: str, *, training: bool | None) -> AsyncIterator[Policy]:
        yield ScriptedPolicy(random_player)


def job_of(player: Player, folder: Path, **changes: Any) -> Job:
    config = CollectConfig(env="minesweeper:4x4-3", tasks=2)
    effort = Effort(workers=2)
    return Job(player=player, config=config, effort=effort, folder=folder, resume=True, training=None, **changes)


@pytest.mark.parametrize("asked", [True, False])
async def test_a_worker_plays_as_one_process_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    given: dict[str, Any] = {}

    async def collect(*_: Any, **options: Any) -> None:
        given.update(options)

    monkeypatch.setattr(workers, "collect", collect)
    out: Any = None
    job = job_of(Scripted(), tmp_path, write_behind=asked, through_graph=asked)
    await workers._collect(job, Shard(1, 2), out)
    assert (given["write_behind"], given["through_graph"], given["shard"]) == (asked, asked, Shard(1, 2))


def test_a_defect_in_a_worker_is_one_error_that_keeps_its_traceback_for_debug(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(workers.WorkerError, match="unexpected RuntimeError: a defect") as caught:
        workers.collect_in_workers(job_of(BrokenPlayer(), tmp_path), already=0, on_trial=lambda calls, solved: None)
    assert any("Traceback" in note for note in caught.value.__notes__)
    assert capfd.readouterr().err == ""


def test_an_evaluation_that_was_interrupted_before_a_trial_was_finished_says_that(tmp_path: Path) -> None:
    RunLog.create(tmp_path, CollectConfig(env="minesweeper:4x4-3", tasks=2).model_dump(mode="json")).close()
    summary = CollectSummary(2, 0, 0, 0, 0, 0, 0.1, interrupted=True)
    with pytest.raises(LamerError, match="interrupted before a trial was finished"):
        report_of(tmp_path, summary)
