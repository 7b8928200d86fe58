"""`lamer-graph train`: meta-RL from a run file or a preset, one line per update, a plot at the end."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lamer_graph.cli.checks import TRAINING_NEEDS, check_installed, run_folder
from lamer_graph.cli.frame import FAILED, Json, Ui, command
from lamer_graph.cli.own import named, own
from lamer_graph.errors import ConfigError

if TYPE_CHECKING:
    from lamer_trainers.loop.plan import Plan
    from lamer_trainers.loop.prefer import Counted
    from lamer_trainers.runfile import RunFile

WHAT = "What is trained"

ArgumentsOption = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN.yaml] [section.key=value ...]",
        show_default=False,
        help="A run file, unless --preset names one, and changes to it, e.g. optimise.updates=20 collect.trials=4.",
    ),
]


def _known_presets(begun: str) -> list[str]:
    """For the shell's completion."""
    from lamer_trainers.presets import PRESETS

    return [name for name in PRESETS if name.startswith(begun)]


PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        rich_help_panel=WHAT,
        show_default=False,
        autocompletion=_known_presets,
        help="A run file that comes with us.",
    ),
]
PresetsOption = Annotated[bool, typer.Option("--presets", rich_help_panel=WHAT, help="Print the presets' names.")]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="MODULE:NAME",
        rich_help_panel=WHAT,
        show_default=False,
        help="Tasks of an application of your own, made by task_agent; in place of the run's collect.env.",
    ),
]
RlOption = Annotated[
    bool,
    typer.Option(
        "--rl",
        rich_help_panel=WHAT,
        help="Plain RL instead: one episode a trial, no memory, as many trials a task as the run may have episodes.",
    ),
]
LogsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--from-logs",
        metavar="RUN",
        rich_help_panel=WHAT,
        show_default=False,
        help="Train on a logged run's folder instead of collecting; may be given again. Sets old_logprobs=recomputed.",
    ),
]
AlgorithmOption = Annotated[
    Literal["gigpo", "grpo", "rloo", "reinforce++", "mr-search", "ppo", "dpo"] | None,
    typer.Option(
        "--algorithm",
        rich_help_panel=WHAT,
        show_default=False,
        help="Short for optimise.algorithm. dpo: preference pairs of logged trials, with --from-logs.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=WHAT,
        show_default=False,
        help="The run's folder. Default: a new one under runs/.",
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        rich_help_panel=WHAT,
        help="Go on with the run in --out from its last checkpoint, perhaps to more optimise.updates.",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", rich_help_panel=WHAT, help="Print the plan: tokens, memory and time; train nothing."),
]
ShowOption = Annotated[
    bool, typer.Option("--show", rich_help_panel=WHAT, help="Print the run as a run file, in YAML; train nothing.")
]
DeviceOption = Annotated[
    Literal["cpu", "a100", "h100", "h200"] | None,
    typer.Option(
        "--device",
        rich_help_panel=WHAT,
        show_default=False,
        help="What --dry-run estimates for. Default: the device that is here, as a probe of a second finds it.",
    ),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "train",
        main=("--preset", "--presets", "--rl", "--from-logs", "--algorithm", "--out", "--resume", "--dry-run"),
        examples=[
            ("lamer-graph train --preset minesweeper-cpu --out runs/meta", "Meta-RL on two cores, in some minutes."),
            (
                "lamer-graph train --preset minesweeper-cpu --rl --out runs/rl",
                "The RL baseline: as many episodes as meta-RL may play.",
            ),
            (
                "lamer-graph train --preset minesweeper-cpu collect.scope=tasks collect.backend=chroma",
                "With what earlier tasks taught, a memory that goes on from update to update.",
            ),
            (
                "lamer-graph train --preset minesweeper-qwen3-4b --dry-run --device h200",
                "What a GPU would take.",
            ),
            ("lamer-graph train my.yaml optimise.learning_rate=1e-5", "A run file of one's own, with a change."),
            ("lamer-graph train --preset minesweeper-cpu --from-logs runs/first", "Off-line, from collected trials."),
            (
                "lamer-graph train --preset minesweeper-cpu --algorithm dpo --from-logs runs/first",
                "Preference pairs: which of two answers to one prompt came to more.",
            ),
            ("lamer-graph train --preset minesweeper-cpu --out runs/meta --resume", "Go on after a crash."),
        ],
    )
    def train(
        ui: Ui,
        arguments: ArgumentsOption = None,
        preset: PresetOption = None,
        presets: PresetsOption = False,
        task: TaskOption = None,
        rl: RlOption = False,
        from_logs: LogsOption = None,
        algorithm: AlgorithmOption = None,
        out: OutOption = None,
        resume: ResumeOption = False,
        dry_run: DryRunOption = False,
        device: DeviceOption = None,
        show: ShowOption = False,
    ) -> Json | None:
        """Train a policy on its own trials: play, reflect, retry, credit later success to what led there.

        Everything is in the run's folder: trials, one line of metrics per update, checkpoints, a plot, and at the end
        the policy (`policy/`, or `adapter/` where lora is set). A run that was killed goes on with --resume.
        A model that thinks aloud is told not to by template.enable_thinking=false. On several GPUs: `accelerate launch
        --multi_gpu -m lamer_graph train ..`, with --out; one process collects, all of them train.
        """
        check_installed("train", TRAINING_NEEDS)
        from lamer_trainers.presets import PRESETS

        if presets:
            ui.print("\n".join(PRESETS))
            return {"presets": list(PRESETS)}
        from lamer_trainers.learning.launch import is_main, launched

        if launched() > 1 and out is None:
            raise ConfigError(f"{launched()} processes train in one folder: name it with --out DIR")
        changes = [] if task is None else [f"collect.env={own(task).spec}"]
        changes += [] if algorithm is None else [f"optimise.algorithm={algorithm}"]
        run = _run_of([*(arguments or []), *changes], preset, rl, from_logs or [])
        if not run.collect.of_application:
            named(run.collect.env)
        if show:
            return _show_file(ui, run)
        if dry_run:
            return _show_plan(ui, run, device)
        if device is not None:
            raise ConfigError("--device is what --dry-run estimates for; a run trains on the device that is here")
        folder = run_folder(out, f"train-{preset or 'run'}", resume)
        if not is_main():
            _train_along(run, folder, resume=resume)
            return None
        if not resume:
            from lamer_trainers.loop.run_folder import check_folder

            check_folder(folder, run, resume=False)  # without waiting for torch
        return train_run(ui, run, folder, resume=resume)


def _run_of(arguments: list[str], preset: str | None, rl: bool, logs: list[str]) -> RunFile:
    """The run that the command line describes. Raises ConfigError and TrainingConfigError."""
    from lamer_trainers.presets import rl_baseline
    from lamer_trainers.runfile import load_run

    files = [argument for argument in arguments if "=" not in argument]
    changes = [argument for argument in arguments if "=" in argument]
    if len(files) > 1:
        raise ConfigError(f"one run file, please, not {len(files)}: {', '.join(files)}")
    if not files and preset is None:
        raise ConfigError("give a run file or --preset NAME (see --presets)")
    if logs:
        changes = [f"logs={json.dumps(logs)}", "optimise.old_logprobs=recomputed", *changes]
    file = files[0] if files else None
    if rl:
        collect = load_run(file, preset=preset, changes=changes).collect
        changes = [*rl_baseline(collect.trials, collect.max_episodes), *changes]
    return load_run(file, preset=preset, changes=changes)


def _train_along(run: RunFile, folder: Path, *, resume: bool) -> None:
    """Train in a process that another one speaks for."""
    from lamer_trainers.errors import StoppedElsewhereError
    from lamer_trainers.loop.train import train

    try:
        train(run, folder, resume=resume)
    except StoppedElsewhereError:
        raise typer.Exit(FAILED) from None


def train_run(ui: Ui, run: RunFile, folder: Path, *, resume: bool) -> Json:
    """Train, with a line per update and a plot at the end; the document that `--json` prints."""
    from rich.markup import escape

    from lamer_trainers.loop.curves import draw, read_metrics
    from lamer_trainers.loop.run_folder import METRICS
    from lamer_trainers.loop.train import check, train

    check(run, folder, resume=resume)
    of_pairs = ""
    if run.optimise.algorithm == "dpo":
        from lamer_trainers.loop.prefer import counted

        there = counted(run)  # too few are a refusal
        of_pairs = f"{run.preferences.batch} of {_pairs(there)}"
    missed = _missed_gates(ui, run)
    ui.working()
    at = escape(str(folder))
    what = f"x {run.collect.trials} trials x up to {run.collect.max_episodes} episodes, memory {run.collect.contents}"
    if run.collect.scope == "tasks":
        what += f" and {run.collect.k} records of other tasks"
    if run.logs:
        what = escape(f"as logged in {', '.join(run.logs)}")
    each = of_pairs or f"{run.collect.tasks} tasks"
    ui.print(
        f"[bold]{escape(_short(run.policy))}[/] learns {run.collect.env}: {run.optimise.updates} updates of "
        f"{each} {what}, {run.optimise.algorithm}, in {at}"
    )
    with _lines(ui, run.optimise.updates) as show:
        done = train(run, folder, resume=resume, progress=show)
    metrics = read_metrics(folder / METRICS)
    plots: list[Path] = []
    if importlib.util.find_spec("matplotlib") is not None:
        plots = draw({run.collect.env: metrics}, folder / "curves")
    best = "" if done.best is None else f", best validation pass@N {done.best:.3f} at update {done.best_update}"
    made = escape(str(done.folder))
    ui.print(f"done: {made} after {done.updates} updates{best}")
    if plots:
        ui.print(escape(f"plot: {', '.join(str(path) for path in plots)}"))
    else:
        ui.print(f"no plot of {at}/{METRICS}: it needs matplotlib, pip install 'lamer-graph\\[viewer]'")
    then = f"eval --policy {made} --env {run.collect.env} --tasks 500"
    if run.collect.of_application:
        then = f"serve --policy {made}"
    ui.print(f"next: lamer-graph {then}", soft_wrap=True)
    if run.lora is not None:
        base = escape(_short(run.base))
        ui.print(f"or:   lamer-graph serve --policy {base} --adapter trained={made}", soft_wrap=True)
    return {
        "out": str(folder),
        "policy": str(done.folder),
        "updates": done.updates,
        "best": done.best,
        "best_update": done.best_update,
        "plots": [str(path) for path in plots],
        "last": metrics[-1],
        "missed_gates": missed,
    }


def _missed_gates(ui: Ui, run: RunFile) -> list[str]:
    """What the warm start that is trained on falls short of; a person is told."""
    from lamer_trainers.warmstart.report import missed_gates

    if missed := missed_gates(run.policy):
        ui.remark(
            f"{run.policy} missed a gate of its warm start ({'; '.join(missed)}): little may be learnt from it, see "
            "its README.md"
        )
    return missed


def _short(path: str) -> str:
    """A path as one would type it here: relative where it lies below the current folder."""
    place = Path(path).resolve()
    return str(place.relative_to(Path.cwd())) if place.is_relative_to(Path.cwd()) else path


@contextmanager
def _lines(ui: Ui, updates: int) -> Iterator[Any]:
    """`show(metrics)`: one line per finished update, and at a terminal a bar with rate and ETA below them."""
    with ui.progress("updates", updates, logged=False) as advance:
        shown = 0

        def show(line: Json) -> None:
            nonlocal shown
            ui.print(update_line(line, updates))
            advance(int(line["update"]) - shown)
            shown = int(line["update"])

        yield show


def update_line(line: Json, updates: int) -> str:
    """One update's numbers on one line. Figures that a run does not have are left out."""
    parts = [f"[bold]{int(line['update']):>4}[/]/{updates}"]
    passes = [key for key in sorted(line) if key.startswith("batch/pass@")]
    parts += [f"@{key.partition('@')[2]} {line[key]:.2f}" for key in passes]
    for key, form in _FIGURES:
        if key in line:
            parts.append(form.format(line[key]))
    if line.get("advantage/zero") == 1.0:
        parts.append("[yellow]no signal[/]: every group's calls earned the same")
    if "validation/pass@k" in line:
        parts.append("[bold]val " + " ".join(f"{value:.3f}" for value in line["validation/pass@k"]) + "[/]")
    return "  ".join(parts)


_FIGURES = (
    ("batch/reward", "reward {:.2f}"),
    ("policy/kl", "kl {:.4f}"),
    ("kl", "ref-kl {:.3f}"),
    ("rewards/accuracies", "preferred {:.2f}"),
    ("rewards/margins", "margin {:.3f}"),
    ("entropy", "entropy {:.2f}"),
    ("clip_ratio/region_mean", "clip {:.3f}"),
    ("batch/invalid", "invalid {:.3f}"),
    ("batch/anchor_group", "anchors {:.1f}"),
    ("critic/explained", "critic {:.2f}"),
    ("sampling/staleness_max", "stale {:.0f}"),
    ("collect/calls_per_s", "{:,.0f} calls/s"),
    ("train/tokens_per_s", "{:,.0f} tok/s"),
    ("time/collect", "collect {:.1f} s"),
    ("time/train", "train {:.1f} s"),
    ("time/swap", "swap {:.2f} s"),
)


def _show_file(ui: Ui, run: RunFile) -> Json:
    import yaml
    from rich.text import Text

    told = run.model_dump(mode="json")
    ui.print(Text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True).rstrip()), soft_wrap=True)
    return {"run": told}


def _pairs(there: Counted) -> str:
    kinds = " and ".join(f"{count:,} of {kind}s" for kind, count in there.kinds.items())
    return f"{there.pairs:,} pairs ({kinds}) from {there.tasks:,} tasks"


def _show_pairs(ui: Ui, run: RunFile, device: str | None) -> Json:
    from lamer_trainers.loop.prefer import counted

    if device is not None:
        raise ConfigError("--dry-run says of dpo what the logs hold, on any --device: leave it out")
    there, missed = counted(run), _missed_gates(ui, run)
    seen = run.optimise.updates * run.preferences.batch / there.pairs
    ui.print(
        f"{_pairs(there)}, {there.tokens / there.pairs:,.0f} tokens a pair with its prompts; {run.optimise.updates} "
        f"updates of {run.preferences.batch} read each {seen:.1f} times"
    )
    return {"run": run.model_dump(mode="json"), "preferences": there.to_json(), "missed_gates": missed}


def _show_plan(ui: Ui, run: RunFile, device: Literal["cpu", "a100", "h100", "h200"] | None) -> Json:
    if run.optimise.algorithm == "dpo":
        return _show_pairs(ui, run, device)
    from lamer_trainers.loop.plan import plan

    made, missed = plan(run, device), _missed_gates(ui, run)
    ui.print(_plan_table(run, made))
    for warning in made.warnings:
        ui.print(f"[yellow]note[/]: {warning}")
    return {"run": run.model_dump(mode="json"), "plan": made.to_json(), "missed_gates": missed}


def _plan_table(run: RunFile, made: Plan) -> Any:
    from rich.table import Table

    table = Table("", "", title=f"{run.policy} on {run.collect.env}", title_justify="left", show_header=False)
    how = "measured on random play" if made.tokens_measured else "from characters: its tokenizer is not here"
    low, high = made.answer_tokens

    def span(values: tuple[float, float], form: str) -> str:
        return f"{form.format(values[0])} to {form.format(values[1])}"

    collect, optimise = run.collect, run.optimise
    rows = {
        "update": f"{collect.tasks} tasks x {collect.trials} trials x up to {collect.max_episodes} episodes, memory "
        f"{collect.contents}: {span(made.calls, '{:,}')} calls",
        "optimiser": f"{optimise.algorithm}, gamma {optimise.gamma_step:g} a turn, {optimise.gamma_traj:g} an episode, "
        f"learning rate {optimise.learning_rate:g}, clip {optimise.clip:g}, {optimise.mini_batches} mini-batches",
        "prompts": f"{made.prompt_tokens_mean:,.0f} tokens on average, {made.prompt_tokens_max:,} at most ({how})",
        "answers": f"{low:,} (an action alone) to {high:,} tokens (collect.max_tokens)",
        "tokens an update": f"{span(made.tokens, '{:,.0f}')}; of the prompts' {made.distinct:.0%} are distinct",
        "parameters": f"{made.parameters:,}, "
        + ("all trained" if run.lora is None else f"with an adapter of {made.trained_parameters:,}, which is trained"),
        "memory": f"trainer {made.trainer_gib:.1f} GiB, sampler {made.server_gib:.1f} GiB",
        "placement": f"{made.placement}, {made.peak_gib:.1f} GiB on the fullest device ({made.peak_says})",
        "time an update": f"collect {span(made.collect_seconds, '{:,.1f}')} s, "
        f"train {span(made.train_seconds, '{:,.1f}')} s on {made.device_says}",
        "whole run": f"{made.updates} updates in {span(made.hours, '{:,.1f}')} h, validation not counted",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
