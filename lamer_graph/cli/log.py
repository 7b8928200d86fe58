"""`lamer-graph log check|export`: validate a run's log, or turn it into a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lamer_graph.cli.checks import TRAINING_NEEDS, check_installed
from lamer_graph.cli.frame import FAILED, Json, Ui, command, warn
from lamer_graph.cli.shown import one_line

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.", show_default=False)]
ParquetOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Where to write; default RUN/calls.parquet.", show_default=False),
]


PairsOption = Annotated[
    Literal["turn", "trial", "both"] | None,
    typer.Option(
        "--pairs",
        show_default=False,
        help="Preference pairs instead, as `train --algorithm dpo` takes them: of answers to one prompt, of trials.",
    ),
]


def register(app: typer.Typer) -> None:
    log = typer.Typer(help="Look at the log that `collect`, `eval` and `quickstart` write.", rich_markup_mode="rich")
    app.add_typer(log, name="log")

    @command(
        log,
        "check",
        examples=[("lamer-graph log check runs/first", "Validate every line; the exit code is 1 if one is malformed.")],
    )
    def check(ui: Ui, run: RunArgument) -> Json:
        """Validate a run's log line by line against the schema.

        Calls without tokens (of a policy that gives none) are valid and counted; a trainer skips them. A torn last line
        (the machine lost power in the middle of a write) is reported and is no error: the next run that opens the log
        drops it.
        """
        from rich.markup import escape
        from rich.table import Table

        from lamer_graph.runlog import check as check_log

        report = check_log(run)
        ui.working()
        table = Table(title=escape(report.path), show_header=False)
        rows = {
            "trials": report.trials,
            "tasks": report.tasks,
            "successful trials": report.successes,
            "trials that an error ended": report.failed_trials,
            "episodes": report.episodes,
            "turns": report.turns,
            "reflections": report.reflections,
            "policy calls": report.calls,
            "sampled tokens": report.tokens,
            "calls without tokens": report.untrainable_calls,
            "torn last line, bytes": report.torn_bytes,
        }
        for name, value in rows.items():
            table.add_row(name, f"{value:,}")
        for version, count in sorted(report.policy_versions.items()):
            table.add_row(f"calls answered by {escape(one_line(version))}", f"{count:,}")
        ui.print(table)
        for line, message in report.errors:
            ui.print(f"[red]line {line}[/]: {escape(one_line(message))}")
        for line, name in report.duplicates:
            ui.print(f"[red]line {line}[/]: trial {escape(one_line(name))} was already logged")
        if report.ok and not report.tokens:
            ui.print("[green]the log is valid[/]; nothing in it can be trained on: no tokens were logged")
        elif report.ok:
            ui.print("[green]the log is valid[/]")
        else:
            ui.exit_code = FAILED
            problems = report.error_count + len(report.duplicates)
            first = report.errors[0] if report.errors else (report.duplicates[0][0], "a trial that was already logged")
            warn(f"{report.path} has {problems} problems, the first on line {first[0]}: {first[1]}")
        return report.to_json()

    @command(
        log,
        "export",
        examples=[
            ("lamer-graph log export runs/first", "Write runs/first/calls.parquet, one row per policy call."),
            ("lamer-graph log export runs/first --out calls.parquet", "The same, elsewhere."),
            ("lamer-graph log export runs/first --pairs both", "Write runs/first/pairs.parquet: chosen and rejected."),
        ],
    )
    def export(ui: Ui, run: RunArgument, out: ParquetOption = None, pairs: PairsOption = None) -> Json:
        """Write a run's policy calls as a Parquet table: exact tokens, logprobs, rewards, outcomes.

        With --pairs: two answers, or trials, of a task that came to different returns (see `preferences` of run files).

        Read it with [bold]datasets.load_dataset("parquet", data_files=FILE)[/].
        """
        from rich.markup import escape

        from lamer_graph.runlog import TRIALS_FILE, export_parquet, open_trials

        path = run / ("calls.parquet" if pairs is None else "pairs.parquet") if out is None else out
        check_installed("log export", ("datasets", "pyarrow") if pairs is None else TRAINING_NEEDS)
        open_trials(run / TRIALS_FILE).close()  # a missing run is said before the output is opened beside it
        if pairs is not None:
            from lamer_trainers.loop.prefer import exported_pairs

            kinds = exported_pairs(run, path, pairs)
            told = ", ".join(f"{count:,} of {kind}s" for kind, count in sorted(kinds.items()))
            ui.print(escape(f"{kinds.total():,} preference pairs ({told}) written to {path}"))
            return {"run": str(run), "out": str(path), "rows": kinds.total(), "kinds": dict(kinds)}
        rows = export_parquet(run, path)
        ui.print(escape(f"{rows:,} policy calls written to {path}"))
        return {"run": str(run), "out": str(path), "rows": rows}
