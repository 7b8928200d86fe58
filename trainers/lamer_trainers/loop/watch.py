"""What follows every update of a run: its line of metrics, and when it is due a validation and the best weights.

What must stay true: every update is noted once, also if the process is killed and the run goes on; part of a
validation is never taken for one; the best weights are those of an update that the run has not lost.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
from transformers import TrainerCallback

from lamer_graph.collection.run_memory import drop_run_memory
from lamer_graph.evaluation.evaluate import evaluate
from lamer_graph.runlog import write_atomic
from lamer_trainers.learning.saving import saving
from lamer_trainers.loop.best import Best
from lamer_trainers.loop.run_folder import METRICS, VALIDATION, describe, finish, steps_of
from lamer_trainers.runfile import RunFile
from lamer_trainers.sources.batches import check_played, version_name
from lamer_trainers.sources.collector import Collector

Json = dict[str, Any]


class Watch(TrainerCallback):
    """After every update: a line of metrics, and when it is due a validation, the best weights, an early stop."""

    def __init__(
        self, run: RunFile, folder: Path, collector: Collector, progress: Callable[[Json], None] | None
    ) -> None:
        self._run, self._folder, self._collector, self._progress = run, folder, collector, progress
        self._per_update = run.optimise.steps_per_update
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
        """Describe the checkpoint; drop what none needs any more: a former best, and memories, or a run keeps all."""
        folder = Path(args.output_dir)
        with saving(folder):
            describe(folder / f"checkpoint-{state.global_step}", self._run)
        self._best.checkpointed()
        steps = [steps_of(path) for path in folder.glob("checkpoint-*")]
        if steps:
            self._collector.batches.forget_before(min(steps) // self._per_update)
        self._clock = time.perf_counter()

    def _validate(self, update: int) -> list[float]:
        """pass@k of the weights as they are. Raises KeyboardInterrupt and PolicyError as collecting does."""
        due = self._run.validation
        assert due is not None
        config = self._run.collect.model_copy(
            update={
                **{"split": due.split, "tasks": due.tasks, "trials": 1, "policy": version_name(update)},
                **{"rerolls": 0, "reroll_trials": 1},
            }
        )
        folder = self._folder / VALIDATION / f"update-{update:05d}"
        if folder.exists():  # of a killed run, which may have had other weights by then
            drop_run_memory(config, folder)
            shutil.rmtree(folder)
        # With a memory of other tasks: what the next update would begin with, and nothing comes back of it.
        batches = self._collector.batches
        config, heritage = batches.going_on(config, folder, update), batches.heritage
        with self._collector.sampling(update) as policy:
            reading, summary = asyncio.run(
                evaluate(config, policy, folder, concurrency=self._run.concurrency, heritage=heritage)
            )
        drop_run_memory(config, folder)
        check_played(summary, folder, f"the validation in {folder}")  # part of a reading is none
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
