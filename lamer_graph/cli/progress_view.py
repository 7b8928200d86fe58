"""The one progress view of a grid of runs: how many are done, what runs now and how far it is, what is left.

What must stay true: it is drawn on stderr, and only where that is a terminal.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from lamer_trainers.reproduce.jobs import Job
    from lamer_trainers.reproduce.running import Progress as Jobs


class Bars:
    """A bar for the grid and one for each running job; ended ones leave a line."""

    def __init__(self, console: Console | None = None) -> None:
        says, what = TextColumn("{task.fields[says]}", justify="right"), TextColumn("{task.description}", markup=False)
        columns = (says, BarColumn(16), TimeElapsedColumn(), what)  # what is cut off is the end of the last one
        self._bars = Progress(*columns, console=console or Console(stderr=True), transient=True)
        self._whole = self._bars.add_task("", says="")
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, jobs: Jobs, job: Job | None) -> None:
        """Bring the view up to date; `job` has just begun or ended."""
        from lamer_trainers.reproduce.running import duration, part_of

        named = {one.name: one for one in jobs.jobs}
        if job is not None and job.name not in jobs.running:
            why = jobs.failed.get(job.name)
            said = f"failed: {job.says}: {why}" if why else f"done: {job.says}, {duration(jobs.took[job.name])}"
            self._bars.console.print(said, markup=False, highlight=False)
        for name in self._tasks.keys() - jobs.running.keys():
            self._bars.remove_task(self._tasks.pop(name))
        for name in jobs.running:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(named[name].says, total=1.0, says="")
            part = part_of(named[name])
            whole = 1.0 if named[name].kind == "train" else None
            self._bars.update(self._tasks[name], completed=part, total=whole, says=f"{part:.0%}" if whole else "")
        ended = len(jobs.done) + len(jobs.cached)
        says, at = f"{ended}/{len(jobs.jobs)}", ended + len(jobs.failed)
        self._bars.update(self._whole, completed=at, total=len(jobs.jobs), says=says, description=jobs.counted)
