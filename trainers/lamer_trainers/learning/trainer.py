"""`LamerTrainer`: TRL's GRPOTrainer, fed with logged policy calls instead of completions that it generates itself.

What must stay true: the gradient of an update is that of the token-mean loss over exactly the samples of the batch, for
any number of samples, processes and micro-batches (a test compares it with an unpadded loss written by hand).

Differences from TRL's GRPO: one sample is one logged call of a multi-turn, multi-episode trial, credited across
episodes (`credit`, `advantages`); the batch size varies; an optimiser step is a loop over micro-batches of like length
under a token budget; no reward function, no generation, no evaluation inside. The loss itself, PEFT, accelerate,
checkpoints, callbacks and reporting are TRL's and transformers'.

Private parts of TRL 1.16 that this relies on, each held by tests/trainers/learning/test_trainer_contract.py:
- overridden: `_prepare_inputs`, which asks the source once per update and hands out one mini-batch after the other;
  `_get_per_token_logps_and_entropies`, which computes what samples have in common once (`packing`, `scoring`) and reads
  the answers there: what TRL hands over as prompts and completions is the answers alone;
- overridden: `_save_checkpoint`, for one clear error where the disk is full;
- called: `_compute_loss` (through `compute_loss`), for the keys it reads and for its two divisors, see `_divisors`;
- read or set: `ref_model`, `beta`, `temperature`, `num_iterations`, `aux_loss_enabled`, `_entropy_bonus_enabled`,
  `_tokenizer`, `_metrics`, `_step`, `_buffered_inputs`, `current_gradient_accumulation_steps`; of transformers' Trainer
  `_get_output_dir`.
Public methods of transformers' Trainer that are overridden: `training_step`, `get_train_dataloader`; and for PPO's
critic, which lives outside the Trainer, `train` (it is loaded with a checkpoint) and `save_model` (saved with one).
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import use_adapter

from lamer_trainers.errors import CheckpointError, TrainingConfigError, TrainingDataError
from lamer_trainers.learning.batch import Batch, read_batch
from lamer_trainers.learning.collapse import Scored, probe
from lamer_trainers.learning.config import LamerConfig
from lamer_trainers.learning.critic import Critic
from lamer_trainers.learning.distil import Distiller
from lamer_trainers.learning.invalid import InvalidWatch
from lamer_trainers.learning.metrics import LOSS, of_mini_batch
from lamer_trainers.learning.packing import MicroBatch, pack, split
from lamer_trainers.learning.probing import scorer
from lamer_trainers.learning.samples import Limits
from lamer_trainers.learning.saving import saving
from lamer_trainers.learning.scoring import Scores, score
from lamer_trainers.learning.sharing import Sharing
from lamer_trainers.learning.source import Source
from lamer_trainers.learning.tree_attention import attending

logger = logging.getLogger(__name__)


EXACT_GAP = 0.1
"""Nats a token, on average, that a float32 model's numbers are never off by where they are taken as logged."""
CRITIC = "critic"
"""Folder of PPO's critic in a checkpoint."""


class Share(NamedTuple):
    """This process's share of one mini-batch, and the trained tokens of all processes in its optimiser step."""

    micro: list[MicroBatch]
    step_tokens: int


class LamerTrainer(GRPOTrainer):  # type: ignore[misc]
    """Trains `model` (a module, PEFT or not, or a folder) on the trials of `source`.

    `args.updates` batches are taken, numbered from 0 (after a resume: from the checkpoint's number on). Other arguments
    are GRPOTrainer's (`processing_class`, `peft_config`, `callbacks`, `optimizers`); a `distiller` adds samples that
    leave a memory out. In a distributed run every process
    has a source, and that of the main process is asked. Raises TrainingDataError before an update for a batch that
    cannot be trained on.
    """

    args: LamerConfig
    current_gradient_accumulation_steps: float
    _buffered_inputs: list[Share] | None

    def __init__(
        self, model: Any, source: Source, args: LamerConfig, *, distiller: Distiller | None = None, **options: Any
    ) -> None:
        self.source = source
        self._distiller = distiller
        super().__init__(
            model=model,
            reward_funcs=_no_reward,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [""]}),
            **options,
        )
        config = self.model.config.get_text_config()
        self._limits = Limits(
            tokens=getattr(config, "max_position_embeddings", None),
            completion=args.max_completion_length,
            vocabulary=int(config.vocab_size),
        )
        self._sharing = Sharing(self.model, args.share_prefixes, auxiliary=self.aux_loss_enabled)
        self._checked_gap = False
        self._invalid = InvalidWatch()
        self._micro: MicroBatch | None = None
        """What the loss is being computed of."""
        self._scored: torch.Tensor | None = None
        """Logprobs of the answers that were scored last, (B, K)."""
        self.critic = self._new_critic() if args.algorithm == "ppo" else None

    def _new_critic(self) -> Critic:
        args = self.args
        return Critic(
            self.model,
            learning_rate=args.critic_learning_rate,
            lam=args.gae_lambda,
            passes=self.num_iterations,
            mini_batches=args.mini_batches,
            budget=args.micro_batch_tokens,
            seed=args.seed,
            sharing=self._sharing,
        )

    @property
    def update(self) -> int:
        """How many updates are complete."""
        return int(self.state.global_step) // self.args.steps_per_update

    # -- the critic in checkpoints ------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Any = None, **options: Any) -> Any:
        """As transformers' Trainer, with PPO's critic restored from the checkpoint. Raises CheckpointError."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
            if resume_from_checkpoint is None:
                raise CheckpointError(f"{self.args.output_dir} holds no checkpoint to resume from")
        place = str(resume_from_checkpoint) if resume_from_checkpoint else None
        if self.critic is not None and place is not None:
            self.critic.load(Path(place) / CRITIC)
        return super().train(resume_from_checkpoint=place, **options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As transformers' Trainer, with PPO's critic in checkpoints (which are `_internal_call`s)."""
        super().save_model(output_dir, _internal_call)
        if self.critic is not None and _internal_call and output_dir is not None and self.args.should_save:
            self.critic.save(Path(output_dir) / CRITIC)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As transformers' Trainer. Raises CheckpointError, and leaves no half of a checkpoint behind."""
        path = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with saving(path, new=True):
            super()._save_checkpoint(model, trial)

    # -- data ---------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Ticks, one for each pass through `training_step`: the data itself comes from the source."""
        ticks: list[dict[str, Any]] = [{}] * (self.args.max_steps * self.args.gradient_accumulation_steps)
        return DataLoader(ticks, batch_size=None)  # type: ignore[arg-type]

    def _prepare_inputs(self, _: Any) -> Share:
        """The mini-batch whose turn it is; at the start of an update, a new batch from the source."""
        parts = self.args.steps_per_generation
        if self._buffered_inputs is None or self._step % (parts * self.num_iterations) == 0:
            self._buffered_inputs = self._next_shares()
        share: Share = self._buffered_inputs[self._step % parts]
        return share

    def _next_shares(self) -> list[Share]:
        update, accelerator, args = self.update, self.accelerator, self.args
        started = time.perf_counter()
        batch = self._next_batch(update)
        self._metrics["train"]["time/wait"].append(time.perf_counter() - started)
        if len(batch.samples) < args.steps_per_generation:
            raise TrainingDataError(
                f"update {update} has {len(batch.samples)} samples for {args.steps_per_generation} mini-batches; "
                "collect more trials per update or lower mini_batches"
            )
        shared = self._sharing.of(max(sample.length for sample in batch.samples))
        packed = [
            pack(
                batch.samples,
                batch.advantages,
                part,
                budget=args.micro_batch_tokens,
                pad=self._tokenizer.pad_token_id,
                process=accelerator.process_index,
                processes=accelerator.num_processes,
                shared=shared,
                once=not self.aux_loss_enabled,
            )
            for part in split(len(batch.samples), args.steps_per_generation, (args.seed, update))
        ]
        window = args.gradient_accumulation_steps
        tokens = [sum(micro.all_tokens for micro in part) for part in packed]
        shares = [
            Share([micro.to(accelerator.device) for micro in part], sum(tokens[i - i % window :][:window]))
            for i, part in enumerate(packed)
        ]
        self._compare_with_sampler([micro for share in shares for micro in share.micro], update)
        if args.collapse_probe:
            batch.metrics.update(probe(batch.samples, args.collapse_probe, args.seed + update, self._scorer()))
        for name, value in batch.metrics.items():
            self._metrics["train"][name].append(value)
        self._metrics["train"]["time/batch"].append(time.perf_counter() - started)
        return shares

    def _next_batch(self, update: int) -> Batch:
        """The main process's batch, on every process; its error too, so that no process waits for ever."""
        accelerator = self.accelerator
        result: list[Any] = [None]
        if accelerator.is_main_process:
            try:
                trials = self.source.next_batch(update)
                judge = None if self.critic is None else self.critic.judge
                result = [read_batch(trials, self.args, self._limits, update, judge, self._distiller)]
            except BaseException as error:  # Ctrl-C, too: the others are waiting
                if accelerator.num_processes > 1:
                    broadcast_object_list([f"{type(error).__name__}: {error}"])
                raise
        if accelerator.num_processes > 1:
            broadcast_object_list(result)
        if isinstance(result[0], str):
            raise TrainingDataError(f"the main process could not read update {update}: {result[0]}")
        batch: Batch = result[0]
        paying = self._invalid.warning(update, batch.metrics["batch/invalid"], batch.metrics.get("invalid/return_gap"))
        for warning in [*batch.warnings, *([paying] if paying else [])] if accelerator.is_main_process else ():
            logger.warning(warning)
        return batch

    # -- the sampling policy against ours -----------------------------------------------------------------------------

    def _compare_with_sampler(self, micro: Sequence[MicroBatch], update: int) -> None:
        """Put in what the loss divides by: `old_per_token_logps`, importance weights, the reference's logprobs.

        Raises TrainingDataError if what was logged is too far from our own numbers (max_logprob_gap).
        """
        recomputed = self.args.old_logprobs == "recomputed"
        sums: dict[str, float] = defaultdict(float)
        largest = 0.0
        mode = self.model.training
        self.model.eval()
        with torch.no_grad(), self._forests(micro, self.model, self.ref_model):
            for batch in micro:
                data = batch.tensors
                logged, mask = data.pop("logged_logps"), data["completion_mask"]
                other = data.pop("remembered").unsqueeze(1)
                # Where the logged numbers are trusted, a fresh run looks once, at every row: padding may hide in one.
                if not (recomputed or not self._checked_gap or bool(other.any())):
                    data["old_per_token_logps"] = logged
                else:
                    own = self._score(self.model, batch).logprobs * mask
                    same = mask * ~other
                    gap = (own - logged).abs() * same
                    largest = max(largest, float(gap.max()))
                    weights, known = self._weights(own, logged, other | recomputed)
                    data["old_per_token_logps"] = torch.where(other | recomputed, own, logged)
                    if recomputed or bool(other.any()):
                        data["advantages"] = data["advantages"].unsqueeze(1) * weights * (known | ~other)
                    for name, value in (
                        ("gap", gap),
                        ("tokens", same),
                        ("weight", weights * same),
                        ("capped", (weights >= self.args.importance_cap) * same),
                        ("distilled", mask * other),
                        ("unknown", mask * other * ~known),
                    ):
                        sums[name] += float(value.sum())
                if self.beta != 0.0:
                    data["ref_per_token_logps"] = self._reference_logprobs(batch)
        self.model.train(mode)
        if "tokens" in sums:
            self._report_gap(sums, largest, update, recomputed)

    def _weights(
        self, own: torch.Tensor, logged: torch.Tensor, where: torch.Tensor | bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a token weighs whose numbers are not the logged ones, 1 elsewhere; and whether it is probable enough to
        be trained without what it was drawn with."""
        ratio = (own - logged).exp().clamp(max=self.args.importance_cap)
        floor = math.log(self.args.distil_floor)
        return torch.where(torch.as_tensor(where), ratio, torch.ones_like(ratio)), own > floor

    def _report_gap(self, sums: Mapping[str, float], largest: float, update: int, recomputed: bool) -> None:
        names = ("gap", "tokens", "weight", "capped", "distilled", "unknown")
        local = torch.tensor([sums.get(name, 0.0) for name in names], device=self.accelerator.device)
        gap, tokens, weight, capped, distilled, unknown = self.accelerator.reduce(local, reduction="sum").tolist()
        mean = gap / max(tokens, 1.0)
        metrics = self._metrics["train"]
        metrics["sampling/logprob_gap_mean"].append(mean)
        metrics["sampling/logprob_gap_max"].append(largest)
        if recomputed:
            metrics["sampling/importance_mean"].append(weight / max(tokens, 1.0))
            metrics["sampling/importance_capped"].append(capped / max(tokens, 1.0))
        if distilled:
            metrics["distil/tokens"].append(distilled)
            metrics["distil/unknown"].append(unknown / distilled)
        limit = self.args.max_logprob_gap
        exact = not recomputed and next(self.model.parameters()).dtype == torch.float32
        if limit is not None and exact:
            limit = min(limit, EXACT_GAP)
        if not math.isfinite(mean) or (limit is not None and mean > limit):
            raise TrainingDataError(
                f"update {update}: logged logprobs differ from this model's by {mean:.3g} nats a token on average "
                f"(limit {limit}): the log is of another model, adapter or temperature; name the right one, or "
                + ("set old_logprobs=recomputed" if exact else "raise max_logprob_gap")
                + " for an old log of the same model"
            )
        self._checked_gap = True

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **_: Any,
    ) -> Scores:
        """Logprobs and entropies (B, K) of the answers of the micro-batch at hand; its tensors are what TRL passes."""
        assert self._micro is not None
        found = self._score(model, self._micro, entropy=compute_entropy, auxiliary=compute_aux_loss)
        self._scored = found.logprobs.detach()
        return found

    def _score(self, model: Any, micro: MicroBatch, *, entropy: bool = False, auxiliary: bool = False) -> Scores:
        with self.accelerator.autocast():
            return score(
                model,
                micro.computed,
                micro.reading,
                temperature=self.temperature,
                entropy=entropy,
                entropy_gradient=self._entropy_bonus_enabled,
                auxiliary=auxiliary,
            )

    def _scorer(self) -> Scored:
        budget, pad = self.args.micro_batch_tokens, self._tokenizer.pad_token_id
        return scorer(self.model, self.accelerator, self._sharing, temperature=self.temperature, budget=budget, pad=pad)

    def _reference_logprobs(self, micro: MicroBatch) -> torch.Tensor:
        """The reference's: TRL's copy of the model, or with PEFT the base (or the adapter that training began with)."""
        if self.ref_model is not None:
            return self._score(self.ref_model, micro).logprobs
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            return self._score(self.model, micro).logprobs

    @contextlib.contextmanager
    def _forests(self, micro: Sequence[MicroBatch], *models: Any) -> Iterator[None]:
        """While open, the models compute these micro-batches, on the way back too."""
        with contextlib.ExitStack() as stack:
            if any(batch.computed.tree is not None for batch in micro):
                for model in models:
                    if model is not None:
                        stack.enter_context(attending(model))
            yield

    # -- one mini-batch -----------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over the micro-batches of one mini-batch; the sum of their losses.

        Raises TrainingDataError if the loss is not finite, before the optimiser uses it.
        """
        started = time.perf_counter()
        share = self._prepare_inputs(inputs)
        model.train()
        total = torch.zeros((), device=self.accelerator.device)
        with self._token_means(share), self._forests(share.micro, model):
            for number, micro in enumerate(share.micro):
                last = number + 1 == len(share.micro)
                with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                    with self._divisors(micro, share), self.compute_loss_context_manager():
                        self._micro = micro
                        loss = self.compute_loss(model, micro.tensors)
                    self._note_kl(micro)
                    self.accelerator.backward(loss)
                total += loss.detach()
        if not torch.isfinite(total):
            raise TrainingDataError(
                f"the loss of update {self.update} is {float(total)}: nothing was updated with it; lower the learning "
                "rate, or resume from an earlier checkpoint"
            )
        self._step += 1
        self._metrics["train"]["time/step"].append(time.perf_counter() - started)
        return total

    def _note_kl(self, micro: MicroBatch) -> None:
        """How far the policy has moved from the one that sampled (or that began the update): an estimate from the
        trained tokens, never negative (http://joschu.net/blog/kl-approx.html, k3)."""
        assert self._scored is not None
        gap = self._scored - micro.tensors["old_per_token_logps"]
        sums = torch.stack(
            [((gap.exp() - 1 - gap) * micro.tensors["completion_mask"]).sum(), gap.new_tensor(micro.tokens)]
        )
        kl, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        self._metrics["train"]["policy/kl"].append(kl / max(tokens, 1.0))

    @contextlib.contextmanager
    def _divisors(self, micro: MicroBatch, share: Share) -> Iterator[None]:
        """Make both means of TRL's loss run over the tokens of the whole optimiser step.

        With W processes, T trained tokens in the step and t in this micro-batch of this process, TRL divides the sum of
        token losses by `num_items_in_batch / W * a / steps_per_generation` and the sum of entropies by `t * a`, where a
        is `current_gradient_accumulation_steps`. Both must be T / W: processes are averaged afterwards.
        """
        world, usual = self.accelerator.num_processes, self.current_gradient_accumulation_steps
        parts = share.step_tokens / (world * micro.tokens) if micro.tokens else 1.0
        self.current_gradient_accumulation_steps = parts
        micro.tensors["num_items_in_batch"] = torch.tensor(
            share.step_tokens * self.args.steps_per_generation / parts, device=self.accelerator.device
        )
        try:
            yield
        finally:
            self.current_gradient_accumulation_steps = usual

    @contextlib.contextmanager
    def _token_means(self, share: Share) -> Iterator[None]:
        """Replace the metrics that TRL appends once per micro-batch by one value per mini-batch, weighted by tokens."""
        before = self._metrics["train"]
        inner: dict[str, list[float]] = defaultdict(list)
        self._metrics["train"] = inner
        try:
            yield
        finally:
            self._metrics["train"] = before
        weights = [micro.all_tokens for micro in share.micro]
        for name, values in inner.items():
            value = of_mini_batch(name, values, weights)
            if value is not None:  # of the loss each is a part of a step's mean already, see `_divisors`
                before[name].append(value * (self.args.gradient_accumulation_steps if name == LOSS else 1))


def _no_reward(*_: Any, **__: Any) -> NoReturn:
    """TRL wants a reward function; ours come with the trials, so nothing may ever call this."""
    raise TrainingConfigError("LamerTrainer's rewards are logged with the trials; this function is never called")
