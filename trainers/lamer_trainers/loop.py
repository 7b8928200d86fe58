"""`train`: the loop of collecting (or reading logs), training and validating, in process or with a vLLM of its own.

What must stay true: everything a run is lies in its folder (`run.json`, `collected/`, `checkpoints/`, `validation/`,
`metrics.jsonl`, `best/`, `policy/` or `adapter/`), a killed run goes on with `resume=True` from its last whole
checkpoint, and a folder never mixes two runs. With `pipeline` 0 every update is strictly on-policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import torch
from pydantic import ValidationError
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed
from transformers.trainer import TRAINING_ARGS_NAME

from lamer_envs import make
from lamer_graph.errors import PolicyError
from lamer_graph.evaluate import evaluate
from lamer_graph.fingerprint import record_base
from lamer_graph.local_policy import SMALL, LocalPolicy, no_bar
from lamer_graph.run_memory import check_memory, check_source, drop_run_memory, probe_memory
from lamer_graph.runlog import write_atomic
from lamer_graph.serve import INSTALL_HINT, vllm_flavour
from lamer_graph.shipped import CARD, is_policy
from lamer_trainers.batches import MOST_FAILED, version_name
from lamer_trainers.best import Best
from lamer_trainers.errors import CheckpointError, TrainingConfigError
from lamer_trainers.offline import LoggedCollector, check_logs
from lamer_trainers.runfile import RunFile
from lamer_trainers.saving import replacing
from lamer_trainers.served import Collector, check_placement, collecting
from lamer_trainers.trainer import LamerTrainer

Json = dict[str, Any]
RUN, METRICS, CHECKPOINTS, COLLECTED, VALIDATION = "run.json", "metrics.jsonl", "checkpoints", "collected", "validation"


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

    Raises TrainingConfigError, CheckpointError and ConfigError before any work; TrainingDataError, PolicyError and
    RunLogError during it, with the run resumable.
    """
    folder = Path(folder)
    check(run, folder, resume=resume and (folder / RUN).exists())
    claim(folder, run, resume)
    set_seed(run.optimise.seed)  # a fresh adapter is drawn before the trainer seeds anything
    policy = make_policy(run)
    args = run.trainer_config(folder / CHECKPOINTS, cpu=policy.model.device.type == "cpu")
    checkpoint = last_checkpoint(folder / CHECKPOINTS) if resume else None
    with no_bar(), _few_threads(policy), collecting(run, policy, folder, folder / COLLECTED) as collector:
        watch = _Watch(run, folder, collector, progress)
        steps = 0 if checkpoint is None else steps_of(checkpoint)
        watch.go_back(steps // args.steps_per_update)
        if watch.over:
            args.max_steps = steps  # it had stopped early, and does not go on
        trainer = LamerTrainer(policy.model, collector, args, processing_class=policy.tokenizer)
        # Before the reports of `report_to`, so that they get what it adds.
        trainer.callback_handler.callbacks.insert(0, watch)
        for printer in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printer)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    result = folder / ("adapter" if run.lora else "policy")
    with no_bar(), replacing(result) as fresh:
        trainer.save_model(str(fresh))
        finish(fresh, run, policy.tokenizer)
    return Trained(result, trainer.update, watch.best, watch.best_update)


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


def finish(folder: Path, run: RunFile, tokenizer: Any) -> None:
    """Put beside saved weights what a policy's folder needs to be played: its tokenizer, what it plays and how.

    The trainer's own arguments are taken away: they are a pickle, which nothing needs and nobody should load.
    """
    (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    card = {"env": run.collect.env, "prompt_style": run.collect.prompt_style, "trained": True}
    write_atomic(folder / CARD, orjson.dumps(card, option=orjson.OPT_INDENT_2))
    if run.lora:
        record_base(folder, run.policy)


def make_policy(run: RunFile) -> LocalPolicy:
    """The policy that samples and is trained: the folder's weights, with a fresh adapter if the run trains one.

    What is trained is float32 on every device (PEFT's adapters are so anyway): a step at the paper's learning rate of
    1e-6 is far below the last digit of a 16-bit weight, and would be rounded away. A frozen base has 16 bits on a GPU.
    """
    dtype = "float32" if run.lora is None else None
    policy = LocalPolicy(run.policy, dtype=dtype, deterministic=run.deterministic, version=version_name(0))
    if run.lora is None:
        return policy
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=run.lora.rank, lora_alpha=run.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(policy.model, settings)
    return LocalPolicy(model, policy.tokenizer, deterministic=run.deterministic, version=version_name(0))


def check(run: RunFile, folder: Path, *, resume: bool, longer: bool = True) -> None:
    """Everything that can be known to be wrong before anything is loaded or written.

    A run that is resumed may go on to more updates than it was begun with, unless it may not get `longer`.

    Raises TrainingConfigError for a policy that is not there or cannot be trained here, ConfigError and EnvError for a
    collection that cannot be played, CheckpointError for a folder that holds something else, RunLogError and
    TrainingDataError for logs that cannot be trained on.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise TrainingConfigError(
            f"a run file's loop is one process, and this was launched as {processes}: start it without a launcher, or "
            "launch a script of your own around LamerTrainer, which takes any number"
        )
    path = Path(run.policy)
    if not is_policy(path):
        raise TrainingConfigError(
            f"policy '{run.policy}' is not a folder with a model in Hugging Face format (config.json, tokenizer.json, "
            "model.safetensors); download it there first, nothing is fetched unasked"
        )
    make(run.collect.env)
    check_memory(run.collect)
    if run.collect.scope == "tasks" and not run.logs:
        probe_memory(run.collect)
        if run.collect.store:
            check_source(Path(run.collect.store))
    if run.server is not None and vllm_flavour() is None:
        raise TrainingConfigError(f"`server` needs vLLM: {INSTALL_HINT}")
    if run.server is not None:
        cuda = torch.cuda.is_available() and vllm_flavour() == "gpu"
        check_placement(run.server, cuda=cuda, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
    run.trainer_config(folder, cpu=True)
    if run.report_to != "none" and find_spec(run.report_to) is None:
        raise TrainingConfigError(
            f"report_to '{run.report_to}' needs the package {run.report_to}, which is not installed: pip install "
            f"{run.report_to}, or leave it out (the metrics are in {METRICS} either way)"
        )
    _compare(folder, run, resume, longer)
    if run.logs:
        check_logs(run)


def claim(folder: Path, run: RunFile, resume: bool) -> None:
    """Write the run's description, or compare with the one that is there. Raises CheckpointError.

    A run may go on to more updates than it was begun with; the learning rate is from then on that of the longer run.
    """
    _compare(folder, run, resume and (folder / RUN).exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / RUN, orjson.dumps(run.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise CheckpointError(f"the run folder {folder} cannot be used ({error}); choose another") from None


def _compare(folder: Path, run: RunFile, resume: bool, longer: bool = True) -> None:
    """Raises CheckpointError if the folder holds a run that this one is not a continuation of, `longer` or as long."""
    path, wanted = folder / RUN, run.model_dump(mode="json")
    try:
        if not path.exists():
            if resume:
                raise CheckpointError(f"{folder} holds no run to resume; leave --resume out to start one there")
            return
        # Read as a run file: fields that were added since have their defaults there.
        raw = orjson.loads(path.read_bytes())
        there = RunFile.model_validate(raw).model_dump(mode="json") if isinstance(raw, dict) else raw
    except ValidationError:
        there = raw  # of other settings at any rate; the difference is named below
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the run folder {folder} cannot be used ({error}); choose another") from None
    if not resume:
        raise CheckpointError(f"{folder} already holds a run; continue it with --resume or choose another name")
    there = _lengthened(there, run.optimise.updates) if longer else there
    if there != wanted:
        raise CheckpointError(f"{folder} holds a run of other settings ({_difference(there, wanted)}); name another")


def _lengthened(there: Any, updates: int) -> Any:
    """The run that is there, if it goes on to so many updates."""
    match there:
        case {"optimise": {"updates": int(begun), **others}} if begun < updates:
            return {**there, "optimise": {"updates": updates, **others}}
    return there


def _difference(there: Any, wanted: Any, place: str = "") -> str:
    """The first place where two JSON values differ."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in {**there, **wanted}:
            if there.get(key) != wanted.get(key):
                return _difference(there.get(key), wanted.get(key), f"{place}.{key}".lstrip("."))
    return f"{place} is {json.dumps(there)} there, {json.dumps(wanted)} here"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole (its state file comes last and is valid JSON), if there is one."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            step = int(json.loads((path / "trainer_state.json").read_text())["global_step"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if path.name == f"checkpoint-{step}":
            found.append((step, path))
    return max(found)[1] if found else None


def steps_of(checkpoint: Path) -> int:
    """The optimiser steps after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


class _Watch(TrainerCallback):
    """After every update: a line of metrics, and when it is due a validation, the best weights, an early stop."""

    def __init__(
        self, run: RunFile, folder: Path, collector: Collector, progress: Callable[[Json], None] | None
    ) -> None:
        self._run, self._folder, self._collector, self._progress = run, folder, collector, progress
        self._per_update = run.optimise.mini_batches * run.optimise.passes
        self._clock = time.perf_counter()
        self._best = Best(folder)
        self.best: float | None = None
        self.best_update: int | None = None
        self._waited = 0

    @property
    def over(self) -> bool:
        """Whether validation has waited for a better reading long enough."""
        patience = None if self._run.validation is None else self._run.validation.patience
        return patience is not None and self._waited >= patience

    def go_back(self, update: int) -> None:
        """Forget what a killed run noted and kept after this update, so that every update is noted once."""
        path = self._folder / METRICS
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        known = [(line, _parsed(line)) for line in lines]
        kept = [(line, noted) for line, noted in known if noted is not None and noted["update"] <= update]
        write_atomic(path, b"".join(raw for raw, _ in kept))
        for _, metrics in kept:
            if "validation/pass@k" in metrics:
                self._rank(metrics["update"], metrics["validation/pass@k"][-1])
        if not self._best.go_back(update):
            self.best = self.best_update = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Loading is not part of the first update."""
        self._clock = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        now = time.perf_counter()
        update = state.global_step // self._per_update
        summary = self._collector.summary
        line: Json = {"update": update, "time/update": now - self._clock}
        if summary is not None:
            line |= {"time/collect": summary.seconds, "collect/calls_per_s": summary.calls / max(summary.seconds, 1e-9)}
        line |= self._collector.metrics
        line |= {key: float(value) for key, value in logs.items() if isinstance(value, int | float)}
        line["time/train"] = line["time/update"] - line["time/wait"]
        line["train/tokens_per_s"] = line["batch/tokens"] / max(line["time/train"], 1e-9)
        due = self._run.validation
        if due is not None and (update % due.every == 0 or state.global_step >= state.max_steps):
            line["validation/pass@k"] = self._validate(update)
            if self._rank(update, line["validation/pass@k"][-1]):
                self._keep(update, line["validation/pass@k"], kwargs["model"], kwargs["processing_class"])
            if self.over:
                control.should_training_stop = True
        with (self._folder / METRICS).open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")
        if self._progress is not None:
            self._progress(line)
        # What was not the trainer's own goes to `report_to`, too.
        logs.update({name: value for name, value in _scalars(line) if name not in logs})
        self._clock = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what no checkpoint needs any more: a former best, and memories, of which a run would keep all."""
        self._best.checkpointed()
        steps = [steps_of(path) for path in Path(args.output_dir).glob("checkpoint-*")]
        if steps and not isinstance(self._collector, LoggedCollector):
            self._collector.batches.forget_before(min(steps) // self._per_update)
        self._clock = time.perf_counter()

    def _validate(self, update: int) -> list[float]:
        """pass@k of the weights as they are. Raises KeyboardInterrupt and PolicyError as collecting does."""
        due = self._run.validation
        assert due is not None
        config = self._run.collect.model_copy(
            update={"split": due.split, "tasks": due.tasks, "trials": 1, "policy": version_name(update)}
        )
        folder = self._folder / VALIDATION / f"update-{update:05d}"
        if folder.exists():  # of a killed run, which may have had other weights by then
            drop_run_memory(config, folder)
            shutil.rmtree(folder)
        heritage = None
        if not isinstance(self._collector, LoggedCollector):
            # With a memory of other tasks: what the next update would begin with, and nothing comes back of it.
            batches = self._collector.batches
            config, heritage = batches.going_on(config, folder, update), batches.heritage
        with self._collector.sampling(update) as policy:
            reading, summary = asyncio.run(
                evaluate(config, policy, folder, concurrency=self._run.concurrency, heritage=heritage)
            )
        if config.scope == "tasks":
            drop_run_memory(config, folder)
        if summary.interrupted:  # part of a reading is none; a resume makes it again
            raise KeyboardInterrupt
        if summary.missing > MOST_FAILED * summary.requested:
            raise PolicyError(f"{summary.missing} of {summary.requested} validation trials failed, see {folder}")
        return [point["value"] for point in reading.to_json()["pass_at"]]

    def _rank(self, update: int, value: float) -> bool:
        """Whether this is the best reading so far."""
        if self.best is not None and value <= self.best:
            self._waited += 1
            return False
        self.best, self.best_update, self._waited = value, update, 0
        return True

    def _keep(self, update: int, reading: list[float], model: Any, tokenizer: Any) -> None:
        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            finish(folder, self._run, tokenizer)

        self._best.keep(update, reading, write)


def _scalars(line: Json) -> Iterator[tuple[str, float]]:
    """The numbers of a line of metrics by name; of pass@k each k."""
    for name, value in line.items():
        if isinstance(value, list):
            yield from ((name.replace("@k", f"@{k}"), float(one)) for k, one in enumerate(value, start=1))
        elif isinstance(value, int | float):
            yield name, float(value)


def _parsed(line: bytes) -> Json | None:
    """A line of metrics, None for a torn one."""
    try:
        value: Json = orjson.loads(line)
    except ValueError:
        return None
    return value if line.endswith(b"\n") else None
