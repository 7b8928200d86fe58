"""`lamer-graph eval`: how often a policy solves its tasks within the first k attempts."""

from __future__ import annotations

from typing import Annotated

import typer

from lamer_graph.cli.checks import run_folder
from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.cli.job import Job
from lamer_graph.cli.memory_options import MEASURE_WARM, MeasureOption, Place, WarmOption
from lamer_graph.cli.options import (
    REPEATED,
    RUN,
    Effort,
    Game,
    OutOption,
    Player,
    ResumeOption,
    SkipOption,
    TaskOption,
    as_many,
    of_task,
)
from lamer_graph.cli.running import filled_by, note_fresh, report_loss, report_of, run_trials, run_warm
from lamer_graph.errors import ConfigError

ShuffleOption = Annotated[
    bool,
    typer.Option(
        "--shuffle-reflections",
        rich_help_panel=RUN,
        help="Ablation: every trial gets another trial's reflection. What is lost then was memory at work.",
    ),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "eval",
        main=(*REPEATED, "--shuffle-reflections"),
        examples=[
            ("lamer-graph eval --tasks 200", "pass@1..3 of the shipped policy on held-out MineSweeper boards."),
            ("lamer-graph eval --tasks 200 --memory none", "The same without memory: is it used at all?"),
            ("lamer-graph eval --tasks 200 --shuffle-reflections", "The same with other trials' reflections."),
            (
                "lamer-graph eval --tasks 200 --backend chroma --scope tasks --warm 200",
                "With the memory of 200 other boards, as it was before the first trial.",
            ),
            ("lamer-graph eval --tasks 50 --trials 8 --sampling paper", "With diversity over 8 trials of each task."),
        ],
    )
    def evaluate(
        ui: Ui,
        player: Player,
        game: Game,
        place: Place,
        effort: Effort,
        task: TaskOption = None,
        warm: WarmOption = 0,
        measure: MeasureOption = 0,
        skip: SkipOption = 0,
        shuffle_reflections: ShuffleOption = False,
        out: OutOption = None,
        resume: ResumeOption = False,
    ) -> Json:
        """Measure pass@1..k with 95 % intervals, turns, invalid actions, and trajectory diversity.

        The numbers are read from the run's log, and the sampling that produced them is printed with them.
        """
        from lamer_graph.cli.render import conditions, evaluations

        if measure and not warm:
            raise ConfigError(MEASURE_WARM)
        if warm and not measure and place.select != "similar":
            raise ConfigError(f"--select {place.select} goes by values, and --warm measures none: use --measure N, too")
        game = of_task(game, task)
        effort = as_many(effort, game)
        config = game.config(
            ui,
            player,
            tasks=effort.tasks,
            trials=effort.trials,
            skip=skip,
            shuffle_reflections=shuffle_reflections,
            **place.chosen(filled=warm > 0),
        )
        if not resume:
            place.check_kept(config.contents)
        if shuffle_reflections and effort.concurrency != Effort.concurrency:
            raise ConfigError("--concurrency and --shuffle-reflections exclude each other: all trials are open at once")
        folder = run_folder(out, "eval", resume)
        note_fresh(ui, folder, resume)
        if warm:
            config = filled_by(config, measured=measure > 0)
        job = Job(player=player, config=config, effort=effort, folder=folder, resume=resume, training=False)
        if warm and not run_warm(ui, job, warm, measure):
            return {"run": str(folder), "interrupted": True}
        _, summary = run_trials(ui, job)
        evaluation = report_of(folder, summary)
        name = f"{config.contents}, shuffled" if shuffle_reflections else config.contents
        ui.print(evaluations(f"run {folder}", {name: evaluation}), conditions(evaluation))
        report_loss(ui, folder, summary)
        return {"run": str(folder), **evaluation.to_json(), "collection": summary.to_json()}
