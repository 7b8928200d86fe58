"""The progress view of a grid: what runs has a bar, what ended leaves a line, a failure says why."""

from __future__ import annotations

import io
import time
from pathlib import Path

from rich.console import Console

from lamer_graph.cli.progress_view import Bars
from lamer_trainers.loop.run_folder import METRICS
from lamer_trainers.reproduce.jobs import Wanted, expand
from lamer_trainers.reproduce.running import Progress


def test_the_view_says_what_is_done_what_runs_and_what_failed(tmp_path: Path) -> None:
    grid = expand(Wanted(("fig5",), "cpu", (0,), tmp_path, only=("minesweeper",)))
    trainings = [job for job in grid.chosen if job.kind == "train"]
    progress = Progress(grid.chosen, 2, {job.name: 60.0 for job in grid.chosen})
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=160)) as bars:
        for job in trainings[:2]:
            progress.running[job.name] = time.monotonic()
            bars.show(progress, job)
        trainings[0].folder.mkdir(parents=True)
        (trainings[0].folder / METRICS).write_bytes(b"{}\n" * 45)
        bars.show(progress, None)
        del progress.running[trainings[1].name]
        progress.took[trainings[1].name] = 30.0
        progress.failed[trainings[1].name] = "the disk is [full]"
        bars.show(progress, trainings[1])
    said = screen.getvalue()
    assert "50%" in said
    assert f"failed: {trainings[1].says}: the disk is [full]" in said
    assert f"0/{len(grid.chosen)} done, 1 running, 1 failed" in said


def test_without_a_terminal_all_of_it_is_one_line(tmp_path: Path) -> None:
    grid = expand(Wanted(("fig5",), "cpu", (0,), tmp_path, only=("minesweeper",)))
    progress = Progress(grid.chosen, 1, {job.name: 60.0 for job in grid.chosen})
    progress.done = [grid.chosen[-1]]
    progress.took = {grid.chosen[-1].name: 60.0}
    assert progress.line() == "1 of 10 done, 0 running, 0 failed, about 9 min left"
