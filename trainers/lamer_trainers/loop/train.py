"""`train`: the loop of collecting (or reading logs), training and validating, in process or with a vLLM of its own.

What must stay true: everything a run is lies in its folder (`run.json`, `collected/`, `checkpoints/`, `validation/`,
`metrics.jsonl`, `best/`, `policy/` or `adapter/`), a killed run goes on with `resume=True` from its last whole
checkpoint, and a folder never mixes two runs. With `pipeline` 0 every update is strictly on-policy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PrinterCallback, ProgressCallback, set_seed

from lamer_graph.collection.config import check_memory
from lamer_graph.collection.run_memory import check_source, probe_memory
from lamer_graph.policies.loading import check_folder as check_loadable
from lamer_graph.policies.loading import no_bar, renderer_of
from lamer_graph.policies.local import SMALL, LocalPolicy
from lamer_graph.policies.shipped import is_adapter, is_policy
from lamer_graph.serving.needs import check_servable
from lamer_graph.serving.vllm import INSTALL_HINT, vllm_flavour
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.learning.distil import Distiller
from lamer_trainers.learning.launch import launched
from lamer_trainers.learning.preferring import PreferenceTrainer
from lamer_trainers.learning.saving import replacing, write_table
from lamer_trainers.learning.trainer import LamerTrainer
from lamer_trainers.loop.adapters import check_begun, check_modules, with_adapter
from lamer_trainers.loop.memory import check_fits
from lamer_trainers.loop.prefer import PAIRS, check_alone, pairs_for, preference_trainer
from lamer_trainers.loop.processes import Agree, Group, Unasked
from lamer_trainers.loop.run_folder import (
    CHECKPOINTS,
    COLLECTED,
    METRICS,
    RUN,
    check_folder,
    claim,
    finish,
    last_checkpoint,
    steps_of,
)
from lamer_trainers.loop.watch import Watch
from lamer_trainers.runfile import RunFile
from lamer_trainers.sources.batches import version_name
from lamer_trainers.sources.collector import Collector, collecting
from lamer_trainers.sources.offline import check_logs
from lamer_trainers.sources.served import check_placement, make_server

Json = dict[str, Any]


class Trained(NamedTuple):
    """What a run came to: where the result is, updates made, and the best validated pass@N (None: none was made)."""

    folder: Path
    updates: int
    best: float | None
    best_update: int | None


def train(
    run: RunFile, folder: str | Path, *, resume: bool = False, progress: Callable[[Json], None] | None = None
) -> Trained:
    """Train as `run` says, with everything in `folder`. `progress` gets one JSON object per update.

    In several processes (`accelerate launch`) all of them call it: the main one collects, validates and writes.

    Raises TrainingConfigError, CheckpointError and ConfigError before any work; TrainingDataError, PolicyError and
    RunLogError during it, with the run resumable. StoppedElsewhereError where another process stops before the work.
    """
    folder, group = Path(folder), Group()
    group.first(lambda: check(run, folder, resume=resume and (folder / RUN).exists()))
    pairs = pairs_for(run) if run.optimise.algorithm == "dpo" else None
    set_seed(run.optimise.seed)  # a fresh adapter is drawn before the trainer seeds anything
    policy = make_policy(run, plays=run.plays_here and group.main, device=group.device)
    args = run.trainer_config(folder / CHECKPOINTS, cpu=policy.model.device.type == "cpu")
    checkpoint = last_checkpoint(folder / CHECKPOINTS) if resume else None
    steps = 0 if checkpoint is None else steps_of(checkpoint)
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_bar())
        stack.enter_context(_few_threads(policy))
        made: list[tuple[Collector, Watch]] = []

        def set_up() -> bool:
            collector = stack.enter_context(collecting(run, policy, folder, folder / COLLECTED))
            # Only now: what could not be loaded or served leaves no run behind that the corrected one would have to
            # resume.
            claim(folder, run, resume)
            watch = Watch(run, folder, collector, progress)
            watch.go_back(steps // run.optimise.steps_per_update)
            made.append((collector, watch))
            return watch.over

        over = group.first(set_up)
        source, watch = made[0] if made else (Unasked(), None)
        trainer: LamerTrainer | PreferenceTrainer
        if pairs is not None:
            write_table(pairs, folder / PAIRS)
            trainer = preference_trainer(run, pairs, args, policy)
        else:
            trainer = LamerTrainer(
                policy.model, source, args, distiller=_distiller(run, policy), processing_class=policy.tokenizer
            )
        if over:
            trainer.args.max_steps = steps  # it had stopped early, and does not go on
        if watch is not None:
            # Before the reports of `report_to`, so that they get what it adds.
            trainer.callback_handler.callbacks.insert(0, watch)
        if group.count > 1:
            trainer.add_callback(Agree(group))
        for printer in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printer)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    result = folder / ("adapter" if run.lora else "policy")
    if watch is not None:
        with no_bar(), replacing(result) as fresh:
            trainer.save_model(str(fresh))
            finish(fresh, run, policy.tokenizer)
    group.leave()
    best = (None, None) if watch is None else (watch.best, watch.best_update)
    return Trained(result, trainer.update, *best)


def _distiller(run: RunFile, policy: LocalPolicy) -> Distiller | None:
    if run.distil is None:
        return None
    prompts = replace(run.collect.prompts(), control=policy.control_tokens)
    return Distiller(prompts, policy.encode, run.distil.ratio)


@contextlib.contextmanager
def _few_threads(policy: LocalPolicy) -> Iterator[None]:
    """One torch thread while a small model is trained on the CPU: its products are too small to be shared."""
    model = policy.model
    small = model.device.type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL
    before = torch.get_num_threads()
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_policy(run: RunFile, *, plays: bool | None = None, device: str | None = None) -> LocalPolicy:
    """The policy that samples (unless `plays` is False) and is trained: the folder's weights, with a fresh adapter if
    the run trains one.

    What is trained is float32 on every device (PEFT's adapters are so anyway): a step at the paper's learning rate of
    1e-6 is far below the last digit of a 16-bit weight, and would be rounded away. A frozen base has 16 bits on a GPU.
    """
    dtype = "float32" if run.lora is None else run.dtype
    common: Json = {
        "deterministic": run.deterministic,
        "version": version_name(0),
        "plays": run.plays_here if plays is None else plays,
    }
    common["template_args"] = run.template_args
    begun = Path(run.policy) if is_adapter(Path(run.policy)) else None
    merged = begun if run.lora is None else None
    policy = LocalPolicy(run.base, dtype=dtype, device=device, adapter=merged, **common)
    if run.lora is None:
        policy.model.requires_grad_(True)  # merging an adapter has frozen them
        return policy
    common["fold_system"] = policy.folds_system
    return LocalPolicy(with_adapter(policy.model, run.lora, begun), policy.tokenizer, **common)


def check(run: RunFile, folder: Path, *, resume: bool, longer: bool = True) -> None:
    """Everything that can be known to be wrong before anything is loaded or written.

    A run that is resumed may go on to more updates than it was begun with, unless it may not get `longer`.

    Raises TrainingConfigError for a policy that is not there or cannot be trained here, ConfigError and EnvError for a
    collection that cannot be played, CheckpointError for a folder that holds something else, RunLogError and
    TrainingDataError for logs that cannot be trained on.
    """
    path = Path(run.base)
    check_begun(Path(run.policy), path, run.lora)
    if not is_policy(path):
        raise TrainingConfigError(
            f"policy '{run.policy}' is not a folder with a model in Hugging Face format (config.json, tokenizer.json, "
            "model.safetensors) or an adapter of one: `lamer-graph import` gets a model, `lamer-graph warmup --policy` "
            "begins with it"
        )
    check_loadable(path, plays=run.plays_here)
    renderer_of(run.base, run.template_args)
    check_fits(run, path, "cuda" if torch.cuda.is_available() else "cpu", launched())
    if run.lora is not None:
        check_modules(path, run.lora)
    if not run.collect.of_application:
        run.collect.prompts()
    check_memory(run.collect)
    if run.collect.scope == "tasks" and not run.logs:
        probe_memory(run.collect)
        if run.collect.store:
            check_source(Path(run.collect.store))
    run.trainer_config(folder, cpu=True)
    if run.server is not None and vllm_flavour() is None:
        raise TrainingConfigError(f"`server` needs vLLM: {INSTALL_HINT}")
    if run.server is not None:
        cuda = torch.cuda.is_available() and vllm_flavour() == "gpu"
        check_placement(run.server, cuda=cuda, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
        make_server(run, folder)  # what it is asked for is checked, nothing is started
        check_servable(path)
    if run.report_to != "none" and find_spec(run.report_to) is None:
        raise TrainingConfigError(
            f"report_to '{run.report_to}' needs the package {run.report_to}, which is not installed: pip install "
            f"{run.report_to}, or leave it out (the metrics are in {METRICS} either way)"
        )
    check_folder(folder, run, resume, longer)
    if run.optimise.algorithm == "dpo":
        check_alone()
    if run.logs:
        check_logs(run)
