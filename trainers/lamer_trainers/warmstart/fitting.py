"""Fitting a tiny policy to scripted rows with TRL's SFTTrainer, plus an unlikelihood term for forbidden answers.

What must stay true: only answer tokens are trained on, the end token included (the prompt's too where `reading` asks
for it); the result is the same for the same rows, seed and number of threads.

Differences from plain SFT:
- Batches are padded on the left, so that all answers end at the last column and logits are computed for them alone.
- Where a row has ties, -log p of an answer token is the mean over the tokens that begin one of them: what the draw of
  the answer would give on average, without its noise.
- The loss of a batch of B rows is `(sum of -log p(answer tokens) / 2 + sum of -log(1 - p(forbidden))) / B`. The second
  term is the unlikelihood of Welleck et al., arXiv 1908.04319, eq. 4, with p(forbidden) the probability of all tokens
  that would turn the answer into a forbidden one, summed: what matters is that a cell known to be a mine is not opened
  at all. Imitation alone stops at some 10 % here, and RL then never finds out that memory is worth reading.
- `FitConfig.reading` adds the prompt's own tokens, for environments in words: answers there repeat names of the prompt,
  and a model comes to copy from the many names that recur in prompts much sooner than from the few in answers.
- `compute_loss` is overridden whole, because TRL's never builds the logits that the second term needs, and
  `_send_telemetry`, because its switch is read when huggingface_hub is imported, which may have happened long before.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from lamer_graph.trial.answers import ACTION_TAG
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.warmstart.teachers import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

IGNORE = -100
MARKED = ("forbidden", "ties")
"""Columns of a row that mark tokens of its answer."""
LOG_STEPS = 100
"""Steps between two lines of progress; fewer in a short fit."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Hyper-parameters of the fit: one pass over the rows, cosine decay after a short rise."""

    batch: int = 64
    learning_rate: float = 1.2e-3
    rise_steps: int = 50
    unlikelihood: float = 1.25
    reading: float = 0.0
    """Weight of predicting the prompt's own tokens, in nats a token: names that recur in it teach a model to copy long
    before answers alone would."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def encode(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row]) -> Dataset:
    """Columns `input_ids` (prompt, answer, end), `answer` (how many of them are the answer's), `forbidden` and `ties`.

    The last two list [position in the answer, token]: where a forbidden or an equally good answer first differs from
    the row's, and how.
    """
    chats: Any = [row.messages for row in rows]
    prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer([row.answer for row in rows], add_special_tokens=False)["input_ids"]
    texts = sorted({action for row in rows for action in (*row.forbidden, *row.ties)})
    begun = (
        tokenizer([f"<{ACTION_TAG}>{text}" for text in texts], add_special_tokens=False)["input_ids"] if texts else []
    )
    beginnings = dict(zip(texts, begun, strict=True))

    def partings(actions: Sequence[str], answer: Sequence[int]) -> list[tuple[int, int]]:
        return sorted({at for action in actions if (at := parting(beginnings[action], answer)) is not None})

    return Dataset.from_dict(
        {
            "input_ids": [[*p, *a, tokenizer.eos_token_id] for p, a in zip(prompt_ids, answer_ids, strict=True)],
            "answer": [len(a) + 1 for a in answer_ids],
            "forbidden": [partings(row.forbidden, answer) for row, answer in zip(rows, answer_ids, strict=True)],
            "ties": [partings(row.ties, answer) for row, answer in zip(rows, answer_ids, strict=True)],
            "length": [len(p) + len(a) + 1 for p, a in zip(prompt_ids, answer_ids, strict=True)],
        }
    )


def parting(forbidden: Sequence[int], answer: Sequence[int]) -> tuple[int, int] | None:
    """Where the first differing token is and what it is, None if one sequence begins with the other."""
    for at, (token, taken) in enumerate(zip(forbidden, answer, strict=False)):
        if token != taken:
            return at, token
    return None


@dataclass(frozen=True, slots=True)
class LeftCollator:
    """Rows as a batch: (B, T) ids and mask, padded left; (B, K) labels of the last K columns; (B, K, V) `MARKED`."""

    pad: int
    vocabulary: int

    def __call__(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width, keep = max(len(row["input_ids"]) for row in batch), max(row["answer"] for row in batch)
        ids = torch.full((len(batch), width), self.pad)
        mask = torch.zeros_like(ids)
        labels = torch.full((len(batch), keep), IGNORE)
        marked = {name: torch.zeros((len(batch), keep, self.vocabulary), dtype=torch.bool) for name in MARKED}
        for i, row in enumerate(batch):
            length, answer = len(row["input_ids"]), row["answer"]
            ids[i, width - length :] = torch.tensor(row["input_ids"])
            mask[i, width - length :] = 1
            labels[i, keep - answer :] = ids[i, width - answer :]
            for name, tokens in marked.items():
                if row[name]:
                    at = torch.tensor(row[name])
                    tokens[i, keep - answer + at[:, 0], at[:, 1]] = True
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, **marked}


def answer_logprobs(model: Any, inputs: dict[str, torch.Tensor], whole: bool = False) -> torch.Tensor:
    """Log-probabilities (B, K, V) of the next token at each of the last K columns of a `LeftCollator` batch.

    `whole`: of every column but the first, (B, T - 1, V).
    """
    mask = inputs["attention_mask"]
    outputs = model(
        input_ids=inputs["input_ids"],
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=0 if whole else inputs["labels"].shape[1] + 1,
    )
    logprobs: torch.Tensor = outputs.logits[:, :-1].float().log_softmax(-1)
    return logprobs


class WarmupTrainer(SFTTrainer):
    """SFTTrainer with the loss of this module's head. `unlikelihood` weighs its second term."""

    unlikelihood: float = 1.0
    reading: float = 0.0

    def _send_telemetry(self) -> None:
        """Nothing is sent; the environment variable that says so is read before a host may have set it."""

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"]
        rows = len(labels)
        logprobs = answer_logprobs(model, inputs, whole=self.reading > 0)
        read = self._reading_loss(logprobs, inputs) if self.reading > 0 else 0.0
        logprobs = logprobs[:, -labels.shape[1] :]
        taught = labels != IGNORE
        good = inputs["ties"].scatter(-1, labels.clamp(min=0)[..., None], True)
        imitation = -((logprobs * good).sum(-1) / good.sum(-1) * taught).sum() / rows
        wrong = (logprobs.exp() * inputs["forbidden"]).sum(-1)
        avoidance = -torch.log1p(-wrong.clamp(max=1 - 1e-4)).sum() / rows
        concerned = inputs["forbidden"].any(-1).any(-1).sum().clamp(min=1)
        self._metrics["train"]["imitation"].append(float(imitation.detach()))
        self._metrics["train"]["forbidden"].append(float((wrong.sum() / concerned).detach()))
        loss = imitation / 2 + self.unlikelihood * avoidance + self.reading * read
        return (loss, {"logprobs": logprobs}) if return_outputs else loss

    def _reading_loss(self, logprobs: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean negative log-probability of the prompts' tokens after the first."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        prompt = (mask[:, 1:] * mask[:, :-1]).bool()
        prompt[:, -inputs["labels"].shape[1] :] &= inputs["labels"] == IGNORE
        return -logprobs.gather(-1, ids[:, 1:, None])[..., 0][prompt].mean()


class _Report(TrainerCallback):
    """One line of progress for each logged interval, with the rate and the time left."""

    def __init__(self, progress: Progress, rows: int, batch: int) -> None:
        self._progress, self._rows, self._batch = progress, rows, batch
        self._started = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.perf_counter()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if not logs or "imitation" not in logs or "loss" not in logs:
            return
        done = min(state.global_step * self._batch, self._rows)
        rate = done / max(time.perf_counter() - self._started, 1e-9)
        self._progress(
            f"fitting {done:,}/{self._rows:,} rows, {rate:,.0f} rows/s, {(self._rows - done) / rate:.0f} s left; "
            f"imitation {float(logs['imitation']):.3f} nats a row, forbidden {float(logs['forbidden']):.3f}"
        )


def fit(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    config: FitConfig,
    *,
    seed: int,
    progress: Progress,
) -> None:
    """Fit the model in place, one pass over the rows. Raises TrainingDataError if parameters end up non-finite."""
    with tempfile.TemporaryDirectory(prefix="lamer-warmup-") as scratch:
        arguments = SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=config.batch,
            num_train_epochs=1,
            learning_rate=config.learning_rate,
            warmup_steps=config.rise_steps,
            lr_scheduler_type="cosine",
            weight_decay=0.01,
            adam_beta2=0.98,
            max_grad_norm=1.0,
            seed=seed,
            data_seed=seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            train_sampling_strategy="group_by_length",
            length_column_name="length",
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            completion_only_loss=True,
            dataloader_drop_last=len(rows) > config.batch,
            logging_steps=max(1, min(LOG_STEPS, len(rows) // (8 * config.batch))),
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = WarmupTrainer(
            model=model,
            args=arguments,
            train_dataset=encode(tokenizer, rows),
            processing_class=tokenizer,
            data_collator=LeftCollator(tokenizer.pad_token_id, len(tokenizer)),
            callbacks=[_Report(progress, len(rows), config.batch)],
        )
        trainer.remove_callback(PrinterCallback)  # it prints what `progress` says better
        trainer.unlikelihood, trainer.reading = config.unlikelihood, config.reading
        trainer.train()
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise TrainingDataError("the fit ended in non-finite parameters; use a smaller learning rate")
    model.train(False)
