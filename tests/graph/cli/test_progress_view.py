"""The progress view of a grid: what runs has a bar, what ended leaves a line, a failure says why."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from lamer_graph.cli.progress_view import Bars
from lamer_trainers.loop.run_folder import METRICS
from lamer_trainers.reproduce.jobs import Wanted, expand
from lamer_trainers.reproduce.running import Progress, duration


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
    assert f"0/{len(grid.chosen)}" in said
    assert "1 failed, 1 running, about" in said


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_cuts_off_names_alone(tmp_path: Path, width: int) -> None:
    progress = busy(tmp_path, 3)
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=width)) as bars:
        bars.show(progress, None)
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert f"2 failed, 3 running, about {duration(progress.left_s)} left" in said
    assert "minesweeper-5x5-cpu meta trai" in said
    assert max(map(len, said.replace("\r", "\n").split("\n"))) <= width


def busy(tmp_path: Path, running: int) -> Progress:
    """A grid whose runs have long names, with so many of them under way and two failed."""
    grid = expand(Wanted(("meta-vs-rl",), "cpu", (0, 1, 2), tmp_path, preset="minesweeper-5x5-cpu"))
    progress = Progress(grid.chosen, 16, {job.name: 6000.0 for job in grid.chosen})
    named = sorted(grid.chosen, key=lambda job: -len(job.says))
    progress.failed = {job.name: "no room" for job in named[-2:]}
    progress.running = {job.name: time.monotonic() for job in named[:running]}
    return progress


def test_without_a_terminal_all_of_it_is_one_line(tmp_path: Path) -> None:
    grid = expand(Wanted(("fig5",), "cpu", (0,), tmp_path, only=("minesweeper",)))
    progress = Progress(grid.chosen, 1, {job.name: 60.0 for job in grid.chosen})
    progress.done = [grid.chosen[-1]]
    progress.took = {grid.chosen[-1].name: 60.0}
    assert progress.line() == "1/10 done, 0 running, about 9 min left"
    assert progress.line(grid.chosen[-1]) == f"done: {grid.chosen[-1].says}; {progress.line()}"


def test_a_line_of_progress_is_at_most_a_hundred_columns_and_begins_with_the_numbers(tmp_path: Path) -> None:
    progress = busy(tmp_path, 12)
    line = progress.line()
    assert line.startswith(f"0/{len(progress.jobs)} done, 2 failed, 12 running, about ")
    assert "minesweeper-5x5-cpu" in line
    assert len(line) <= 100
    longest = max(progress.jobs, key=lambda job: len(job.says))
    begun = progress.line(longest)
    assert begun.startswith(f"begun: {longest.says[:30]}")
    assert begun.endswith(f"; 0/{len(progress.jobs)} done, {progress.counted}")
    assert len(begun) <= 100
