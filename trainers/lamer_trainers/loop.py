"""`train`: the loop of collecting, training and validating, in one process that samples and trains the same module.

What must stay true: everything a run is lies in its folder (`run.json`, `collected/`, `checkpoints/`, `validation/`,
`metrics.jsonl`, `best/`, `policy/` or `adapter/`), a killed run goes on with `resume=True` from its last whole
checkpoint, and a folder never mixes two runs. `pipeline` is 0: strictly on-policy.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from lamer_graph.evaluate import evaluate
from lamer_graph.local_policy import LocalPolicy
from lamer_graph.runlog import write_atomic
from lamer_trainers.errors import CheckpointError
from lamer_trainers.online import OnlineCollector, version_name
from lamer_trainers.runfile import RunFile
from lamer_trainers.trainer import LamerTrainer

Json = dict[str, Any]
RUN, METRICS, CHECKPOINTS, COLLECTED, VALIDATION, BEST = (
    "run.json",
    "metrics.jsonl",
    "checkpoints",
    "collected",
    "validation",
    "best",
)


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
    claim(folder, run, resume)
    policy = make_policy(run)
    collector = OnlineCollector(policy, run.collect, folder / COLLECTED, concurrency=run.concurrency)
    args = run.trainer_config(folder / CHECKPOINTS, cpu=policy.model.device.type == "cpu")
    checkpoint = last_checkpoint(folder / CHECKPOINTS) if resume else None
    watch = _Watch(run, folder, collector, progress)
    trainer = LamerTrainer(policy.model, collector, args, processing_class=policy.tokenizer, callbacks=[watch])
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        collector.release()
        policy.close()
    result = folder / ("adapter" if run.lora else "policy")
    trainer.save_model(str(result))
    policy.tokenizer.save_pretrained(result)
    return Trained(result, trainer.update, watch.best, watch.best_update)


def make_policy(run: RunFile) -> LocalPolicy:
    """The policy that samples and is trained: the folder's weights, with a fresh adapter if the run trains one."""
    policy = LocalPolicy(run.policy, deterministic=run.deterministic, version=version_name(0))
    if run.lora is None:
        return policy
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=run.lora.rank, lora_alpha=run.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(policy.model, settings)
    return LocalPolicy(model, policy.tokenizer, deterministic=run.deterministic, version=version_name(0))


def claim(folder: Path, run: RunFile, resume: bool) -> None:
    """Write the run's description, or compare with the one that is there. Raises CheckpointError."""
    path, wanted = folder / RUN, run.model_dump(mode="json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomic(path, orjson.dumps(wanted, option=orjson.OPT_INDENT_2))
            return
        there = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the run folder {folder} cannot be used ({error}); choose another") from None
    if not resume:
        raise CheckpointError(f"{folder} already holds a run; continue it with --resume or choose another name")
    if there != wanted:
        raise CheckpointError(f"{folder} holds a run of other settings ({_difference(there, wanted)}); name another")


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


class _Watch(TrainerCallback):
    """After every update: a line of metrics, and when it is due a validation, the best weights, an early stop."""

    def __init__(
        self, run: RunFile, folder: Path, collector: OnlineCollector, progress: Callable[[Json], None] | None
    ) -> None:
        self._run, self._folder, self._collector, self._progress = run, folder, collector, progress
        self._per_update = run.optimise.mini_batches * run.optimise.passes
        self._clock = time.perf_counter()
        self.best: float | None = None
        self.best_update: int | None = None
        self._waited = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget what a killed run noted after the checkpoint, so that every update is noted once."""
        update, path = state.global_step // self._per_update, self._folder / METRICS
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        known = [(line, _parsed(line)) for line in lines]
        kept = [(line, noted) for line, noted in known if noted is not None and noted["update"] <= update]
        write_atomic(path, b"".join(raw for raw, _ in kept))
        for _, metrics in kept:
            if "validation/pass@k" in metrics:
                self._rank(metrics["update"], metrics["validation/pass@k"][-1])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        now = time.perf_counter()
        update = state.global_step // self._per_update
        summary = self._collector.summary
        line: Json = {"update": update, "time/update": now - self._clock}
        if summary is not None:
            line |= {"time/collect": summary.seconds, "collect/calls_per_s": summary.calls / max(summary.seconds, 1e-9)}
        line |= {key: float(value) for key, value in logs.items() if isinstance(value, int | float)}
        due = self._run.validation
        if due is not None and (update % due.every == 0 or state.global_step >= state.max_steps):
            line["validation/pass@k"] = self._validate(update)
            if self._rank(update, line["validation/pass@k"][-1]):
                self._keep(kwargs["model"], kwargs["processing_class"])
            if due.patience is not None and self._waited >= due.patience:
                control.should_training_stop = True
        with (self._folder / METRICS).open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")
        if self._progress is not None:
            self._progress(line)
        self._clock = time.perf_counter()

    def _validate(self, update: int) -> list[float]:
        due = self._run.validation
        assert due is not None
        config = self._run.collect.model_copy(
            update={"split": due.split, "tasks": due.tasks, "trials": 1, "policy": version_name(update)}
        )
        folder = self._folder / VALIDATION / f"update-{update:05d}"
        if folder.exists():  # of a killed run, which may have had other weights by then
            shutil.rmtree(folder)
        with self._collector.sampling(update) as policy:
            reading, _ = asyncio.run(evaluate(config, policy, folder, concurrency=self._run.concurrency))
        return [point["value"] for point in reading.to_json()["pass_at"]]

    def _rank(self, update: int, value: float) -> bool:
        """Whether this is the best reading so far."""
        if self.best is not None and value <= self.best:
            self._waited += 1
            return False
        self.best, self.best_update, self._waited = value, update, 0
        return True

    def _keep(self, model: Any, tokenizer: Any) -> None:
        fresh, best = self._folder / f"{BEST}.new", self._folder / BEST
        shutil.rmtree(fresh, ignore_errors=True)
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        shutil.rmtree(best, ignore_errors=True)
        fresh.rename(best)


def _parsed(line: bytes) -> Json | None:
    """A line of metrics, None for a torn one."""
    try:
        value: Json = orjson.loads(line)
    except ValueError:
        return None
    return value if line.endswith(b"\n") else None
