"""`lamer-graph warmup`: make a small policy from nothing, for one environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamer_graph.cli.checks import check_installed, check_new
from lamer_graph.cli.frame import FAILED, Json, Ui, command
from lamer_graph.cli.options import DEFAULT_ENV, EnvOption

if TYPE_CHECKING:
    from lamer_trainers.warmstart.warmup import WarmupReport

OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", show_default=False, help="Folder for the policy; must not exist yet.")
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="S", min=0, help="The same seed makes the same policy.")]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        metavar="M",
        min=0.1,
        show_default=False,
        help="Time that the fit may take on two cores, about. Default: all that the recipe needs.",
    ),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "warmup",
        examples=[
            ("lamer-graph warmup --out runs/tiny", "A MineSweeper policy in some ten minutes on two cores."),
            ("lamer-graph warmup --env sokoban:6x6-1 --out runs/tiny-sokoban", "The same for Sokoban."),
        ],
    )
    def warmup(
        ui: Ui, out: OutOption, env: EnvOption = DEFAULT_ENV, seed: SeedOption = 0, minutes: MinutesOption = None
    ) -> Json:
        """Make a small policy from nothing: format-correct, weak, and improvable.

        A Qwen3-architecture model of under a million parameters and a tokenizer of its own are fitted to scripted weak
        play and to reflections of mixed quality. The gates that it must pass to be worth training are measured and
        printed at the end; the exit code is 1 if one is missed.
        """
        report = make_policy(ui, env, out, seed=seed, minutes=minutes)
        ui.exit_code = 0 if report.passed else FAILED
        return {"out": str(out), **report.to_json()}


def make_policy(ui: Ui, env: str, out: Path, *, seed: int, minutes: float | None) -> WarmupReport:
    """Make the policy and show its gates. Raises ConfigError for what cannot be made, before any work."""
    from rich.table import Table

    from lamer_envs import make
    from lamer_graph.cli.render import interval

    spec = make(env).spec
    check_new(out, "choose another folder, so that no policy is overwritten")
    check_installed("warmup", ("torch", "transformers", "trl"))
    from lamer_trainers.warmstart.warmup import run_warmup

    ui.working()
    report = run_warmup(spec, out, seed=seed, minutes=minutes, progress=ui.note)
    table = Table("gate", "reading", "asked for", "", title=f"{spec}, seed {seed}: {out}", title_justify="left")
    for gate in report.gates:
        mark = "[green]passed[/]" if gate.passed else "[red]missed[/]"
        table.add_row(gate.name, f"{gate.value:.3f}", gate.target, mark)
    ui.print(table)
    made = Table("memory", "pass@1", "pass@2", "pass@3", title=f"{report.tasks} held-out tasks", title_justify="left")
    for contents, row in report.reading.pass_at.items():
        made.add_row(contents, *(interval(estimate) for estimate in row))
    ui.print(made)
    ui.print("[green]ready to be trained[/]" if report.passed else "[red]a gate is missed: do not train on this[/]")
    return report
