"""The tiny warm start: a policy from nothing in some minutes, measured against the gates before it is handed out.

What must stay true: the same environment, seed and size of the fit give the same weights on one machine with the same
library versions; the folder that is written says how it was made and whether it passed; nothing is downloaded.

Tokenizer and model are `tiny`'s, rows are the scripted teachers' (`teachers` and one `teach_*` per environment),
the fit is TRL's SFTTrainer with an unlikelihood term (`fitting`), the gates are measured in real trials on held-out
tasks (`gates`). What a warm start must be so that RL has something to work with: format-correct; weak but not helpless;
it already heeds its memory; it writes true reflections sometimes, not always.

    lamer-graph warmup --env minesweeper:4x4-3 --out runs/tiny          # the shipped policies were made by this, seed 0
    lamer-graph warmup --env sokoban:6x6-2 --out runs/tiny-sokoban
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import Qwen3ForCausalLM

from lamer_envs import make
from lamer_envs.alfworld.env import Alfworld
from lamer_envs.base import Env
from lamer_envs.minesweeper.env import Minesweeper
from lamer_envs.sokoban.env import Sokoban
from lamer_envs.webshop.env import Webshop
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import run_sync
from lamer_graph.policies.local import LocalPolicy
from lamer_trainers.learning.saving import replacing
from lamer_trainers.warmstart.branches import Even
from lamer_trainers.warmstart.early import IMITATION, Early, check_export, export, prepared
from lamer_trainers.warmstart.explaining import Scripted
from lamer_trainers.warmstart.fitting import FitConfig, Progress, fit
from lamer_trainers.warmstart.folder import MADE, WORK, check_folder, hand_out, note, noted
from lamer_trainers.warmstart.gates import Gate, Reading, forbidden_probability, held_out_drills, measure
from lamer_trainers.warmstart.teach_alfworld import AlfworldTeacher
from lamer_trainers.warmstart.teach_minesweeper import MinesweeperTeacher
from lamer_trainers.warmstart.teach_sokoban import SokobanTeacher
from lamer_trainers.warmstart.teach_webshop import WebshopTeacher
from lamer_trainers.warmstart.teachers import Teacher
from lamer_trainers.warmstart.tiny import build_model, build_tokenizer
from lamer_trainers.warmstart.tuning import TuneConfig

THREADS = 1
"""Torch threads of the fit, on every machine: another number would sum in another order and give other weights."""
LIBRARIES = ("torch", "transformers", "tokenizers", "trl")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is particular to an environment: the size of the fit and the gates.

    `gates` maps a reading to its closed interval. `rows_per_minute` (two cores, no GPU) turns a time limit into a
    number of rows, so that a limited run repeats too.
    """

    rows: int
    rows_per_minute: int
    gates: dict[str, tuple[float, float]]
    fit: FitConfig = field(default_factory=FitConfig)
    copying: float = 0.0
    spread: float = 0.02
    """These two: see `tiny.build_model`."""


TEXT_GATES = {"well-formed answers": (0.95, 1.0), "valid actions": (0.95, 1.0), "pass@1": (0.03, 0.4)}
"""Gates of the environments in words."""
TEXT_FIT = FitConfig(batch=32, learning_rate=2e-3, reading=3.0)

RECIPES: dict[type[Env], tuple[type[Teacher], Recipe]] = {
    Minesweeper: (
        MinesweeperTeacher,
        Recipe(
            rows=150_000,
            rows_per_minute=25_000,
            gates={
                "valid actions": (0.97, 1.0),
                "pass@1": (0.15, 0.25),
                "forbidden-cell probability": (0.0, 0.02),
                "true remarks": (0.3, 0.5),
            },
        ),
    ),
    Sokoban: (
        SokobanTeacher,
        Recipe(
            rows=200_000,
            rows_per_minute=25_000,
            gates={"valid actions": (0.98, 1.0), "pass@1": (0.05, 0.3)},
            fit=FitConfig(unlikelihood=1.5),
        ),
    ),
    Alfworld: (
        AlfworldTeacher,
        Recipe(
            rows=120_000,
            rows_per_minute=9_000,
            gates=TEXT_GATES,
            fit=TEXT_FIT,
            copying=0.5,
        ),
    ),
    Webshop: (
        WebshopTeacher,
        Recipe(
            rows=100_000,
            rows_per_minute=8_500,
            gates=TEXT_GATES,
            fit=TEXT_FIT,
            copying=0.5,
            spread=0.06,
        ),
    ),
}
"""Gates for what each recipe was tuned on: 4x4 with 3 mines, 6x6 with 2 boxes, households of four task types, a shop of
1,000 products. Others have the same gates."""


@dataclass(frozen=True)
class WarmupReport:
    """What was made, and how it fared."""

    env: str
    seed: int
    rows: int
    parameters: int
    vocabulary: int
    seconds: float
    tasks: int
    fit: FitConfig | TuneConfig
    gates: list[Gate]
    reading: Reading
    threads: int = THREADS
    given: dict[str, Any] | None = None
    """Of a warm start that began with a given model: which, and how it was fitted."""
    early: dict[str, Any] | None = None
    """Of another method than imitation: which, and what its rows are."""

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    def to_json(self) -> dict[str, Any]:
        return {
            "env": self.env,
            "seed": self.seed,
            "rows": self.rows,
            "parameters": self.parameters,
            "vocabulary": self.vocabulary,
            "seconds": round(self.seconds, 1),
            "tasks": self.tasks,
            "fit": self.fit.to_json(),
            "passed": self.passed,
            "gates": [gate.to_json() for gate in self.gates],
            "reading": self.reading.to_json(),
            "threads": self.threads,
            "python": platform.python_version(),
            "versions": versions(),
            **({} if self.given is None else {"given": self.given}),
            **({} if self.early is None else {"early": self.early}),
        }


def versions() -> dict[str, str]:
    """Of the libraries that weights depend on."""
    return {name: version(name) for name in LIBRARIES}


def teacher_of(env: Env) -> tuple[Teacher, Recipe]:
    """The scripted teacher of an environment and its recipe. Raises ConfigError where there is none."""
    for kind, (teacher, recipe) in RECIPES.items():
        if isinstance(env, kind):
            return teacher(env), recipe
    known = ", ".join(sorted(kind.name for kind in RECIPES))
    raise ConfigError(
        f"a policy is made from nothing for {known}, not for '{env.name}': no scripted teacher spells its texts; give "
        "a pretrained model with --policy"
    )


def run_warmup(
    env_spec: str,
    out: str | Path,
    seed: int = 0,
    minutes: float | None = None,
    progress: Progress = print,
    *,
    tasks: int = 400,
    rows: int | None = None,
    early: Early = IMITATION,
    dataset: Path | None = None,
    resume: bool = False,
) -> WarmupReport:
    """Make a warm start for `env_spec` in the folder `out` and measure it on `tasks` held-out tasks per memory.

    `minutes` bounds the fit, about, on two cores; None (or more than it needs) is the recipe's full size, and `rows`
    another. `early` says by which method; other actions are drawn evenly and explanations scripted, as there is no
    policy yet, and none with words. Its rows are written into the folder `dataset`, if one is named. `out` gets the
    model, the tokenizer, a model card, `lamer.json` (what it plays and how it wants to be asked) and `warmup.json` (the
    report), also when a gate is missed. What was cut short after the fit is measured with `resume`; before its end it
    is begun again. Raises ConfigError for an environment without a teacher or an `out` that is not an empty folder (or
    holds no fit like this one), and lamer_envs' errors for a malformed specification.
    """
    started = time.perf_counter()
    env = make(env_spec)
    teacher, recipe = teacher_of(env)
    check_export(None if resume else dataset)
    proposer = None if early.method == "bc" else Even(teacher, seed)
    out = Path(out)
    check_folder(out, resume=resume)
    count = int(recipe.rows * teacher.breadth)
    if minutes is not None:
        count = min(count, max(1, int(minutes * recipe.rows_per_minute)))
    count = count if rows is None else rows
    asked = {
        "env": env.spec,
        "seed": seed,
        "rows": count,
        "fit": recipe.fit.to_json(),
        "early": {"method": early.method, "branches": early.branches},
        "versions": versions(),
    }
    plan = noted(out, asked)
    if plan is None:
        plan = note(out, asked, {})
    tokenizer = build_tokenizer(pieces := teacher.pieces())
    fitted = out / WORK / MADE
    with quiet(), _threads(THREADS):
        if fitted.exists():
            progress(f"going on with the fit in {out}")
            model = Qwen3ForCausalLM.from_pretrained(fitted)  # in the mode of play already
            started -= plan["seconds"]
        else:
            progress(f"writing {count:,} scripted rows for {env.spec}")
            made = prepared(early, teacher, count, seed, proposer=proposer, explainer=Scripted(teacher))
            if dataset is not None:
                export(made, dataset)
            model = build_model(tokenizer, pieces, seed=seed, copying=recipe.copying, spread=recipe.spread)
            for stage in made.stages:
                fit(model, tokenizer, stage, recipe.fit, seed=seed, progress=progress)
            plan = note(out, asked, {"told": made.told, "seconds": time.perf_counter() - started})
            with replacing(fitted) as fresh:
                tokenizer.save_pretrained(fresh)
                model.save_pretrained(fresh)
        policy = LocalPolicy(model, tokenizer, version=out.name, device="cpu", fold_system=False)
        forbidden = forbidden_probability(model, tokenizer, held_out_drills(teacher, tasks, seed))
        reading = run_sync(measure(teacher, policy, tasks=tasks, seed=seed, forbidden=forbidden, progress=progress))
        run_sync(policy.aclose())
    report = WarmupReport(
        env=env.spec,
        seed=seed,
        rows=count,
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        seconds=time.perf_counter() - started,
        tasks=tasks,
        fit=recipe.fit,
        gates=gates_of(reading, {**recipe.gates, **teacher.gates}),
        reading=reading,
        early=None if early.method == "bc" else {"method": early.method, **plan["told"]},
    )
    hand_out(out, {"env": env.spec, "prompt_style": teacher.prompts.style}, report.to_json())
    return report


def gates_of(reading: Reading, gates: Mapping[str, tuple[float, float]]) -> list[Gate]:
    """A recipe's gates with what was read."""
    values = {
        "well-formed answers": reading.well_formed,
        "valid actions": reading.valid_actions,
        "pass@1": reading.pass_at["none"][0].value,
        "forbidden-cell probability": reading.forbidden,
        "true remarks": reading.true_remarks,
    }
    return [Gate(name, values[name], low, high) for name, (low, high) in gates.items()]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and notes of the libraries: progress lines are ours."""
    logging: Any = transformers.utils.logging
    before = logging.get_verbosity()
    bars: Any = datasets.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
        if shown:
            bars.enable_progress_bar()
