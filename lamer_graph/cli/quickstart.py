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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamer_graph.cli.checks import check_new, run_folder
from lamer_graph.cli.frame import FAILED, Json, Ui, command
from lamer_graph.cli.job import Job
from lamer_graph.cli.options import DEFAULT_ENV, RUN, Effort, EnvOption, Game, OutOption, Player, SeedOption
from lamer_graph.cli.play import watch
from lamer_graph.cli.running import report_of, run_trials
from lamer_graph.errors import LamerError
from lamer_memory import Contents

if TYPE_CHECKING:
    from lamer_graph.evaluation.evaluate import Evaluation
    from lamer_graph.serving.vllm import VllmServer

# (memory contents, reflections shuffled between trials). The shuffled ones show what true reflections are worth.
MODES: tuple[tuple[Contents, bool], ...] = (
    ("none", False),
    ("trajectory", False),
    ("reflection", False),
    ("both", False),
    ("reflection", True),
)
AFTER: tuple[tuple[Contents, bool], ...] = (("none", False), ("reflection", False), ("reflection", True))
"""What the trained policy is read with."""
PRESET = "minesweeper-cpu-lora"
TRAINED = "trained"
"""Name under which the server answers with the adapter that the quickstart made."""
CONCURRENCY = 64

TasksOption = Annotated[
    int, typer.Option("--tasks", metavar="N", min=1, rich_help_panel=RUN, help="Tasks for each memory mode.")
]
UpdatesOption = Annotated[
    int,
    typer.Option("--updates", metavar="N", min=0, rich_help_panel=RUN, help="Training updates; 0 leaves training out."),
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


class Taught(Player):
    """A small policy behind a server: it has the rules in its weights, so nobody need be warned that its chat template
    leaves them out."""

    def folding(self) -> bool | None:
        return False


def register(app: typer.Typer) -> None:
    @command(
        app,
        "quickstart",
        examples=[
            ("lamer-graph quickstart", "A trial to watch, what memory buys, a short meta-RL run, and what it bought."),
            ("lamer-graph quickstart --from-scratch", "The same with a policy that is made before your eyes."),
            ("lamer-graph quickstart --tasks 20 --updates 0 --local", "A quick look: no server, no training."),
        ],
    )
    def quickstart(
        ui: Ui,
        env: EnvOption = DEFAULT_ENV,
        tasks: TasksOption = 200,
        updates: UpdatesOption = 30,
        seed: SeedOption = 0,
        from_scratch: ScratchOption = False,
        local: LocalOption = False,
        out: OutOption = None,
    ) -> Json:
        """A small policy, served by vLLM, plays trials of up to three episodes, and learns to explore by meta-RL.

        Watch one trial, see what each memory buys on the same held-out tasks, then train an adapter for some minutes,
        load it into the running server and play the tasks again. Logs, metrics and a plot are left behind.
        """
        started = time.monotonic()
        folder = run_folder(out, "quickstart")
        check_new(folder)
        player = Player()
        if from_scratch:
            player = Player(policy=_made(ui, env, folder / "policy", seed))
        policy = player.folder(env)
        assert policy is not None
        player, game = Player(policy=policy), Game(env=env, seed=seed)
        game = replace(game, prompt_style=game.style(player, env))
        trained: Json | None = None
        with _served(ui, policy, folder, local) as server:
            base_url = None
            if server is not None:
                base_url = server.base_url
                player = Taught(base_url=base_url, model=server.model_name)
            ui.print("\n[bold]One trial[/] (more: lamer-graph play)")
            trial = asyncio.run(watch(ui, player, game, 0))
            ui.print(f"\n[bold]{len(MODES)} ways to remember[/], {tasks} held-out tasks each")
            rows = _evaluated(ui, player, game, tasks, folder, MODES)
            _table(ui, rows)
            if updates:
                ui.print(f"\n[bold]Meta-RL[/], {updates} updates in this process (more: lamer-graph train)")
                trained = _train(ui, env, policy, folder / "training", updates, seed)
                adapter = Path(trained["policy"])
                if server is None:
                    player = Player(policy=adapter)
                else:
                    server.load_adapter(TRAINED, adapter)
                    player = Taught(base_url=base_url, model=TRAINED)
                    ui.print(f"the running vLLM has loaded the adapter and answers as '{TRAINED}'")
                after = _evaluated(ui, player, game, tasks, folder / TRAINED, AFTER)
                rows |= {f"{TRAINED}, {name}": row for name, row in after.items()}
                before = {name: row for name, row in rows.items() if name in after}
                ui.print("\n[bold]What training bought[/]")
                _table(ui, _named(before, "before") | _named(after, "after"))
        valid = _checked(ui, folder)
        seconds = time.monotonic() - started
        ui.print(f"done in {seconds:.0f} s; the logs are under {folder}")
        ui.exit_code = 0 if valid else FAILED
        return {
            "policy": str(policy),
            "base_url": base_url,
            "run": str(folder),
            "trial": trial,
            "modes": {name: evaluation.to_json() for name, evaluation in rows.items()},
            "training": trained,
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
def _served(ui: Ui, policy: Path, folder: Path, local: bool) -> Iterator[VllmServer | None]:
    """A vLLM that serves the policy, None where it runs in this process instead."""
    from lamer_graph.serving.vllm import VllmServer, vllm_flavour

    ui.working()
    if local or vllm_flavour() is None:
        why = "as asked" if local else "vLLM is not installed, see `lamer-graph doctor`"
        ui.print(f"[bold]policy {policy.name}[/] runs in this process ({why})")
        yield None
        return
    begun = time.monotonic()
    with VllmServer(policy.resolve(), run_dir=folder, max_adapters=1, on_progress=ui.note) as server:
        ui.print(
            f"[bold]policy {policy.name}[/] is served by vLLM at {server.base_url} "
            f"(ready after {time.monotonic() - begun:.0f} s, log {folder / server.log_path.name})"
        )
        yield server


def _train(ui: Ui, env: str, policy: Path, folder: Path, updates: int, seed: int) -> Json:
    """A short run of the preset, as `lamer-graph train` would make it."""
    from lamer_graph.cli.train import train_run
    from lamer_trainers.runfile import load_run

    changes = [f"policy={policy}", f"collect.env={env}", "collect.max_turns=null", f"optimise.updates={updates}"]
    run = load_run(preset=PRESET, changes=[*changes, f"optimise.seed={seed}", f"collect.seed={seed}"])
    return train_run(ui, run, folder, resume=False)


def _evaluated(
    ui: Ui, player: Player, game: Game, tasks: int, folder: Path, modes: tuple[tuple[Contents, bool], ...]
) -> dict[str, Evaluation]:
    """Play the tasks in each of the modes, a run folder each, by name."""
    effort = Effort(tasks=tasks, concurrency=CONCURRENCY)
    rows: dict[str, Evaluation] = {}
    for contents, shuffled in modes:
        name = f"{contents}, shuffled" if shuffled else contents
        config = replace(game, contents=contents).config(ui, player, tasks=tasks, shuffle_reflections=shuffled)
        run = folder / name.replace(", ", "-")
        # Through the LangGraph agent, as an application would; only shuffling needs the bulk driver.
        job = Job(player=player, config=config, effort=effort, folder=run, resume=False, training=True)
        _, summary = run_trials(ui, replace(job, through_graph=not shuffled), name)
        if summary.interrupted:
            raise KeyboardInterrupt
        rows[name] = report_of(run, summary)
    return rows


def _named(rows: dict[str, Evaluation], when: str) -> dict[str, Evaluation]:
    return {f"{when}, {name}": row for name, row in rows.items()}


def _table(ui: Ui, rows: dict[str, Evaluation]) -> None:
    from lamer_graph.cli.render import conditions, evaluations

    ui.print(evaluations("", rows), conditions(next(iter(rows.values()))))


def _checked(ui: Ui, folder: Path) -> bool:
    """Whether every log under the folder is valid, training's included."""
    from lamer_graph.runlog import TRIALS_FILE, check

    reports = [check(path.parent) for path in sorted(folder.rglob(TRIALS_FILE))]
    trials, calls = sum(report.trials for report in reports), sum(report.calls for report in reports)
    valid = all(report.ok for report in reports)
    what = "[green]valid[/]" if valid else "[red]NOT valid: lamer-graph log check RUN[/]"
    ui.print(f"{trials:,} trials with {calls:,} policy calls logged, exact tokens and logprobs of each: {what}")
    return valid
