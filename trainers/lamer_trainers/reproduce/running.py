"""Jobs as processes of their own, several at a time, each with its log; what is done stays done.

What must stay true: a failed job stops only what needs it; no job outlives this process, however it ends (prctl(2) on
Linux, SIGTERM elsewhere unless it was killed); what was killed is gone on with by the command's own --resume.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import orjson

from lamer_graph.errors import ConfigError
from lamer_graph.runlog import write_atomic
from lamer_graph.serving.supervisor import PR_SET_PDEATHSIG, prctl
from lamer_trainers.errors import CheckpointError
from lamer_trainers.loop.run_folder import METRICS
from lamer_trainers.reproduce.jobs import BUDGET, LOGS, Grid, Job
from lamer_trainers.reproduce.results import keep_reading

POLL_S = 0.2
GRACE_S = 10.0
"""Seconds that an interrupted job has to finish its log."""
LOCK_S = 15.0
"""Seconds that a folder is waited for: the jobs of a grid that was killed are ending."""
LINE = 100
"""Columns of a line of progress."""
PROGRAM = (sys.executable, "-m", "lamer_graph")
NOTE = "reproduce.json"
NAMES = "runs.json"
"""Under which names the runs are known, by their folders in --out: the folders are named by hashes."""


@dataclass
class Progress:
    """How far the jobs are; `change` is called with it whenever one begins or ends."""

    jobs: list[Job]
    workers: int
    estimates: dict[str, float]
    """Seconds of each, by name, before it has begun."""
    done: list[Job] = field(default_factory=list)
    cached: list[Job] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """What went wrong, by the job's name."""
    running: dict[str, float] = field(default_factory=dict)
    """When each began, by name (monotonic seconds)."""
    took: dict[str, float] = field(default_factory=dict)

    @property
    def waiting(self) -> list[Job]:
        ended = {job.name for job in (*self.done, *self.cached)} | self.failed.keys() | self.running.keys()
        return [job for job in self.jobs if job.name not in ended]

    @property
    def left_s(self) -> float:
        """Seconds that are left, by the estimates corrected by what the ended ones took."""
        expected = sum(self.estimates.get(name, 0.0) for name in self.took)
        pace = sum(self.took.values()) / expected if expected else 1.0
        named = {job.name: job for job in self.jobs}
        left = [self.estimates.get(job.name, 0.0) * pace for job in self.waiting]
        for name, began in self.running.items():
            part, passed = part_of(named[name]), time.monotonic() - began
            whole = self.estimates.get(name, 0.0) * pace
            left.append(whole * (1 - part) if part else max(0.0, whole - passed))
        return max(sum(left) / self.workers, max(left, default=0.0))

    @property
    def counted(self) -> str:
        """What did not go as it should, what runs, and how long it will be."""
        failed = f"{len(self.failed)} failed, " if self.failed else ""
        return f"{failed}{len(self.running)} running, about {duration(self.left_s)} left"

    def line(self, job: Job | None = None) -> str:
        """All of it on one line of `LINE` columns: what `job`, which begins or ends, is at; how far the grid is; and
        what runs, as much of it as there is room for."""
        named = {one.name: one for one in self.jobs}
        said = f"{len(self.done) + len(self.cached)}/{len(self.jobs)} done, {self.counted}"
        if job is not None:
            word = "begun" if job.name in self.running else "failed" if job.name in self.failed else "done"
            return f"{_cut(f'{word}: {job.says}', LINE - len(said) - 2)}; {said}"
        under_way = (f"{named[name].says} {part_of(named[name]):.0%}" for name in self.running)
        return _cut("; ".join([said, *under_way]), LINE)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 2]}.."


def part_of(job: Job) -> float:
    """The share of a training's updates that are made; 0 for a reading."""
    try:
        lines = (job.folder / METRICS).read_bytes().count(b"\n") if job.kind == "train" else 0
    except OSError:
        return 0.0
    return min(1.0, lines / job.run.optimise.updates)


def duration(seconds: float) -> str:
    """Seconds in words of a person."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def check_out(grid: Grid) -> None:
    """Raises CheckpointError for a folder that holds something else than this grid's runs."""
    out, told = grid.wanted.out, _told(grid)
    try:
        there = orjson.loads((out / NOTE).read_bytes())
    except FileNotFoundError:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise CheckpointError(f"--out {out} holds something else: choose another folder") from None
        return
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the folder {out} cannot be used ({error}); choose another") from None
    for key, value in told.items():
        if there.get(key) != value:
            raise CheckpointError(
                f"--out {out} belongs to a grid with {key} {there.get(key)!r}, this one has {value!r}: choose another "
                "folder"
            )


def _told(grid: Grid) -> dict[str, object]:
    wanted = grid.wanted
    return {"scale": wanted.scale, "set": list(wanted.settings), "preset": wanted.preset}


def name_runs(grid: Grid) -> None:
    """Write --out/runs.json: what each run of the grid is called, {"readings/..": "minesweeper lamer, read seed 0"}.
    A run that another target has named before keeps that name. `lamer-graph report` shows runs by these."""
    path = grid.wanted.out / NAMES
    try:
        there = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        there = {}
    jobs = [job for cell in grid.cells for job in (cell.job, cell.job.after) if job is not None]
    named: dict[str, str] = {}
    for job in jobs:
        named.setdefault(f"{job.folder.parent.name}/{job.name}", job.says)
    before = there if isinstance(there, dict) else {}
    write_atomic(path, orjson.dumps({**named, **before}, option=orjson.OPT_INDENT_2) + b"\n")


@contextlib.contextmanager
def claimed(grid: Grid) -> Iterator[int]:
    """The folder, for this process and the jobs that get the lock's descriptor, which is yielded: what a killed grid
    left behind ends before the next one begins. Raises ConfigError where another grid runs in it, CheckpointError."""
    check_out(grid)
    out = grid.wanted.out
    (out / LOGS).mkdir(parents=True, exist_ok=True)
    with (out / NOTE).open("ab") as lock:
        until = time.monotonic() + LOCK_S
        while not _locked(lock.fileno()):
            if time.monotonic() > until:
                raise ConfigError(f"another `reproduce` runs in {out}: wait for it, or choose another --out")
            time.sleep(POLL_S)
        if not lock.tell():
            lock.write(orjson.dumps(_told(grid), option=orjson.OPT_INDENT_2) + b"\n")
            lock.flush()
        name_runs(grid)
        yield lock.fileno()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run_jobs(
    grid: Grid,
    workers: int,
    estimates: dict[str, float],
    change: Callable[[Progress, Job | None], None],
    lock: int,
) -> Progress:
    """Run what is missing, `workers` at a time; `lock` is what `claimed` yields. `change` is told of every job that
    begins or ends, and in between with None.

    Raises KeyboardInterrupt once all jobs have ended, where it was interrupted.
    """
    progress = Progress(list(grid.chosen), workers, estimates)
    progress.cached = [job for job in grid.chosen if job.done]
    processes: dict[str, subprocess.Popen[bytes]] = {}
    named = {job.name: job for job in grid.chosen}
    with _ends_with_us(processes) as interrupted:
        while True:
            for name, process in list(processes.items()):
                if process.poll() is not None:
                    del processes[name]
                    _ended(progress, named[name], process.returncode, grid.wanted.out)
                    change(progress, named[name])
            if interrupted():
                break
            for job in _ready(progress)[: workers - len(processes)]:
                progress.running[job.name] = time.monotonic()
                processes[job.name] = _start(job, grid, lock)
                change(progress, job)
            if not processes:
                break
            change(progress, None)
            time.sleep(POLL_S)
    if interrupted():
        raise KeyboardInterrupt
    return progress


def _ready(progress: Progress) -> list[Job]:
    """What can begin now, readings first: they are short, and what they say is looked at."""
    for job in progress.waiting:
        if job.after is not None and job.after.name in progress.failed:
            progress.failed[job.name] = f"not begun: {job.after.says} failed"
    ready = [job for job in progress.waiting if job.after is None or job.after.done]
    return sorted(ready, key=lambda job: job.kind == "train")


def _start(job: Job, grid: Grid, lock: int) -> subprocess.Popen[bytes]:
    log = log_of(job, grid.wanted.out)
    environment = {**os.environ}
    if grid.scale.threads is not None:
        environment |= {"OMP_NUM_THREADS": str(grid.scale.threads), "MKL_NUM_THREADS": str(grid.scale.threads)}
    with log.open("ab") as out:
        return subprocess.Popen(
            [*PROGRAM, *job.command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_die_with_parent,
            pass_fds=(lock,),
        )


def _die_with_parent() -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.setsid()  # a Ctrl-C is the parent's, which passes it on


def log_of(job: Job, out: Path) -> Path:
    """What a job prints, of all its tries."""
    return out / LOGS / f"{job.name}.log"


def _ended(progress: Progress, job: Job, code: int, out: Path) -> None:
    progress.took[job.name] = time.monotonic() - progress.running.pop(job.name)
    if code == 0:
        try:
            if job.kind == "eval":
                keep_reading(job)
        except Exception as error:  # one reading that cannot be read does not stop the others
            progress.failed[job.name] = f"its log cannot be read: {error}"
            return
        progress.done.append(job)
        return
    said = log_of(job, out).read_text(errors="replace").strip().splitlines()
    last = next((line for line in reversed(said) if line.startswith("lamer-graph: ")), said[-1] if said else "")
    progress.failed[job.name] = last.removeprefix("lamer-graph: ") or f"exit code {code}"


@contextlib.contextmanager
def _ends_with_us(processes: dict[str, subprocess.Popen[bytes]]) -> Iterator[Callable[[], bool]]:
    """While open, SIGINT and SIGTERM end the jobs, and at the end none is left."""
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stopped
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def workers_of(grid: Grid, jobs: int | None) -> int:
    """How many jobs run at once: as asked, or one for each core; one where a job has all threads, or is timed."""
    if jobs is not None:
        return jobs
    if grid.scale.threads is None or any(target.measure in BUDGET for target in grid.targets.values()):
        return 1
    return max(1, (os.cpu_count() or 1) // grid.scale.threads)
