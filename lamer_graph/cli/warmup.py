"""`lamer-graph warmup`: a policy worth training, for one environment: a small one from nothing, or a given model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lamer_graph.cli.checks import TRAINING_NEEDS, check_installed
from lamer_graph.cli.frame import FAILED, Json, Ui, command
from lamer_graph.cli.options import DEFAULT_ENV, EnvOption, template_of
from lamer_graph.errors import ConfigError

if TYPE_CHECKING:
    from lamer_trainers.warmstart.early import Early
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
        show_default=False,
        help="Scripted answers it is fitted to. Default: what the recipe needs; 2,000 with --policy.",
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
    bool,
    typer.Option(
        "--resume",
        help="Go on with what was cut short in --out: with a given model from its last checkpoint, from nothing where "
        "the fit was whole and its measuring was not.",
    ),
]


EARLY = "Early experience"
MethodOption = Annotated[
    Literal["bc", "iwm", "sr"],
    typer.Option(
        "--method",
        rich_help_panel=EARLY,
        help="bc: imitation. iwm: first it learns what actions lead to, the teacher's and others, by a third of the "
        "rows. sr: a third of the rows say why the teacher's action is better, given what others led to.",
    ),
]
BranchesOption = Annotated[
    int | None,
    typer.Option(
        "--branches",
        metavar="K",
        min=1,
        rich_help_panel=EARLY,
        show_default=False,
        help="Other actions that are tried at a state: 3. Proposed by --policy, else drawn.",
    ),
]
ExplainerOption = Annotated[
    str | None,
    typer.Option(
        "--explainer",
        metavar="policy|scripted|URL",
        rich_help_panel=EARLY,
        show_default=False,
        help="With sr, who explains: --policy itself, a script that repeats the outcomes, or a model at an address. "
        "Default: policy; scripted without --policy.",
    ),
]
ExplainerModelOption = Annotated[
    str | None,
    typer.Option(
        "--explainer-model",
        metavar="NAME",
        rich_help_panel=EARLY,
        show_default=False,
        help="Which of the models at --explainer. Default: its only one.",
    ),
]
ExportOption = Annotated[
    Path | None,
    typer.Option(
        "--export", metavar="DIR", show_default=False, help="Also write the rows as Parquet files, one a kind."
    ),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "warmup",
        main=("--out", "--env", "--policy", "--minutes", "--rows", "--seed", "--method", "--resume"),
        examples=[
            ("lamer-graph warmup --out runs/tiny", "A MineSweeper policy in some ten minutes on two cores."),
            ("lamer-graph warmup --env sokoban:6x6-1 --out runs/tiny-sokoban", "The same for Sokoban."),
            (
                "lamer-graph warmup --policy models/smollm2-135m --minutes 10 --out runs/smollm2",
                "A pretrained model, in plain language.",
            ),
            (
                "lamer-graph warmup --method iwm --out runs/iwm --export runs/iwm-data",
                "First what actions lead to, then the teacher's; with the data sets.",
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
        method: MethodOption = "bc",
        branches: BranchesOption = None,
        explainer: ExplainerOption = None,
        explainer_model: ExplainerModelOption = None,
        export: ExportOption = None,
    ) -> Json:
        """Make a policy that is worth training: format-correct, weak, and improvable.

        From nothing: a Qwen3-architecture model of under a million parameters and a tokenizer of its own. With
        --policy: an adapter of that model (or all its weights), which then answers standard prompts and reflects in
        sentences. Either is fitted to scripted weak play and to reflections of mixed quality. The gates that it must
        pass to be worth training are measured and printed at the end; the exit code is 1 if one is missed.
        """
        if rows is not None and minutes is not None:
            raise ConfigError("--rows and --minutes both bound the fit: give one of the two")
        if policy is None:
            of_a_model = {
                "--prompt-style": prompt_style,
                "--full": full,
                "--lora-rank": lora_rank,
                "--learning-rate": learning_rate,
                "--template": template,
            }
            said = next((name for name, value in of_a_model.items() if value), None)
            if said is not None:
                raise ConfigError(f"{said} is for a given model: say which with --policy DIR")
            if explainer not in (None, "scripted"):
                raise ConfigError(
                    "a tiny policy has no words for what a model explains: leave --explainer out, or give a model to "
                    "fit with --policy DIR"
                )
            early = early_of(method, branches, explainer, explainer_model)
            report = make_policy(
                ui, env, out, seed=seed, minutes=minutes, rows=rows, early=early, export=export, resume=resume
            )
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
                early=early_of(method, branches, explainer, explainer_model),
                explainer=explainer or "policy",
                explainer_model=explainer_model,
                dataset=export,
            )
            report = fit_policy(ui, given, out, resume=resume)
        ui.exit_code = 0 if report.passed else FAILED
        return {"out": str(out), **report.to_json()}


def early_of(method: str, branches: int | None, explainer: str | None, model: str | None) -> Early:
    """The method and its branches. Raises ConfigError for options of another method."""
    check_installed("warmup", ("torch", "transformers", "trl"))
    from lamer_trainers.warmstart.branches import BRANCHES
    from lamer_trainers.warmstart.early import Early

    if method == "bc" and branches is not None:
        raise ConfigError("--branches is for --method iwm or sr: imitation tries no other actions")
    if method != "sr" and explainer is not None:
        raise ConfigError("--explainer is for --method sr: nothing is explained otherwise")
    if model is not None and (explainer is None or explainer in ("policy", "scripted")):
        raise ConfigError("--explainer-model is of the models at an address: say which with --explainer URL")
    return Early(method, branches or BRANCHES)  # type: ignore[arg-type]


def make_policy(
    ui: Ui,
    env: str,
    out: Path,
    *,
    seed: int,
    minutes: float | None,
    rows: int | None = None,
    early: Early | None = None,
    export: Path | None = None,
    resume: bool = False,
) -> WarmupReport:
    """Make a tiny policy and show its gates. Raises ConfigError for what cannot be made, before any work."""
    from lamer_envs import make

    spec = make(env).spec
    check_installed("warmup", ("torch", "transformers", "trl"))
    from lamer_trainers.warmstart.folder import check_folder

    check_folder(out, resume=resume)
    from lamer_trainers.warmstart.early import IMITATION, check_export
    from lamer_trainers.warmstart.warmup import run_warmup, teacher_of

    teacher_of(make(env))
    check_export(None if resume else export)
    ui.working()
    report = run_warmup(
        spec,
        out,
        seed=seed,
        minutes=minutes,
        progress=ui.tell,
        rows=rows,
        early=IMITATION if early is None else early,
        dataset=export,
        resume=resume,
    )
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
