"""The warm start of a pretrained model: fitted to the scripted teachers in plain language, measured, handed out.

What must stay true: prompts are rendered as the policy's own renderer does, so that what is learnt is what is asked in
play; a killed fit goes on with `resume=True` and comes to the same weights; the folder gets weights last, when it is
known how they fared.

Everything is `warmup`'s but the model: the teachers (`standard` prompts, reflections in sentences), the readings at the
gates, the report. The fit is `tuning`, of an adapter by default. Environments without a teacher of their own that offer
`solve` or `weak` get `teach_any`.

    lamer-graph warmup --policy models/smollm2-135m --env minesweeper:4x4-3 --out runs/smollm2
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

import orjson
import torch

from lamer_envs import make
from lamer_envs.base import Env
from lamer_envs.minesweeper.env import Minesweeper
from lamer_envs.sokoban.env import Sokoban
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import run_sync
from lamer_graph.policies.control import control_tokens_of
from lamer_graph.policies.fingerprint import base_fingerprint, record_base
from lamer_graph.policies.hub import folder_of
from lamer_graph.policies.loading import check_folder, no_bar, renderer_of
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.policies.rendering import Renderer
from lamer_graph.policies.shipped import TEMPLATE, is_adapter, is_policy
from lamer_graph.runlog import write_atomic
from lamer_graph.trial.prompts import PromptStyle
from lamer_memory import Contents
from lamer_trainers.learning.sharing import Sharing
from lamer_trainers.warmstart.branches import Even, Sampled
from lamer_trainers.warmstart.early import IMITATION, Early, check_export, export, from_json, prepared, to_json
from lamer_trainers.warmstart.examples import EncodedRow, Example, encode, longest
from lamer_trainers.warmstart.explaining import Asked, Explainer, Scripted
from lamer_trainers.warmstart.fitting import Progress
from lamer_trainers.warmstart.folder import MADE, WORK, hand_out, note, noted
from lamer_trainers.warmstart.folder import check_folder as check_made
from lamer_trainers.warmstart.gates import Reading, held_out_drills, measure
from lamer_trainers.warmstart.teach_any import AnyTeacher
from lamer_trainers.warmstart.teachers import Row, Teacher, rows
from lamer_trainers.warmstart.tuning import (
    Precision,
    TuneConfig,
    faster_precision,
    last_whole,
    merged,
    rows_per_second,
    scored,
    tune,
    with_adapter,
)
from lamer_trainers.warmstart.warmup import RECIPES, WarmupReport, gates_of, quiet

ROWS = 2_000
"""Rows of a fit."""
TRIED = 64
"""Rows that are written to measure how fast the fit will be."""
RANK = 32
ADAPTER_RATE, FULL_RATE = 1e-3, 5e-4
"""Learning rates of an adapter's fit and of one of all weights."""
LONGEST = 2_048
"""Tokens of a row; longer ones (late turns of environments in words) are left out."""
TASKS = 16
"""Held-out tasks a memory is measured on: a pretrained model takes its time to play."""
MEASURED: tuple[Contents, ...] = ("none", "reflection")
ROWS_FILE = "rows.json"
FORBIDDEN = "forbidden-cell probability"
BOARD_GATES = {"valid actions": (0.85, 1.0), "pass@1": (0.02, 0.5), "true remarks": (0.2, 0.75)}
TEXT_GATES = {"well-formed answers": (0.9, 1.0), "valid actions": (0.8, 1.0)}
GATES: dict[type[Env], dict[str, tuple[float, float]]] = {
    Minesweeper: {**BOARD_GATES, FORBIDDEN: (0.0, 0.1)},
    Sokoban: {"valid actions": (0.9, 1.0), "pass@1": (0.02, 0.5)},
}
"""Wider than the tiny warm starts': they are read off fewer tasks."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a given model is fitted to, and how. `rows` or `minutes` bound the fit, at most one of the two."""

    policy: Path
    env: str
    style: PromptStyle = "standard"
    seed: int = 0
    full: bool = False
    rank: int | None = None
    rows: int | None = None
    minutes: float | None = None
    learning_rate: float | None = None
    template: dict[str, Any] | None = None
    early: Early = IMITATION
    """By which method. Other actions are the model's own, and explanations are by `explainer`: the model ("policy"), a
    script ("scripted"), or the `explainer_model` at an address."""
    explainer: str = "policy"
    explainer_model: str | None = None
    dataset: Path | None = None
    """Folder that the rows are written into, too."""

    @property
    def tuning(self) -> TuneConfig:
        rate = self.learning_rate or (FULL_RATE if self.full else ADAPTER_RATE)
        if self.full:
            return TuneConfig(rate)
        rank = self.rank or RANK
        return TuneConfig(rate, rank=rank, alpha=2 * rank)


def teacher_for(env: Env, style: PromptStyle, control: frozenset[str]) -> Teacher:
    """The scripted teacher of any environment that has one. Raises ConfigError for one that offers no player."""
    for kind, (teacher, _) in RECIPES.items():
        if isinstance(env, kind):
            return teacher(env, style=style, control=control)
    return AnyTeacher(env, style=style, control=control)


def check(given: Given, out: Path, *, resume: bool) -> tuple[Path, Renderer, Teacher]:
    """The model's folder, its renderer and the teacher. Raises ConfigError for all that can be known to be wrong."""
    if given.rows is not None and given.minutes is not None:
        raise ConfigError("rows and minutes both bound the fit: give one of the two")
    if given.full and given.rank is not None:
        raise ConfigError("a full fit and a lora-rank exclude each other: all weights are fitted, or an adapter")
    if given.style not in get_args(PromptStyle):
        raise ConfigError(f"unknown prompt style '{given.style}'; choose one of: {', '.join(get_args(PromptStyle))}")
    env = make(given.env)
    teacher_for(env, given.style, frozenset())
    check_export(None if resume else given.dataset)
    if given.early.method == "sr" and given.explainer not in ("policy", "scripted"):
        run_sync(_asked(given).connect())
    folder = folder_of(given.policy)
    if is_adapter(folder):
        raise ConfigError(
            f"{given.policy} is an adapter, and a warm start begins with a model: give the folder it was trained on"
        )
    if not is_policy(folder):
        raise ConfigError(
            f"no model at {given.policy}: it must be a folder in Hugging Face format (config.json, tokenizer.json, "
            "model.safetensors) or a hub id; `lamer-graph import` makes one"
        )
    check_folder(folder)
    renderer = renderer_of(folder, given.template)
    if renderer.opening:
        raise ConfigError(
            f"prompts of {given.policy} end inside of a thought ({renderer.opening}), and scripted answers have none: "
            "turn it off with a template argument, e.g. --template enable_thinking=false"
        )
    if renderer.tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer of {given.policy} names no end of an answer (eos_token)")
    check_made(out, resume=resume)
    return folder, renderer, teacher_for(env, given.style, control_tokens_of(renderer.tokenizer))


def run_pretrained(
    given: Given, out: str | Path, *, resume: bool = False, tasks: int = TASKS, progress: Progress = print
) -> WarmupReport:
    """Fit the given model in the folder `out` and measure it on `tasks` held-out tasks per memory.

    The folder gets an adapter (or all weights), the tokenizer, a model card, `lamer.json` and `warmup.json`, also when
    a gate is missed. `minutes` of the fit become a number of rows by the rate that is measured at its beginning. With
    `resume` a fit that was cut short goes on, and one that was never begun is begun. Raises ConfigError before any
    work.
    """
    started = time.perf_counter()
    out = Path(out)
    folder, renderer, teacher = check(given, out, resume=resume)
    config = given.tuning
    with quiet(), no_bar():
        policy = LocalPolicy(
            folder, dtype="float32" if given.full else None, version=out.name, template_args=renderer.template_args
        )
        model = with_adapter(policy.model, config, given.seed)
        pad = renderer.tokenizer.pad_token_id or 0
        some, _ = encoded_rows(teacher, renderer, TRIED, given.seed)
        plan = _noted(out, given, folder, some)
        if plan is None:
            progress(f"measuring how fast {given.policy} learns here")
            plan = note(out, _request(given, folder), _plan(model, some, config, pad, given))
        progress(f"writing {plan['rows']:,} scripted rows for {teacher.env.spec}")
        written, told = _written(out, given, teacher, policy, plan["rows"])
        stages = [_fitting(teacher, renderer, stage) for stage in written]
        encoded = [row for stage in stages for row in stage]
        left_out = sum(map(len, written)) - len(encoded)
        precision: Precision = plan["precision"]
        progress(
            f"fitting {'all weights' if given.full else f'an adapter of rank {config.rank}'} to {len(encoded):,} rows "
            f"of {sum(one[0].length for one in encoded) / len(encoded):.0f} tokens in {precision}, some "
            f"{plan['rate']:.3g} rows/s"
        )
        begun, fitted = time.perf_counter(), 0.0
        for number, stage in enumerate(stages, start=1):
            last = number == len(stages)
            if not last and resume and last_whole(out / WORK) is not None:
                continue  # what it came to is in a later stage's checkpoint
            fitted += tune(
                model, stage, config, folder=out / WORK if last else out / WORK / f"stage-{number}", seed=given.seed,
                precision=precision, pad=pad, rate=plan["rate"], resume=resume, progress=progress,
            )  # fmt: skip
        started += time.perf_counter() - begun - fitted  # earlier sittings count
        gates = next((gates for kind, gates in GATES.items() if isinstance(teacher.env, kind)), TEXT_GATES)
        player = LocalPolicy(
            model,
            renderer.tokenizer,
            version=out.name,
            template_args=policy.template_args,
            fold_system=policy.folds_system,
        )
        with merged(model):
            reading = _read(teacher, player, renderer, tasks, given.seed, FORBIDDEN in gates, progress)
        report = WarmupReport(
            env=teacher.env.spec,
            seed=given.seed,
            rows=len(encoded),
            parameters=sum(one.numel() for one in model.parameters() if one.requires_grad),
            vocabulary=len(renderer.tokenizer),
            seconds=time.perf_counter() - started,
            tasks=tasks,
            fit=config,
            gates=gates_of(reading, gates),
            reading=reading,
            threads=torch.get_num_threads(),
            given={
                "policy": str(given.policy),
                "prompt_style": given.style,
                "weights": "all" if given.full else "adapter",
                "precision": precision,
                "fit_seconds": round(fitted, 1),
                "written": plan["rows"],
                "left_out": left_out,
            },
            early=None if given.early.method == "bc" else {"method": given.early.method, **told},
        )
        made = out / WORK / MADE
        shutil.rmtree(made, ignore_errors=True)
        model.save_pretrained(made)
        renderer.tokenizer.save_pretrained(made)
        if not given.full:
            record_base(made, folder)
        template = dict(policy.template_args or {})
        hand_out(out, {"env": report.env, "prompt_style": given.style, TEMPLATE: template}, report.to_json())
    return report


def _read(
    teacher: Teacher,
    player: LocalPolicy,
    renderer: Renderer,
    tasks: int,
    seed: int,
    forbids: bool,
    progress: Progress,
) -> Reading:
    """All readings; the probability of forbidden answers only where it `forbids` any that a gate asks for."""
    drills = held_out_drills(teacher, tasks, seed) if forbids else []
    forbidden = forbidden_share(player.model, renderer, teacher, drills)
    reading = run_sync(
        measure(teacher, player, tasks=tasks, seed=seed, forbidden=forbidden, contents=MEASURED, progress=progress)
    )
    run_sync(player.aclose())
    return reading


def encoded_rows(teacher: Teacher, renderer: Renderer, count: int, seed: int) -> tuple[list[EncodedRow], int]:
    """`count` rows in tokens without those that are too long, and how many are. Raises ConfigError if most are."""
    found = _fitting(teacher, renderer, rows(teacher, count, seed))
    return found, count - len(found)


def _asked(given: Given) -> OpenAIPolicy:
    return OpenAIPolicy(given.explainer, given.explainer_model)


def _written(
    out: Path, given: Given, teacher: Teacher, policy: LocalPolicy, count: int
) -> tuple[list[list[Row]], dict[str, Any]]:
    """The rows in stages and what is to be said of them: those that the fit in `out` was begun with, if there are any,
    because what a model was asked for is not asked twice."""
    early, path = given.early, out / WORK / ROWS_FILE
    if path.is_file():
        kept = orjson.loads(path.read_bytes())
        return from_json(kept["stages"]), kept["told"]
    env = teacher.env
    rest = Even(teacher, given.seed) if env.offers("admissible") or env.offers("weak") else None
    explainer: Explainer = Scripted(teacher)
    served: OpenAIPolicy | None = None
    if given.explainer == "policy":
        explainer = Asked(policy, "policy", given.seed)
    elif given.explainer != "scripted":
        served = _asked(given)
        explainer = Asked(served, given.explainer_model or given.explainer, given.seed)
    proposer = Sampled(teacher, policy, given.seed, rest)
    made = prepared(early, teacher, count, given.seed, proposer=proposer, explainer=explainer)
    if served is not None:
        run_sync(served.aclose())
    if given.dataset is not None:
        export(made, given.dataset)
    if early.method != "bc":
        write_atomic(path, orjson.dumps({"stages": to_json(made.stages), "told": made.told}))
    return made.stages, made.told


def _fitting(teacher: Teacher, renderer: Renderer, written: Sequence[Row]) -> list[EncodedRow]:
    """Rows in tokens without those that are too long. Raises ConfigError if most are."""
    most = min(LONGEST, getattr(renderer.tokenizer, "model_max_length", LONGEST))
    found = [one for one in encode(renderer, written, teacher) if longest([one]) <= most]
    if len(found) < len(written) / 2:
        raise ConfigError(
            f"most prompts of {teacher.env.spec} are longer than {most} tokens in this style: try --prompt-style "
            "compact"
        )
    return found


def forbidden_share(model: Any, renderer: Renderer, teacher: Teacher, drills: Sequence[Row]) -> float:
    """Mean probability of answering with a forbidden action: of each the whole answer's, exact, summed."""
    if not drills:
        return 0.0
    end = renderer.tokenizer.eos_token_id
    asked = [
        [Example(prompt, [*renderer.plain_ids(teacher.answer(action)), end]) for action in row.forbidden]
        for row, prompt in ((row, renderer.ids(row.messages)) for row in drills)
    ]
    shared = Sharing(model, True).of(max(example.length for examples in asked for example in examples))
    with torch.inference_mode():
        every = [
            float(logprobs.sum(1).exp().sum())
            for examples in asked
            for _, logprobs in scored(model, examples, LONGEST, 0, shared)
        ]
    return sum(every) / len(drills)


# -- the folder -------------------------------------------------------------------------------------------------------


def _plan(model: Any, some: Sequence[EncodedRow], config: TuneConfig, pad: int, given: Given) -> dict[str, Any]:
    """How many rows, in which precision: measured on `some` once, so that a resumed fit is the same."""
    precision = faster_precision(model.device)
    rate = rows_per_second(model, some, config, precision, pad)
    count = given.rows or ROWS
    if given.minutes is not None:
        count = min(count, max(config.batch, int(given.minutes * 60 * rate)))
    return {"rows": count, "precision": precision, "rate": rate, "taught": _digest(some)}


def _digest(encoded: Sequence[EncodedRow]) -> str:
    told = [[one.prompt_token_ids, one.token_ids, one.share] for row in encoded for one in row]
    return blake2b(orjson.dumps(told), digest_size=8).hexdigest()


def _request(given: Given, folder: Path) -> dict[str, Any]:
    """What decides the weights, as JSON has it."""
    told = {
        "env": make(given.env).spec,
        "style": given.style,
        "seed": given.seed,
        "fit": given.tuning.to_json(),
        "rows": given.rows,
        "minutes": given.minutes,
        "template": given.template,
        "base": base_fingerprint(folder),
    }
    if given.early.method != "bc":
        told |= {**asdict(given.early), "explainer": given.explainer, "explainer_model": given.explainer_model}
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def _noted(out: Path, given: Given, folder: Path, some: Sequence[EncodedRow]) -> dict[str, Any] | None:
    """What was planned when the fit in `out` was begun, None if it was not. Raises ConfigError if it was another, or
    if it was taught other rows than `some` are of, as by another version of a teacher."""
    plan = noted(out, _request(given, folder))
    if plan is not None and plan.get("taught") != _digest(some):
        raise ConfigError(f"the fit in {out} was begun with other rows, by another version: choose another folder")
    return plan
