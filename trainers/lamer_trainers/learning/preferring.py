"""`PreferenceTrainer`: TRL's DPOTrainer on pairs whose tokens were logged.

What must stay true: no text is tokenised, and the loss of a batch is DPO's (arXiv 2305.18290, eq. 7) for exactly the
logged tokens: -log sigmoid(beta * ((chosen - rejected) - (ref chosen - ref rejected))), each a sum of log-probabilities
over all answers of a side (a test computes it by hand).

Differences from TRL's DPO:
- Rows come with `prompt_ids`, `chosen_ids` and `rejected_ids`, what TRL's own preparation would make of texts, so
  `_prepare_dataset` hands them on as they are.
- A side of several calls, a trial's, is one row: its calls one behind the other, positions counted from 0 in each, a
  mask that lets tokens see their own call alone. TRL sums over a row, which is then the trial's sum.
- The reference is the policy at the start, which scores every call once before the first step, however many pairs it
  is in, or, where that policy sampled the log, what was logged (`_precompute_ref_logps`). The copy of an adapter that
  TRL keeps for a reference that is scored along the way is dropped, so that it is not saved as part of the result.

Private parts of TRL 1.16 that this relies on, held by tests/trainers/learning/test_preferring.py: the four overridden
below, and the batch that `_compute_loss` reads: `input_ids`, `attention_mask`, `completion_mask`, `ref_*_logps`, the
chosen rows first, all else given to the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from datasets import Dataset
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.packing import readings
from lamer_trainers.learning.preferences import Pair, row_of
from lamer_trainers.learning.saving import saving
from lamer_trainers.learning.scoring import score
from lamer_trainers.learning.sharing import Sharing
from lamer_trainers.learning.tree_attention import attending

Reference = Literal["start", "logged"]
REF_ADAPTER = "ref"
SIDES = ("chosen", "rejected")


def dataset_of(pairs: Sequence[Pair]) -> Dataset:
    """One row a pair, see `preferences.row_of`. Raises TrainingDataError where there is none."""
    if not pairs:
        raise TrainingDataError(
            "the logs hold no pair: no two answers to one prompt (or trials of one task) differ by preferences.gap; "
            "collect more trials a task, lower the gap, or take preferences.pairs=both"
        )
    return Dataset.from_list([row_of(pair) for pair in pairs])


def longest(rows: Dataset) -> int:
    """Tokens of the longest side of a pair."""
    return max(
        sum(len(call["prompt_ids"]) + len(call["token_ids"]) for call in row[side]) for row in rows for side in SIDES
    )


def at_a_time(batch: int, tokens: int, budget: int) -> int:
    """Pairs of one pass, both of whose sides have up to `tokens` tokens: a divisor of `batch`, at least 1."""
    return max(size for size in range(1, batch + 1) if batch % size == 0 and (size == 1 or 2 * size * tokens <= budget))


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Pairs as TRL's batch, chosen rows first. `additive`: masks of rows of several calls are added to scores, for
    attention that cannot take truth values."""

    pad: int
    additive: bool = False

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        references = {name: torch.tensor([pair[name] for pair in pairs]) for name in REFERENCES if name in pairs[0]}
        if all(len(pair[side]) == 1 for pair in pairs for side in SIDES):
            plain = [{name: pair[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")} for pair in pairs]
            batch: dict[str, torch.Tensor] = DataCollatorForPreference(pad_token_id=self.pad)(plain)
            return {**batch, **references}
        rows = [pair[side] for side in SIDES for pair in pairs]
        return {**self._in_rows(rows), **references}

    def _in_rows(self, rows: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, torch.Tensor]:
        width = max(sum(len(call["prompt_ids"]) + len(call["token_ids"]) for call in row) for row in rows)
        ids = torch.full((len(rows), width), self.pad)
        positions, answers = torch.zeros_like(ids), torch.zeros_like(ids)
        owner = torch.full((len(rows), width), -1)
        for at, row in enumerate(rows):
            begin = 0
            for number, call in enumerate(row):
                tokens = [*call["prompt_ids"], *call["token_ids"]]
                end = begin + len(tokens)
                ids[at, begin:end] = torch.tensor(tokens)
                positions[at, begin:end] = torch.arange(len(tokens))
                answers[at, begin + len(call["prompt_ids"]) : end] = 1
                owner[at, begin:end] = number
                begin = end
        earlier = torch.ones(width, width, dtype=torch.bool).tril()
        seen = ((owner[:, :, None] == owner[:, None, :]) & earlier)[:, None]  # padding sees padding: no empty row
        if self.additive:
            seen = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        return {"input_ids": ids, "attention_mask": seen, "completion_mask": answers, "position_ids": positions}


REFERENCES = ("ref_chosen_logps", "ref_rejected_logps")


Key = tuple[tuple[int, ...], tuple[int, ...]]


class Logged(NamedTuple):
    """A call as `packing` reads one."""

    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]

    @property
    def logprobs(self) -> Sequence[float]:
        """Not asked for: the reference's are what is computed."""
        return [0.0] * len(self.token_ids)


def _key(call: Mapping[str, Any]) -> Key:
    return tuple(call["prompt_ids"]), tuple(call["token_ids"])


class PreferenceTrainer(DPOTrainer):
    """DPOTrainer on `pairs` (a data set of `dataset_of`). `reference` "logged" takes the logged log-probabilities for
    the reference's; else it is scored in passes of up to `budget` tokens. Other arguments are DPOTrainer's; `args` must
    have `precompute_ref_log_probs`."""

    def __init__(
        self,
        model: Any,
        pairs: Dataset,
        args: DPOConfig,
        *,
        reference: Reference = "start",
        budget: int = 16_384,
        **options: Any,
    ) -> None:
        self._reference, self._budget, self._tokens = reference, budget, 0
        config, tokenizer = model.config.get_text_config(), options["processing_class"]
        self._pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        collator = PairCollator(self._pad, additive=config._attn_implementation != "sdpa")
        super().__init__(model=model, args=args, train_dataset=pairs, data_collator=collator, **options)
        trained: Any = self.model
        if REF_ADAPTER in getattr(trained, "peft_config", {}):
            trained.delete_adapter(REF_ADAPTER)

    @property
    def update(self) -> int:
        """How many steps are complete."""
        return int(self.state.global_step)

    def _send_telemetry(self) -> None:
        """Nothing is sent; the environment variable that says so is read before a host may have set it."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if self._reference == "logged":
            for column, told in zip(REFERENCES, ("logged_chosen_logps", "logged_rejected_logps"), strict=True):
                dataset = dataset.add_column(column, dataset[told][:])
            return dataset
        known = self._scored({_key(call): call for row in dataset for side in SIDES for call in row[side]})
        for column, side in zip(REFERENCES, SIDES, strict=True):
            dataset = dataset.add_column(column, [sum(known[_key(call)] for call in calls) for calls in dataset[side]])
        return dataset

    def _scored(self, calls: Mapping[Key, Mapping[str, Any]]) -> dict[Key, float]:
        """The log-probability (nats) of each answer by the policy as it is now; common beginnings are computed once."""
        logged = [Logged(list(call["prompt_ids"]), list(call["token_ids"])) for call in calls.values()]
        model: Any = self.model
        found = torch.zeros(len(logged))
        device, before = model.device, model.training
        shared = Sharing(model, True).of(max(len(one.prompt_token_ids) + len(one.token_ids) for one in logged))
        model.eval()
        with torch.inference_mode(), self.accelerator.autocast(), attending(model) if shared else nullcontext():
            for numbers, computed, reading, tensors in readings(
                logged, budget=self._budget, pad=self._pad, shared=shared
            ):
                logprobs = score(model, computed.to(device), reading.to(device)).logprobs.float().cpu()
                found[numbers] = (logprobs * tensors["completion_mask"]).sum(1)
        model.train(before)
        return dict(zip(calls, found.tolist(), strict=True))

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool) -> Any:
        self._tokens += int(inputs["completion_mask"].sum())
        return super()._compute_loss(model, inputs, return_outputs)  # type: ignore[no-untyped-call]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL's, with what a line of a run's metrics has besides."""
        if "loss" in logs:
            logs |= {"time/wait": 0.0, "batch/tokens": float(self._tokens)}
            self._tokens = 0
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As TRL's. Raises CheckpointError, and leaves no half of a checkpoint behind."""
        path = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with saving(path, new=True):
            super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
