"""`lamer-graph quickstart`: the main job end to end, at a size that two CPU cores play in minutes.

What must stay true: it is made of what the other commands are made of (server, play, collect, report, check), so what
it shows is what they do; every number in its table was measured in this very run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamer_graph.cli.frame import FAILED, Json, Ui, command
from lamer_graph.cli.options import DEFAULT_ENV, RUN, Effort, EnvOption, Game, Player, SeedOption
from lamer_graph.cli.play import watch
from lamer_graph.cli.running import report_of, run_trials
from lamer_graph.errors import ConfigError, LamerError
from lamer_memory import Contents

if TYPE_CHECKING:
    from lamer_graph.evaluate import Evaluation

# (memory contents, reflections shuffled between trials). The shuffled ones show what true reflections are worth.
MODES: tuple[tuple[Contents, bool], ...] = (
    ("none", False),
    ("trajectory", False),
    ("reflection", False),
    ("both", False),
    ("reflection", True),
)
CONCURRENCY = 64

TasksOption = Annotated[
    int, typer.Option("--tasks", metavar="N", min=1, rich_help_panel=RUN, help="Tasks for each memory mode.")
]
ScratchOption = Annotated[
    bool,
    typer.Option(
        "--from-scratch",
        rich_help_panel=RUN,
        help="Make the policy anew first (some ten minutes), instead of using the shipped one.",
    ),
]
LocalOption = Annotated[
    bool, typer.Option("--local", rich_help_panel=RUN, help="Run the policy in this process, even if vLLM is there.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "--run",
        metavar="DIR",
        rich_help_panel=RUN,
        show_default=False,
        help="Folder for everything. Default: a new one under runs/.",
    ),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "quickstart",
        examples=[
            ("lamer-graph quickstart", "The shipped policy on a real vLLM: one trial to watch, then the table."),
            ("lamer-graph quickstart --from-scratch", "The same with a policy that is made before your eyes."),
            ("lamer-graph quickstart --tasks 20 --local", "A quick look without a server."),
        ],
    )
    def quickstart(
        ui: Ui,
        env: EnvOption = DEFAULT_ENV,
        tasks: TasksOption = 200,
        seed: SeedOption = 0,
        from_scratch: ScratchOption = False,
        local: LocalOption = False,
        out: OutOption = None,
    ) -> Json:
        """A small policy, served by vLLM, plays trials of up to three episodes: watch one, then see what memory buys.

        Every memory mode plays the same held-out tasks. The log of each is left behind, valid and ready to train on.
        """
        started = time.monotonic()
        folder = out or Path("runs") / f"quickstart-{datetime.now():%Y%m%d-%H%M%S}"
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--out {folder} exists already; choose another folder")
        player = Player()
        if from_scratch:
            player = Player(policy=_made(ui, env, folder / "policy", seed))
        policy = player.folder(env)
        assert policy is not None
        player, game = Player(policy=policy), Game(env=env, seed=seed)
        game = replace(game, prompt_style=game.style(player, env))
        with _served(ui, policy, folder, local) as base_url:
            if base_url is not None:
                player = Player(base_url=base_url)
            ui.print("\n[bold]One trial[/] (more: lamer-graph play)")
            trial = asyncio.run(watch(ui, player, game, 0))
            ui.print(f"\n[bold]{len(MODES)} ways to remember[/], {tasks} held-out tasks each")
            rows = _evaluated(ui, player, game, tasks, folder)
        valid = _checked(ui, folder, rows)
        seconds = time.monotonic() - started
        ui.print(f"done in {seconds:.0f} s; the logs are under {folder}")
        ui.exit_code = 0 if valid else FAILED
        return {
            "policy": str(policy),
            "base_url": base_url,
            "run": str(folder),
            "trial": trial,
            "modes": {name: evaluation.to_json() for name, evaluation in rows.items()},
            "logs_valid": valid,
            "seconds": round(seconds, 1),
        }


def _made(ui: Ui, env: str, folder: Path, seed: int) -> Path:
    """A policy from nothing. Raises LamerError where it misses a gate: its table would mislead."""
    from lamer_graph.cli.warmup import make_policy

    report = make_policy(ui, env, folder, seed=seed, minutes=None)
    if not report.passed:
        raise LamerError(f"the new policy in {folder} missed a gate; another --seed may pass")
    return folder


@contextmanager
def _served(ui: Ui, policy: Path, folder: Path, local: bool) -> Iterator[str | None]:
    """The address of a vLLM that serves the policy, None where it runs in this process instead."""
    from lamer_graph.serve import VllmServer, vllm_flavour

    ui.working()
    if local or vllm_flavour() is None:
        why = "as asked" if local else "vLLM is not installed, see `lamer-graph doctor`"
        ui.print(f"[bold]policy {policy.name}[/] runs in this process ({why})")
        yield None
        return
    begun = time.monotonic()
    with VllmServer(policy.resolve(), run_dir=folder, max_adapters=0, on_progress=ui.note) as server:
        ui.print(
            f"[bold]policy {policy.name}[/] is served by vLLM at {server.base_url} "
            f"(ready after {time.monotonic() - begun:.0f} s, log {folder / server.log_path.name})"
        )
        yield server.base_url


def _evaluated(ui: Ui, player: Player, game: Game, tasks: int, folder: Path) -> dict[str, Evaluation]:
    from lamer_graph.cli.render import conditions, evaluations

    effort = Effort(tasks=tasks, concurrency=CONCURRENCY)
    rows: dict[str, Evaluation] = {}
    for contents, shuffled in MODES:
        name = f"{contents}, shuffled" if shuffled else contents
        config = replace(game, memory=contents).config(player, tasks=tasks, shuffle_reflections=shuffled)
        run = folder / name.replace(", ", "-")
        # Through the LangGraph agent, as an application would; only shuffling needs the bulk driver.
        _, summary = run_trials(
            ui, player, config, effort, run, resume=False, training=True, through_graph=not shuffled, what=name
        )
        rows[name] = report_of(run, summary)
        if summary.interrupted:
            raise KeyboardInterrupt
    ui.print(evaluations("", rows), conditions(next(iter(rows.values()))))
    return rows


def _checked(ui: Ui, folder: Path, rows: dict[str, Evaluation]) -> bool:
    from lamer_graph.runlog import check

    reports = [check(folder / name.replace(", ", "-")) for name in rows]
    trials, calls = sum(report.trials for report in reports), sum(report.calls for report in reports)
    valid = all(report.ok for report in reports)
    what = "[green]valid[/]" if valid else "[red]NOT valid: lamer-graph log check RUN[/]"
    ui.print(f"{trials:,} trials with {calls:,} policy calls logged, exact tokens and logprobs of each: {what}")
    return valid
