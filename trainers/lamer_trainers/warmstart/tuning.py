"""Fitting a pretrained model to scripted rows with transformers' Trainer, all its weights or an adapter.

What must stay true: only answers are learnt; the result is the same for the same rows, seed, precision and
number of threads, also if the fit was killed and went on from a checkpoint in between.

A step of B rows is the mean of -log p over their answer tokens, in passes that fit the memory; what rows begin with
alike is computed once (`learning.packing`). Where several answers are as good, each counts its share. There is no
unlikelihood term as in `fitting`: a forbidden action and a good one are several tokens that begin alike.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.packing import readings
from lamer_trainers.learning.scoring import score
from lamer_trainers.learning.sharing import Sharing
from lamer_trainers.learning.tree_attention import attending
from lamer_trainers.warmstart.examples import EncodedRow, Example, batched, drawn, longest
from lamer_trainers.warmstart.fitting import Progress

Precision = Literal["float32", "bfloat16"]
CHECKPOINT_SECONDS = 120.0
"""Between two checkpoints, about."""
LINES = 40
"""Lines of progress of a fit, about."""
TIMED = 4
"""Rows that tell how fast a fit will be."""
CLEARLY = 0.9
"""Share of float32's time that bfloat16 must stay below to be worth its digits."""


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """Hyper-parameters of the fit: one pass over the rows, cosine decay after a short rise.

    `rank` and `alpha` are of an adapter on all linear layers (None: all weights are trained); `micro_tokens` bounds the
    tokens that are computed at once.
    """

    learning_rate: float
    rank: int | None = None
    alpha: int | None = None
    batch: int = 8
    rise: float = 0.06
    """Share of the steps in which the learning rate rises."""
    micro_tokens: int = 2048

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def faster_precision(device: torch.device) -> Precision:
    """What to multiply in: bfloat16 on GPUs that have it, and on CPUs where it is measurably faster."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"

    def seconds(kind: torch.dtype) -> float:
        # Small: without instructions for it, bfloat16 takes fifty times as long as float32.
        left, right = torch.ones(128, 512, dtype=kind), torch.ones(512, 512, dtype=kind)
        found = []
        for _ in range(4):
            started = time.perf_counter()
            left @ right
            found.append(time.perf_counter() - started)
        return min(found)

    return "bfloat16" if seconds(torch.bfloat16) < CLEARLY * seconds(torch.float32) else "float32"


def with_adapter(model: Any, config: TuneConfig, seed: int) -> Any:
    """The model with a fresh adapter that the seed decides; the model itself where all weights are trained."""
    if config.rank is None:
        return model
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=config.rank, lora_alpha=config.alpha or config.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, settings)


def rows_per_second(
    model: Any, encoded: Sequence[EncodedRow], config: TuneConfig, precision: Precision, pad: int
) -> float:
    """How fast batches of the fit will be, from a few rows that are propagated twice, with nothing learnt."""
    mixed = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    encoded, shared = taught(model, encoded)
    some, seconds = flat(encoded[:TIMED]), 0.0
    model.train()
    for _ in range(2):  # the first is slower
        begun = time.perf_counter()
        with mixed:
            learn(model, some, config, pad, shared, torch.Tensor.backward)
        seconds = time.perf_counter() - begun
    model.zero_grad(set_to_none=True)

    def computed(batch: Sequence[Example]) -> int:
        made = readings(batch, budget=config.micro_tokens, pad=pad, shared=shared)
        return sum(each.ids.numel() for _, each, _, _ in made)

    tokens = sum(computed(flat(encoded[i] for i in batch)) for batch in batched(encoded, config.batch, seed=0))
    return len(encoded) / max(tokens * seconds / computed(some), 1e-9)


def taught(model: Any, encoded: Sequence[EncodedRow]) -> tuple[Sequence[EncodedRow], bool]:
    """What of the rows `model` is taught, and whether it can compute forests: if not, other answers cost as much
    as other rows, and the one that was drawn is enough."""
    shared = Sharing(model, True).of(longest(encoded))
    return (encoded if shared else [drawn(row) for row in encoded]), shared


def flat(encoded: Iterable[EncodedRow]) -> list[Example]:
    """All answers of these rows."""
    return [example for row in encoded for example in row]


def tune(
    model: Any,
    encoded: Sequence[EncodedRow],
    config: TuneConfig,
    *,
    folder: Path,
    seed: int,
    precision: Precision,
    pad: int,
    rate: float | None = None,
    resume: bool = False,
    progress: Progress,
) -> float:
    """Fit the model in place, one pass over the rows, with checkpoints in `folder`.

    `rate` is rows a second as measured, for the distance of checkpoints. With `resume` it goes on from the last whole
    checkpoint, if there is one. Returns the seconds it took, those before a resumption included. Raises
    TrainingDataError if parameters end up non-finite.
    """
    encoded, shared = taught(model, encoded)
    batches = [[encoded[i] for i in batch] for batch in batched(encoded, config.batch, seed)]
    every = 1 if rate is None else max(1, int(CHECKPOINT_SECONDS * rate / config.batch))
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        warmup_steps=max(1, round(config.rise * len(batches))),
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=seed,
        use_cpu=model.device.type == "cpu",
        bf16=precision == "bfloat16",
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=max(1, len(batches) // LINES),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Tuner(
        model=model,
        args=arguments,
        train_dataset=[{"batch": at} for at in range(len(batches))],
        data_collator=lambda items: {"batch": torch.tensor(items[0]["batch"])},
        callbacks=[report := _Report(progress, list(accumulate(map(len, batches))))],
    )
    trainer.remove_callback(PrinterCallback)  # it prints what `progress` says better
    trainer.batches, trainer.tuning, trainer.pad, trainer.shared = [*map(flat, batches)], config, pad, shared
    checkpoint = last_whole(folder) if resume else None
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if not all(torch.isfinite(one).all() for one in model.parameters() if one.requires_grad):
        raise TrainingDataError("the fit ended in non-finite parameters; use a smaller learning rate")
    model.train(False)
    return report.seconds


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint whose state, which is written last, can be read."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found.append((int(json.loads((path / "trainer_state.json").read_text())["global_step"]), path))
    return max(found)[1] if found else None


class Tuner(Trainer):
    """Trainer whose step is `learn` on a numbered batch."""

    batches: Sequence[Sequence[Example]]
    tuning: TuneConfig
    pad: int
    shared: bool

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        model.train()
        batch = self.batches[int(inputs["batch"])]
        return learn(model, batch, self.tuning, self.pad, self.shared, self.accelerator.backward)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the Trainer's formula would count what is shared once a row."""
        return 0


def learn(
    model: Any,
    batch: Sequence[Example],
    config: TuneConfig,
    pad: int,
    shared: bool,
    backward: Callable[[torch.Tensor], Any],
) -> torch.Tensor:
    """Propagate the batch's loss, pass by pass; the loss. `shared`: whether `model` can compute a forest of tokens."""
    answers = sum(example.share * len(example.token_ids) for example in batch)
    total = torch.zeros(())
    for numbers, logprobs in scored(model, batch, config.micro_tokens, pad, shared):
        shares = torch.tensor([batch[i].share for i in numbers], device=logprobs.device)
        loss = -(shares @ logprobs.sum(1)) / answers
        backward(loss)
        total = total + loss.detach().cpu()
    return total


def scored(
    model: Any, examples: Sequence[Example], budget: int, pad: int, shared: bool
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """The numbers of each pass's examples and the log-probabilities (B, K) of their answers, 0 beyond an answer; to be
    propagated before the next."""
    with attending(model) if shared else contextlib.nullcontext():
        for numbers, computed, reading, tensors in readings(examples, budget=budget, pad=pad, shared=shared):
            found = score(model, computed.to(model.device), reading.to(model.device)).logprobs
            yield numbers, found * tensors["completion_mask"].to(model.device)


class _Report(TrainerCallback):
    """One line of progress for each logged interval, with the rate and the time left."""

    def __init__(self, progress: Progress, rows: Sequence[int]) -> None:
        self._progress, self._rows = progress, rows
        """Rows after each step."""
        self._started = self._earlier = 0.0
        self._before = 0

    @property
    def seconds(self) -> float:
        """Of the fit so far, in all its sittings."""
        return self._earlier + time.perf_counter() - self._started

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.perf_counter()
        self._before = self._done(state)
        if self._before:
            self._earlier = max((line.get("seconds", 0.0) for line in state.log_history), default=0.0)
            self._progress(f"going on after {self._before:,} rows")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        state.log_history[-1]["seconds"] = self.seconds  # a checkpoint keeps it
        done, every = self._done(state), self._rows[-1]
        rate = (done - self._before) / max(time.perf_counter() - self._started, 1e-9)
        left = (every - done) / rate
        self._progress(
            f"fitting {done:,}/{every:,} rows, {rate:.3g} rows/s, {left:.0f} s left; "
            f"loss {float(logs['loss']):.3f} nats a token"
        )

    def _done(self, state: TrainerState) -> int:
        return self._rows[state.global_step - 1] if state.global_step else 0


@contextlib.contextmanager
def merged(model: Any) -> Iterator[None]:
    """While open, the model's adapter, if it has one, is merged into its weights: it samples faster so."""
    merges = hasattr(model, "merge_adapter")
    if merges:
        model.merge_adapter()
    try:
        yield
    finally:
        if merges:
            model.unmerge_adapter()
