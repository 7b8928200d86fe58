"""`lamer-graph doctor`: what is installed, what is missing, how to fix it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamer_graph.cli.frame import FAILED, Json, Ui, command

MARKS = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "broken": "[red]broken[/]", "note": "[blue]note[/]"}

OutOption = Annotated[
    Path, typer.Option("--out", help="Folder that runs will be written to; its disk is looked at.", metavar="DIR")
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "doctor",
        examples=[
            ("lamer-graph doctor", "Look at this machine; the exit code is 1 if something is broken."),
            ("lamer-graph doctor --json | jq '.checks[] | select(.status != \"ok\")'", "The findings for a script."),
        ],
    )
    def doctor(ui: Ui, out: OutOption = Path("runs")) -> Json:
        """What is installed, what is missing, and the command that mends it.

        Heavy libraries are imported for real, in processes of their own: this takes some seconds.
        """
        from rich.markup import escape
        from rich.table import Table

        from lamer_graph.doctor import diagnose, healthy

        ui.working()
        if not ui.json:
            with ui.console.status("importing the heavy libraries"):
                checks = diagnose(out)
        else:
            checks = diagnose(out)
        table = Table("part", "state", "what was found", show_lines=False)
        for check in checks:
            detail = escape(check.detail) + (f"\n[bold]fix:[/] {escape(check.fix)}" if check.fix else "")
            table.add_row(check.name, MARKS[check.status], detail)
        ui.print(table)
        ok = healthy(checks)
        ui.print("[green]everything needed is here[/]" if ok else "[red]something is broken: see the fixes above[/]")
        ui.exit_code = 0 if ok else FAILED
        return {"ok": ok, "checks": [check.to_json() for check in checks]}
