"""`lamer-graph reproduce`: a table or figure of the paper as one command; its grid, its runs, its report.

What must stay true: everything that can be refused is refused before the first run; a run that fails does not stop the
others and is named at the end (exit code 1); the same command goes on with what is missing.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lamer_graph.cli.checks import TRAINING_NEEDS, check_installed
from lamer_graph.cli.frame import FAILED, Json, Ui, command, warn
from lamer_graph.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamer_trainers.loop.devices import DeviceName
    from lamer_trainers.reproduce.jobs import Grid, Job
    from lamer_trainers.reproduce.running import Progress

WHAT, HOW = "What is reproduced", "How"
SAID_EVERY_S = 60.0
"""How often a line says how far it is, where nobody watches a terminal."""

TargetsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="TARGET", show_default=False, help="table1, table2, table3, fig3, fig4, fig5, .."),
]
ScaleOption = Annotated[
    Literal["cpu", "smollm2", "paper"] | None,
    typer.Option(
        "--scale",
        rich_help_panel=WHAT,
        show_default=False,
        help="How large. Default: cpu; of --dry-run a summary of each scale.",
    ),
]
SeedsOption = Annotated[str, typer.Option("--seeds", metavar="S,..", rich_help_panel=WHAT, help="Seeds of trainings.")]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        rich_help_panel=WHAT,
        show_default=False,
        help="Instead of the scale's environments: this run file's, see `lamer-graph train --presets`.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="ROW",
        rich_help_panel=WHAT,
        show_default=False,
        help="Run these rows or columns only; may be repeated, or names with commas between. The report has all.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=WHAT,
        show_default=False,
        help="Change all trainings (optimise.updates=20) or readings (reading.tasks=50) of all rows; what a row says "
        "itself cannot be changed.",
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", rich_help_panel=HOW, help="Folder of all runs and reports.")
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="N", min=1, rich_help_panel=HOW, show_default=False, help="Runs at once. Default: by cores."
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", rich_help_panel=HOW, help="Go on with the runs in --out; it has to be there.")
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        rich_help_panel=HOW,
        help="Run nothing. Print how many runs each scale has and how long they take; with --scale every run, its "
        "command and its time.",
    ),
]
DeviceOption = Annotated[
    Literal["cpu", "a100", "h100", "h200"] | None,
    typer.Option(
        "--device",
        rich_help_panel=HOW,
        show_default=False,
        help="What --dry-run estimates for. Default: the device here; for scale paper h200.",
    ),
]
ReportOption = Annotated[
    bool, typer.Option("--report", rich_help_panel=HOW, help="Write the report of what is done; run nothing.")
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "reproduce",
        examples=[
            ("lamer-graph reproduce table1 --dry-run", "How much table 1 is at every scale, a line each."),
            (
                "lamer-graph reproduce table1 --dry-run --scale cpu",
                "Every run of it at one, with its command and time.",
            ),
            ("lamer-graph reproduce table1 --seeds 0,1,2", "Table 1 on two cores, in some hours."),
            ("lamer-graph reproduce table1 --only minesweeper", "One column of it."),
            ("lamer-graph reproduce fig3 fig4 fig5", "What table 1 trained is not trained again."),
            ("lamer-graph reproduce table1 --report", "What is done so far, beside the paper's numbers."),
            ("lamer-graph reproduce table1 --set optimise.updates=2 --set reading.tasks=20 --out runs/try", "A try."),
        ],
    )
    def reproduce(
        ui: Ui,
        targets: TargetsArgument = None,
        scale: ScaleOption = None,
        seeds: SeedsOption = "0",
        preset: PresetOption = None,
        only: OnlyOption = None,
        set_: SetOption = None,
        out: OutOption = Path("runs/reproduce"),
        jobs: JobsOption = None,
        resume: ResumeOption = False,
        dry_run: DryRunOption = False,
        device: DeviceOption = None,
        report: ReportOption = False,
    ) -> Json:
        """Run a table or figure of the paper and write it beside the paper's numbers, with a verdict for each claim.

        Runs of equal settings are shared between targets, in --out. What was stopped is gone on with by the same
        command; Markdown, CSV, JSON and a plot are in --out/TARGET.
        """
        check_installed("reproduce", (*TRAINING_NEEDS, "matplotlib"))
        from lamer_trainers.reproduce.grid import SCALES, target_names
        from lamer_trainers.reproduce.jobs import Wanted, expand, parse_seeds

        if not targets:
            raise ConfigError(f"name a target; there are: {', '.join(target_names())}")
        if dry_run and report:
            raise ConfigError("--dry-run and --report exclude each other")
        if device is not None and not dry_run:
            raise ConfigError("--device is what --dry-run estimates for; runs use the device that is here")
        wanted = Wanted(
            targets=tuple(targets),
            scale=scale or "cpu",
            seeds=parse_seeds(seeds),
            out=out,
            settings=tuple(set_ or ()),
            preset=preset,
            only=tuple(name for given in only or () for name in given.split(",") if name),
        )
        if dry_run:
            shown = [wanted] if scale or preset else [replace(wanted, scale=one) for one in SCALES]
            plans = [_show_plan(ui, expand(one), jobs, device, whole=scale is not None) for one in shown]
            if scale is None:
                ui.print("every run, its command and its time: --scale NAME")
            return {"scales": plans}
        grid = expand(wanted)
        if report:
            from lamer_trainers.reproduce.running import check_out, name_runs

            check_out(grid)
            if not out.is_dir():
                raise ConfigError(f"--report: there is nothing in {out} yet")
            name_runs(grid)
            return {"reports": _reports(ui, grid, {})}
        return _run(ui, grid, jobs, resume)


def _run(ui: Ui, grid: Grid, jobs: int | None, resume: bool) -> Json:
    from lamer_trainers.reproduce.checks import check_jobs
    from lamer_trainers.reproduce.running import check_out, claimed, log_of, run_jobs, workers_of

    out = grid.wanted.out
    check_out(grid)
    if resume and not out.is_dir():
        raise ConfigError(f"--resume: there is nothing in {out} to go on with; leave it out to begin")
    check_jobs(grid)
    from lamer_trainers.reproduce.estimates import Estimates  # loads torch

    missing = [job for job in grid.chosen if not job.done]
    estimates = Estimates(None)
    seconds = {job.name: (estimates.of(job) or (0.0, 0.0))[0] for job in missing}
    with claimed(grid) as lock:
        ui.working()
        for one in grid.left_out:
            ui.remark(f"{one.target}: {one.what} is left out: {one.why}")
        workers = workers_of(grid, jobs)
        ui.print(f"{len(grid.chosen)} runs, {len(grid.chosen) - len(missing)} of them done before, {workers} at a time")
        with _view(ui) as show:
            progress = run_jobs(grid, workers, seconds, show, lock)
        reports = _reports(ui, grid, progress.failed)
    named = {job.name: job for job in grid.chosen}
    for name, why in progress.failed.items():
        warn(f"failed: {named[name].says}: {why}; see {log_of(named[name], out)}")
        ui.exit_code = FAILED
    failed = {named[name].says: why for name, why in progress.failed.items()}
    return {
        "out": str(out),
        "done": len(progress.done),
        "cached": len(progress.cached),
        "failed": failed,
        "reports": reports,
    }


@contextmanager
def _view(ui: Ui) -> Iterator[Callable[[Progress, Job | None], None]]:
    """What `run_jobs` tells: bars at a terminal, else a line when a run begins or ends and every so often."""
    from lamer_graph.cli.progress_view import Bars

    if sys.stderr.isatty() and not ui.json:
        with Bars() as bars:
            yield bars.show
        return
    said = time.monotonic()

    def show(progress: Progress, job: Job | None) -> None:
        nonlocal said
        if job is None and time.monotonic() - said < SAID_EVERY_S:
            return
        said = time.monotonic()
        ui.tell(progress.line(job))

    yield show


def _reports(ui: Ui, grid: Grid, failed: dict[str, str]) -> list[Json]:
    """Write the report of every target, and show its claims and the episodes that they rest on."""
    from rich.markup import escape
    from rich.table import Table

    from lamer_trainers.reproduce.claims import Verdict
    from lamer_trainers.reproduce.report import write_report

    made = []
    for name in grid.targets:
        document = write_report(grid, name, failed)
        made.append(document)
        claims = [Verdict(**one) for one in document["claims"]]
        known = [one for one in claims if one.value is not None]
        table = Table("claim", "where", "difference", "verdict", title=escape(document["title"]), title_justify="left")
        for one in known:
            table.add_row(*map(escape, (one.says, one.where, one.number, one.decided)))
        if known:
            ui.print(table)
        for row in document["episodes"]:
            played = f"{row['update']:,.1f} of at most {row['at_most']:,} episodes an update, {row['in_all']:,} in all"
            ui.print(escape(f"{row['column']} {row['arm']}: {played}"))
        if len(known) < len(claims):
            ui.print(f"{len(claims) - len(known)} claims of {name} wait for runs that are not done")
        ui.print(escape(f"written: {', '.join(document['files'])}"), soft_wrap=True)
    return made


def _show_plan(ui: Ui, grid: Grid, jobs: int | None, device: DeviceName | None, whole: bool) -> Json:
    """A scale on one line; its `whole`: every run, what is there already, what it takes, its command."""
    from rich.markup import escape

    from lamer_trainers.reproduce.checks import missing_policies
    from lamer_trainers.reproduce.estimates import Estimates, total
    from lamer_trainers.reproduce.running import workers_of

    wanted = grid.wanted
    estimates, workers = Estimates(device or ("h200" if wanted.scale == "paper" else None)), workers_of(grid, jobs)
    spans = {job.name: estimates.of(job) for job in grid.chosen}
    absent = missing_policies(grid)
    if whole:
        ui.print(f"[bold]{escape(', '.join(grid.targets))} at scale {wanted.scale}[/]: {escape(grid.scale.says)}")
    listed = []
    for job in sorted(grid.chosen, key=lambda job: job.kind == "eval"):
        span, line = spans[job.name], shlex.join(["lamer-graph", *job.command])
        listed.append({"run": job.says, "command": line, "seconds": span, "cached": job.done})
        if whole:
            took = "done" if job.done else _took(span)
            ui.print(f"[bold]{escape(job.says)}[/]: {took}\n  {escape(line)}", soft_wrap=True)
    if whole:
        for one in grid.left_out:
            ui.remark(f"{one.target}: {one.what} is left out: {one.why}")
        for policy, how in absent.items():
            ui.remark(f"policy {policy} is not here; it is made by: {how}")
    left = [job for job in grid.chosen if not job.done]
    seconds = total([spans[job.name] for job in left], workers)
    unknown = sum(spans[job.name] is None for job in left)
    kinds = [sum(job.kind == kind for job in grid.chosen) for kind in ("train", "eval")]
    said = f"{kinds[0]} trainings, {kinds[1]} readings, {len(grid.chosen) - len(left)} done"
    if unknown == len(left) > 0:
        said += "; time unknown"
    elif left:
        said += f"; {_took(seconds)}, {workers} at a time"
        said += f", and {unknown} runs of unknown time" if unknown else ""
    if absent and not whole:
        said += f"; its policy is yet to be made: {', '.join(absent)}"
    ui.print(escape(f"{wanted.scale}: {said}"), soft_wrap=True)
    return {
        "scale": wanted.scale,
        "runs": listed,
        "left_out": [one._asdict() for one in grid.left_out],
        "missing_policies": absent,
        "jobs": workers,
        "seconds": seconds,
    }


def _took(span: tuple[float, float] | None) -> str:
    from lamer_trainers.reproduce.running import duration

    return "time unknown" if span is None else f"{duration(span[0])} to {duration(span[1])}"
