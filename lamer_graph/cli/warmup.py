"""`lamer-graph warmup`: a policy worth training, for one environment: a small one from nothing, or a given model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lamer_graph.cli.checks import TRAINING_NEEDS, check_installed, check_new
from lamer_graph.cli.frame import FAILED, Json, Ui, command
from lamer_graph.cli.options import DEFAULT_ENV, EnvOption, template_of
from lamer_graph.errors import ConfigError

if TYPE_CHECKING:
    from lamer_trainers.warmstart.pretrained import Given
    from lamer_trainers.warmstart.warmup import WarmupReport

GIVEN = "A pretrained model"

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
        help="Time that the fit may take, about: on two cores, or with --policy as measured at its beginning. Default: "
        "all that the recipe needs.",
    ),
]
PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="DIR",
        rich_help_panel=GIVEN,
        show_default=False,
        help="A model folder or hub id to begin with. Default: a tiny model of its own, from nothing.",
    ),
]
StyleOption = Annotated[
    Literal["standard", "compact"] | None,
    typer.Option(
        "--prompt-style", rich_help_panel=GIVEN, show_default=False, help="Prompts it learns to answer: standard."
    ),
]
FullOption = Annotated[
    bool, typer.Option("--full", rich_help_panel=GIVEN, help="Fit all weights. Default: a LoRA adapter.")
]
RankOption = Annotated[
    int | None,
    typer.Option(
        "--lora-rank", metavar="R", min=1, rich_help_panel=GIVEN, show_default=False, help="Of the adapter: 32."
    ),
]
RowsOption = Annotated[
    int | None,
    typer.Option(
        "--rows",
        metavar="N",
        min=1,
        rich_help_panel=GIVEN,
        show_default=False,
        help="Scripted answers it is fitted to: 2,000.",
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        "--learning-rate",
        metavar="X",
        min=1e-8,
        rich_help_panel=GIVEN,
        show_default=False,
        help="Of the fit: 0.001 of an adapter, 0.0005 of all weights.",
    ),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        metavar="KEY=VALUE",
        rich_help_panel=GIVEN,
        show_default=False,
        help="Argument of its chat template, e.g. enable_thinking=false; may be repeated. Default: as its card says.",
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", rich_help_panel=GIVEN, help="Go on with the fit in --out that was cut short.")
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "warmup",
        examples=[
            ("lamer-graph warmup --out runs/tiny", "A MineSweeper policy in some ten minutes on two cores."),
            ("lamer-graph warmup --env sokoban:6x6-1 --out runs/tiny-sokoban", "The same for Sokoban."),
            (
                "lamer-graph warmup --policy models/smollm2-135m --minutes 10 --out runs/smollm2",
                "A pretrained model, in plain language.",
            ),
        ],
    )
    def warmup(
        ui: Ui,
        out: OutOption,
        env: EnvOption = DEFAULT_ENV,
        seed: SeedOption = 0,
        minutes: MinutesOption = None,
        policy: PolicyOption = None,
        prompt_style: StyleOption = None,
        full: FullOption = False,
        lora_rank: RankOption = None,
        rows: RowsOption = None,
        learning_rate: RateOption = None,
        template: TemplateOption = None,
        resume: ResumeOption = False,
    ) -> Json:
        """Make a policy that is worth training: format-correct, weak, and improvable.

        From nothing: a Qwen3-architecture model of under a million parameters and a tokenizer of its own. With
        --policy: an adapter of that model (or all its weights), which then answers standard prompts and reflects in
        sentences. Either is fitted to scripted weak play and to reflections of mixed quality. The gates that it must
        pass to be worth training are measured and printed at the end; the exit code is 1 if one is missed.
        """
        if policy is None:
            of_a_model = {
                "--prompt-style": prompt_style,
                "--full": full,
                "--lora-rank": lora_rank,
                "--rows": rows,
                "--learning-rate": learning_rate,
                "--template": template,
                "--resume": resume,
            }
            said = next((name for name, value in of_a_model.items() if value), None)
            if said is not None:
                raise ConfigError(f"{said} is for a given model: say which with --policy DIR")
            report = make_policy(ui, env, out, seed=seed, minutes=minutes)
        else:
            check_installed("warmup", TRAINING_NEEDS)
            from lamer_trainers.warmstart.pretrained import Given

            given = Given(
                policy=policy,
                env=env,
                style=prompt_style or "standard",
                seed=seed,
                full=full,
                rank=lora_rank,
                rows=rows,
                minutes=minutes,
                learning_rate=learning_rate,
                template=template_of(template),
            )
            report = fit_policy(ui, given, out, resume=resume)
        ui.exit_code = 0 if report.passed else FAILED
        return {"out": str(out), **report.to_json()}


def make_policy(ui: Ui, env: str, out: Path, *, seed: int, minutes: float | None) -> WarmupReport:
    """Make a tiny policy and show its gates. Raises ConfigError for what cannot be made, before any work."""
    from lamer_envs import make

    spec = make(env).spec
    check_new(out, "choose another folder, so that no policy is overwritten")
    check_installed("warmup", ("torch", "transformers", "trl"))
    from lamer_trainers.warmstart.warmup import run_warmup, teacher_of

    teacher_of(make(env))
    ui.working()
    report = run_warmup(spec, out, seed=seed, minutes=minutes, progress=ui.tell)
    _show(ui, report, out)
    return report


def fit_policy(ui: Ui, given: Given, out: Path, *, resume: bool) -> WarmupReport:
    """Fit a given model and show its gates. Raises ConfigError for what cannot be fitted, before any work."""
    from lamer_trainers.warmstart.pretrained import check, run_pretrained

    check(given, out, resume=resume)
    ui.working()
    report = run_pretrained(given, out, resume=resume, progress=ui.tell)
    _show(ui, report, out)
    return report


def _show(ui: Ui, report: WarmupReport, out: Path) -> None:
    from rich.table import Table

    from lamer_graph.cli.render import interval

    title = f"{report.env}, seed {report.seed}: {out}"
    table = Table("gate", "reading", "asked for", "", title=title, title_justify="left")
    for gate in report.gates:
        mark = "[green]passed[/]" if gate.passed else "[red]missed[/]"
        table.add_row(gate.name, f"{gate.value:.3f}", gate.target, mark)
    ui.print(table)
    made = Table("memory", "pass@1", "pass@2", "pass@3", title=f"{report.tasks} held-out tasks", title_justify="left")
    for contents, row in report.reading.pass_at.items():
        made.add_row(contents, *(interval(estimate) for estimate in row))
    ui.print(made)
    ui.print("[green]ready to be trained[/]" if report.passed else "[red]a gate is missed: do not train on this[/]")
