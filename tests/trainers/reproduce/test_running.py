"""Jobs as processes: what a failure stops, what a kill leaves, whose a folder is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamer_graph.errors import ConfigError
from lamer_graph.report.runs import find_runs
from lamer_graph.runlog import TRIALS_FILE
from lamer_trainers.errors import CheckpointError
from lamer_trainers.reproduce import running
from lamer_trainers.reproduce.jobs import Grid, Job, Wanted, expand
from lamer_trainers.reproduce.running import NAMES, NOTE, Progress, check_out, claimed, log_of, run_jobs, workers_of

STAND_IN = """
import pathlib, sys, time
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
if "optimise.algorithm=ppo" in words:
    sys.exit("lamer-graph: no room for a critic")
time.sleep({seconds})
(out / "policy").mkdir()
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """Trainings alone, by a program that stands in for `lamer-graph`."""
    stands_in(monkeypatch, 0.0)
    made = expand(Wanted(("optimisers",), "cpu", (0,), tmp_path / "out"))
    made.chosen[:] = [job for job in made.chosen if job.kind == "train"]
    return made


def stands_in(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(running, "PROGRAM", (sys.executable, "-c", STAND_IN.format(seconds=seconds)))


def run(grid: Grid, workers: int = 2) -> tuple[Progress, list[str]]:
    lines: list[str] = []

    def change(progress: Progress, job: Job | None) -> None:
        assert len(progress.running) <= workers
        if job is not None:
            lines.append(progress.line())

    with claimed(grid) as lock:
        return run_jobs(grid, workers, {job.name: 1.0 for job in grid.chosen}, change, lock), lines


def test_a_failed_run_stops_no_other_and_is_named_with_its_last_word(grid: Grid) -> None:
    progress, lines = run(grid)
    (failed,) = progress.failed.values()
    assert failed == "no room for a critic"
    assert len(progress.done) == len(grid.chosen) - 1
    assert "1 failed" in lines[-1]
    ppo = next(job for job in grid.chosen if job.name in progress.failed)
    assert "no room for a critic" in log_of(ppo, grid.wanted.out).read_text()


def test_what_is_done_is_not_run_again_and_what_failed_is(grid: Grid) -> None:
    run(grid)
    again, _ = run(grid)
    assert len(again.cached) == len(grid.chosen) - 1
    assert again.done == []
    assert len(again.failed) == 1


def test_what_needs_a_failed_training_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stands_in(monkeypatch, 0.0)
    grid = expand(Wanted(("optimisers",), "cpu", (0,), tmp_path / "out", only=("ppo",)))
    progress, _ = run(grid)
    assert [job.kind for job in grid.chosen] == ["eval", "train"]
    assert sorted(progress.failed.values()) == ["no room for a critic", "not begun: minesweeper ppo seed 0 failed"]


PARENT = """
import sys
from pathlib import Path
from lamer_trainers.reproduce import running
from lamer_trainers.reproduce.jobs import Wanted, expand
running.PROGRAM = (sys.executable, "-c", sys.argv[2])
grid = expand(Wanted(("optimisers",), "cpu", (0,), Path(sys.argv[1])))
grid.chosen[:] = [job for job in grid.chosen if job.kind == "train"]
with running.claimed(grid) as lock:
    running.run_jobs(grid, 2, {}, lambda progress, job: job and print(job.name, flush=True), lock)
"""
ALIVE = "import os, pathlib, sys, time; out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1]); "
ALIVE += "out.mkdir(parents=True); (out / 'pid').write_text(str(os.getpid())); time.sleep(600)"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_run_outlives_the_grid_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(out), ALIVE], stdout=subprocess.PIPE)
    pids: list[int] = []
    until = time.monotonic() + 60
    while len(pids) < 2 and time.monotonic() < until:
        pids = [int(path.read_text()) for path in out.glob("trainings/*/pid") if path.read_text()]
        time.sleep(0.05)
    assert len(pids) == 2
    parent.send_signal(number)
    assert parent.wait(30) != 0
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_a_folder_is_of_one_grid_at_a_time_and_of_one_scale(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOCK_S", 0.0)
    with claimed(grid), pytest.raises(ConfigError, match="another `reproduce` runs in"), claimed(grid):
        pass
    out = grid.wanted.out
    other = expand(Wanted(("table3",), "paper", (0,), out))
    with pytest.raises(CheckpointError, match="belongs to a grid with scale 'cpu', this one has 'paper'"):
        check_out(other)
    changed = expand(Wanted(("table3",), "cpu", (0,), out, settings=("optimise.updates=2",)))
    with pytest.raises(CheckpointError, match="with set"):
        check_out(changed)
    check_out(expand(Wanted(("fig3",), "cpu", (0, 1), out)))
    (out / NOTE).unlink()
    with pytest.raises(CheckpointError, match="holds something else"):
        check_out(grid)


def test_the_folder_says_what_its_runs_are_called_and_the_report_of_runs_calls_them_so(grid: Grid) -> None:
    run(grid)
    out = grid.wanted.out
    named = json.loads((out / NAMES).read_text())
    assert {named[f"trainings/{job.name}"] for job in grid.chosen} == {job.says for job in grid.chosen}
    other = expand(Wanted(("meta-vs-rl",), "cpu", (0,), out))
    with claimed(other):
        pass
    assert named.items() < json.loads((out / NAMES).read_text()).items()
    reading = next(cell.job for cell in grid.cells if cell.job.kind == "eval")
    reading.folder.mkdir(parents=True)
    (reading.folder / TRIALS_FILE).write_text("")
    assert [one.name for one in find_runs([out / "readings"])] == [reading.says]


def test_timed_runs_are_alone_and_small_ones_one_a_core(tmp_path: Path) -> None:
    def workers(target: str, scale: str = "cpu", jobs: int | None = None) -> int:
        return workers_of(expand(Wanted((target,), scale, (0,), tmp_path)), jobs)  # type: ignore[arg-type]

    assert workers("fig3") == os.cpu_count()
    assert workers("budget") == workers("fig3", "smollm2") == 1
    assert workers("budget", jobs=3) == 3


def test_what_is_left_is_estimated_by_what_the_ended_ones_took(grid: Grid) -> None:
    jobs = grid.chosen[:3]
    progress = Progress(jobs, 1, {job.name: 10.0 for job in jobs})
    assert progress.left_s == pytest.approx(30)
    progress.done, progress.took = [jobs[0]], {jobs[0].name: 40.0}
    assert progress.left_s == pytest.approx(80)
    progress.workers = 2
    assert progress.left_s == pytest.approx(40)
