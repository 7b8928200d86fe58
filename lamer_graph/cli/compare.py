"""`lamer-graph compare`: which memory should I use? Every configuration plays the same tasks with the same seeds.

What must stay true: whatever cannot be played is refused before the first call; each configuration is a run of its own
inside --out, so a comparison that was cut short resumes, and one more configuration may be added to a finished one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from lamer_graph.cli.checks import check_new, run_folder
from lamer_graph.cli.compare_train import Training, starts, trained, trainings, worded
from lamer_graph.cli.frame import Json, Ui, command, options
from lamer_graph.cli.job import Job
from lamer_graph.cli.memory_options import MEASURE_WARM, Backend, MeasureOption, Store, WarmOption
from lamer_graph.cli.options import (
    MEMORY,
    REPEATED,
    RUN,
    Effort,
    Player,
    ResumeOption,
    Setting,
    TaskOption,
    as_many,
    of_task,
)
from lamer_graph.cli.running import MEASURED, WARM, check_player, filled_by, report_loss, run_trials, run_warm
from lamer_graph.errors import ConfigError
from lamer_memory import Contents, Scope, Select

if TYPE_CHECKING:
    from lamer_graph.collection.config import CollectConfig
    from lamer_graph.evaluation.compare import Comparison, Configuration

CONTENTS, BACKENDS, SCOPES, SELECTS = map(get_args, (Contents, Backend, Scope, Select))
ALL = ",".join(CONTENTS)

MemoryOption = Annotated[
    str, typer.Option("--memory", metavar="LIST", rich_help_panel=MEMORY, help=f"Of: {', '.join(CONTENTS)}.")
]
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="LIST", rich_help_panel=MEMORY, help=f"Of: {', '.join(BACKENDS)}.")
]
ScopeOption = Annotated[
    str, typer.Option("--scope", metavar="LIST", rich_help_panel=MEMORY, help=f"Of: {', '.join(SCOPES)}.")
]
SelectOption = Annotated[
    str,
    typer.Option(
        "--select",
        metavar="LIST",
        rich_help_panel=MEMORY,
        help=f"Of: {', '.join(SELECTS)}: with scope tasks, by what records are chosen.",
    ),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="NAME",
        rich_help_panel=RUN,
        show_default=False,
        help="What the others are compared with, e.g. none or reflection/chroma. Default: the first.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=RUN,
        show_default=False,
        help="Folder for the runs, tables and charts. Default: a new one under runs/.",
    ),
]


@options
@dataclass(frozen=True, kw_only=True)
class Memories(Store):
    """Every combination of some contents, backends and scopes."""

    memory: MemoryOption = ALL
    backend: BackendOption = "in-context"
    scope: ScopeOption = "trial"
    select: SelectOption = "similar"
    warm: WarmOption = 0
    measure: MeasureOption = 0

    def configurations(self) -> list[Configuration]:
        """Raises ConfigError for what is no choice, for options that would do nothing, and for less than two."""
        from lamer_graph.evaluation.compare import configurations

        contents = _listed("--memory", self.memory, CONTENTS)
        backends = _listed("--backend", self.backend, BACKENDS)
        scopes = _listed("--scope", self.scope, SCOPES)
        selects = _listed("--select", self.select, SELECTS)
        self.check(backends, scopes, filled=self.warm > 0)
        if selects != ["similar"] and "tasks" not in scopes:
            raise ConfigError("--select is about the memory of other tasks: use it with --scope tasks")
        if self.measure and not self.warm:
            raise ConfigError(MEASURE_WARM)
        return configurations(contents, backends, scopes, selects)


def register(app: typer.Typer) -> None:
    @command(
        app,
        "compare",
        main=(*REPEATED, "--train", "--preset", "--reference"),
        examples=[
            ("lamer-graph compare --tasks 300", "No memory, trajectories, reflections, both: what do they buy?"),
            (
                "lamer-graph compare --memory none,both --backend in-context,chroma --tasks 300 --out runs/memory",
                "Contents and backends, with tables and charts in runs/memory.",
            ),
            (
                "lamer-graph compare --memory none,reflection --backend chroma --scope trial,tasks --warm 300",
                "Does the memory of 300 other tasks help?",
            ),
            (
                "lamer-graph compare --memory none,reflection --backend chroma --scope trial,tasks "
                "--select similar,value,ucb --warm 300 --measure 300",
                "And does it help to know what each of its records is worth?",
            ),
            (
                "lamer-graph compare --memory trajectory,reflection,both --train 30 --preset minesweeper-cpu",
                "Which memory is best to be trained with?",
            ),
        ],
    )
    def compare(
        ui: Ui,
        player: Player,
        setting: Setting,
        memories: Memories,
        effort: Effort,
        training: Training,
        task: TaskOption = None,
        reference: ReferenceOption = None,
        out: OutOption = None,
        resume: ResumeOption = False,
    ) -> Json:
        """Compare memory configurations on the same tasks with the same seeds: success, differences, costs.

        Prints pass@1..k with 95 % intervals, paired differences from the reference with a bootstrap test,
        prompt tokens per call, the time of memory reads, tokens and seconds per solved trial; and writes the same to
        --out as Markdown, CSV, JSON, SVG and PNG. Tokens are counted where the policy gives them: a vLLM, or a folder.

        With --train each configuration first trains a policy of its own with its memory, all from the same start for
        the same number of updates, and plays with that.
        """
        from rich.markup import escape

        from lamer_graph.cli.compare_tables import tables, write_files
        from lamer_graph.evaluation.compare import check_reference
        from lamer_graph.evaluation.compare import compare as compared

        folder = run_folder(out, "compare", resume)
        setting = of_task(setting, task)
        effort = as_many(effort, setting)
        run = training.load(ui, player, setting)
        if run is not None:
            player, setting = starts(run, player, setting)
        planned = _planned(ui, player, setting, memories, effort)
        if run is not None:
            planned = worded(run, setting, planned)
        check_reference(list(planned), reference)
        if not resume:
            check_new(folder, "choose another folder, or go on there with --resume")
        folders = {name: folder / name.replace("/", "-") for name in planned}
        if resume and run is None:
            every = [place for folder in folders.values() for place in (folder / WARM, folder / MEASURED, folder)]
            asyncio.run(check_player(ui, player, next(iter(planned.values())).env, every))
        runs = {} if run is None else trainings(run, planned, folders)
        learned: Json = {}
        for name, config in planned.items():
            plays = player
            if name in runs:
                plays, learned[name] = trained(ui, player, runs[name], folders[name], name)
            # Reads are what is measured, so every one is made and waited for; tokens are counted where there are any.
            job = Job(
                player=plays,
                config=config,
                effort=effort,
                folder=folders[name],
                resume=True,
                training=None,
                write_behind=False,
            )
            if not _played(ui, job, memories, name):
                return {"run": str(folder), "interrupted": True}
        comparison = compared(folders, reference, trained=run is not None)
        ui.print(*tables(comparison))
        files = [*write_files(comparison, folder), *_chart(ui, comparison, folder)]
        ui.print(escape(f"also as {', '.join(path.name for path in files)} in {folder}"))
        document = {"run": str(folder), **comparison.to_json(), "files": [str(path) for path in files]}
        return {**document, "training": learned} if learned else document


def _planned(ui: Ui, player: Player, setting: Setting, memories: Memories, effort: Effort) -> dict[str, CollectConfig]:
    """The runs by name, checked as far as they can be without playing. Raises ConfigError and the memory's errors."""
    from lamer_graph.collection.config import check_memory
    from lamer_graph.collection.run_memory import probe_memory

    planned = {}
    for made in memories.configurations():
        memory = {"contents": made.contents, **memories.settings(made.backend, made.scope)}
        memory |= {"select": made.select} if made.scope == "tasks" else {}
        config = setting.config(ui, player, tasks=effort.tasks, trials=effort.trials, **memory)
        check_memory(config, effort.workers)
        warm = memories.warm and made.scope == "tasks"
        planned[made.name] = filled_by(config, measured=memories.measure > 0) if warm else config
    for config in {(config.backend, config.embedder): config for config in planned.values()}.values():
        probe_memory(config)
    return planned


def _listed(option: str, value: str, choices: tuple[str, ...]) -> list[str]:
    """The parts of a list, each once. Raises ConfigError for one that is not a choice."""
    parts = list(dict.fromkeys(part.strip() for part in value.split(",")))
    for part in parts:
        if part not in choices:
            near = get_close_matches(part, choices, n=1, cutoff=0.4)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"{option} takes {', '.join(choices)}, separated by commas, not '{part}'{hint}")
    return parts


def _played(ui: Ui, job: Job, memories: Memories, name: str) -> bool:
    """Play what the configuration's run misses; False where it was interrupted, or its memory could not be filled."""
    if job.config.store in (WARM, MEASURED) and not run_warm(ui, job, memories.warm, memories.measure):
        return False
    _, done = run_trials(ui, job, name)
    report_loss(ui, job.folder, done)
    return not done.interrupted


def _chart(ui: Ui, comparison: Comparison, folder: Path) -> list[Path]:
    from lamer_graph.cli.compare_chart import draw

    try:
        return draw(comparison, folder)
    except ImportError:
        ui.print("no chart: it needs matplotlib, install lamer-graph\\[viewer]")
        return []
