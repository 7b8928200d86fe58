"""`lamer-graph collect`: play many trials and log every call with its exact tokens, for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.cli.job import Job
from lamer_graph.cli.memory_options import Place
from lamer_graph.cli.options import (
    REPEATED,
    RUN,
    Effort,
    Game,
    Player,
    ResumeOption,
    SkipOption,
    TaskOption,
    as_many,
    of_task,
)
from lamer_graph.cli.running import note_fresh, report_loss, run_trials

if TYPE_CHECKING:
    from lamer_graph.collection.collect import CollectSummary

OutOption = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", rich_help_panel=RUN, show_default=False, help="The run's folder."),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "collect",
        main=REPEATED,
        examples=[
            (
                "lamer-graph collect --split train --tasks 50 --trials 8 --out runs/first",
                "To train on: groups of 8 trials on each of 50 tasks.",
            ),
            (
                "lamer-graph collect --split train --tasks 50 --trials 8 --out runs/first --resume",
                "Go on after a crash or Ctrl-C.",
            ),
            (
                "lamer-graph collect --split train --tasks 50 --skip 50 --trials 8 --out runs/second",
                "The next 50 tasks, perhaps on another machine; `train --from-logs` takes both.",
            ),
            (
                "lamer-graph collect --base-url http://127.0.0.1:8000/v1 --concurrency 128 --workers 2 --out runs/big",
                "Two processes with 128 trials each against a server.",
            ),
            (
                "lamer-graph collect --backend chroma --scope tasks --store runs/first --out runs/second",
                "Trials that also see what an earlier run, played with the same memory, has learned.",
            ),
        ],
    )
    def collect(
        ui: Ui,
        player: Player,
        game: Game,
        place: Place,
        effort: Effort,
        out: OutOption,
        task: TaskOption = None,
        skip: SkipOption = 0,
        resume: ResumeOption = False,
    ) -> Json:
        """Play many trials and log every policy call with its exact tokens and logprobs.

        A run is the split's first --tasks tasks, --trials times each; --resume plays exactly what is missing. A failed
        call ends its trial with a recorded error and never the run. Ctrl-C ends the run with its log whole.
        """
        game = of_task(game, task)
        effort = as_many(effort, game)
        config = game.config(ui, player, tasks=effort.tasks, trials=effort.trials, skip=skip, **place.chosen())
        if not resume:
            place.check_kept(config.contents)
        note_fresh(ui, out, resume)
        job = Job(player=player, config=config, effort=effort, folder=out, resume=resume, training=True)
        config, summary = run_trials(ui, job)
        _sum_up(ui, out, summary)
        report_loss(ui, out, summary)
        return {"run": str(out), "config": config.model_dump(mode="json"), **summary.to_json()}


def _sum_up(ui: Ui, out: Path, summary: CollectSummary) -> None:
    from lamer_graph.cli.render import facts

    rate = summary.calls / summary.seconds if summary.seconds else 0.0
    ui.print(
        facts(
            f"run {out}",
            {
                "trials asked for": f"{summary.requested:,}",
                "there already": f"{summary.already:,}",
                "finished now": f"{summary.finished:,}",
                "ended by an error": f"{summary.failed:,}",
                "left for --resume": f"{summary.missing:,}",
                "turns": f"{summary.turns:,}",
                "policy calls": f"{summary.calls:,} in {summary.seconds:.1f} s, {rate:.1f}/s",
            },
        )
    )
