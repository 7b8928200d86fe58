"""Sections of a run file: how a policy is trained, what of it, and where it is sampled.

What must stay true: closed and typed, as all of a run file; a section checks what it can know by itself, `runfile` what
contradicts another one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lamer_trainers.credit import Objective, Variant
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.learning.samples import Algorithm, Anchor, Baseline, Level, Normalise
from lamer_trainers.learning.settings import LamerSettings, OldLogprobs

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


class Closed(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimise(Closed):
    """How a batch of trials becomes optimiser steps: settings of `LamerConfig`, by its names but for `RENAMED`.

    Defaults are the paper's where it states one.
    """

    updates: Positive = 300
    algorithm: Literal[Algorithm, "dpo"] = LamerSettings.algorithm
    gamma_step: float = LamerSettings.gamma_step
    gamma_traj: float = LamerSettings.gamma_traj
    credit: Variant = LamerSettings.credit
    level: Level = LamerSettings.level
    invalid_penalty: Amount = LamerSettings.invalid_penalty
    objective: Objective = LamerSettings.objective
    progress_weight: Amount = LamerSettings.progress_weight
    normalise: Normalise = LamerSettings.normalise
    anchor: Anchor = LamerSettings.anchor
    baseline: Baseline = LamerSettings.baseline
    by_memory: bool = LamerSettings.by_memory
    drop_groups: Annotated[float, Field(ge=0, lt=1)] = LamerSettings.drop_groups
    collapse_probe: Count = LamerSettings.collapse_probe
    step_weight: float = LamerSettings.step_weight
    learning_rate: Amount = 1e-6
    warmup_updates: Count = 0
    schedule: Literal["constant", "linear"] = "constant"
    mini_batches: Positive = LamerSettings.mini_batches
    passes: Positive = 1
    clip: Amount = 0.2
    entropy: Amount = 0.0
    kl: Amount = 0.0
    max_grad_norm: Amount = 1.0
    weight_decay: Amount = 0.0
    micro_batch_tokens: Positive = LamerSettings.micro_batch_tokens
    share_prefixes: bool = LamerSettings.share_prefixes
    gradient_checkpointing: bool = LamerSettings.gradient_checkpointing
    old_logprobs: OldLogprobs = LamerSettings.old_logprobs
    importance_cap: float = LamerSettings.importance_cap
    max_logprob_gap: Annotated[float, Field(gt=0)] | None = LamerSettings.max_logprob_gap
    gae_lambda: float = LamerSettings.gae_lambda
    critic_learning_rate: Amount = LamerSettings.critic_learning_rate
    seed: int = 0

    @property
    def steps_per_update(self) -> int:
        """Optimiser steps per batch of trials."""
        return 1 if self.algorithm == "dpo" else self.mini_batches * self.passes

    def settings(self) -> dict[str, Any]:
        """The same as arguments of `LamerConfig`."""
        left = ("warmup_updates", "schedule", *(["algorithm"] if self.algorithm == "dpo" else []))
        told = {RENAMED.get(name, name): value for name, value in self if name not in left}
        schedule = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        return {**told, "lr_scheduler_type": schedule, "warmup_steps": self.warmup_updates * self.steps_per_update}


RENAMED = {"passes": "num_iterations", "clip": "epsilon", "entropy": "entropy_coef", "kl": "beta"}
"""What TRL calls otherwise."""


class Lora(Closed):
    """Train an adapter instead of the weights.

    `modules` are names of linear layers, as they end in the model (`q_proj`), None: all but the head. `dropout` is on
    what enters the adapter while it is trained. `rslora` scales by alpha / sqrt(rank) instead of alpha / rank, so that
    a higher rank learns as fast (arXiv 2312.03732).
    """

    rank: Positive = 32
    alpha: Positive = 64
    modules: tuple[Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")], ...] | None = Field(default=None, min_length=1)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rslora: bool = False


def _as_text(value: object) -> object:
    """A single number, which YAML reads as a number."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_texts(value: object) -> object:
    return [_as_text(one) for one in value] if isinstance(value, list | tuple) else value


class Validate(Closed):
    """Play `tasks` tasks of `split` every `every` updates; `patience` readings without a better pass@N end the run."""

    split: str = "val"
    tasks: Positive = 200
    every: Positive = 10
    patience: Positive | None = None


class Remember(Closed):
    """With `collect.scope: tasks`: how much of what earlier updates left the next one begins with.

    Of records about one task whose texts overlap by `near` or more (None: equal ones only) one stays; over `budget`
    what harms goes first, then the oldest unsuccessful, and what helps most may fill half (see `lamer_memory.hygiene`).
    """

    budget: Positive = 1000
    near: Annotated[float, Field(gt=0, le=1)] | None = 0.9


class Distil(Closed):
    """Train successful episodes that saw a memory also with the memory left out of their prompts, up to `ratio` times
    as many calls as an update has. Tokens less probable than `floor` without the memory are left out (see
    `learning.distil`)."""

    ratio: Annotated[float, Field(gt=0, le=1)] = 0.25
    floor: Annotated[float, Field(gt=0, lt=1)] = 0.01


class Preferences(Closed):
    """How `optimise.algorithm: dpo` reads logs (see `learning.preferences`): `pairs` of answers to one prompt, of whole
    trials, or both, whose returns differ by `gap` or more, at most `per_group` a task; `reflections` takes those, too.

    An update is one step on `batch` pairs, passed over as often as `optimise.updates` asks for; `beta` is DPO's. The
    `reference` is the policy as it starts, or what was logged, which is the same where that policy sampled the log.
    """

    beta: Annotated[float, Field(gt=0)] = 0.1
    pairs: Literal["turn", "trial", "both"] = "turn"
    gap: Annotated[float, Field(ge=0)] = 1.0
    per_group: Positive = 16
    reflections: bool = True
    reference: Literal["start", "logged"] = "start"
    batch: Positive = 32

    def check(self, algorithm: str, *, logged: bool, distils: bool, temperature: float) -> None:
        """Raises TrainingConfigError for a run without pairs, or one that does nothing with these settings."""
        if algorithm != "dpo":
            if self != Preferences():
                raise TrainingConfigError("`preferences` are dpo's: set optimise.algorithm=dpo, or leave them out")
            return
        if not logged:
            raise TrainingConfigError("dpo compares trials that were logged: name their run with --from-logs RUN")
        if distils:
            raise TrainingConfigError("distil adds samples to an update, and dpo has pairs: drop one of them")
        if self.reference == "logged" and temperature != 1:
            raise TrainingConfigError(
                "preferences.reference=logged takes logged numbers for the policy's, which they are at temperature 1: "
                "set preferences.reference=start"
            )


class Server(Closed):
    """Sample from a vLLM that is started for the run on `policy` and gets every new adapter, instead of in process.

    `tolerance` is how far its logprobs may be from the trainer's on the probe after a swap, in nats (None: by dtype).

    On CUDA: `apart` keeps the server in memory all the time, on `devices` (its CUDA_VISIBLE_DEVICES) or beside the
    trainer; `colocated` has the two take turns on the trainer's device, the server asleep while the trainer updates.
    `tensor_parallel` devices hold the weights together, and `data_parallel` is how often they are there; `devices`
    names as many as the two need. `gpu_memory` is the share of a device that vLLM reserves, all it needs included
    (None: half of a device that it shares with the trainer, `served.SHARED_GPU_MEMORY`, and vLLM's own default of one
    that it has to itself). `extra_args` are arguments of vLLM's own, e.g. `[--max-num-seqs, 64]`, none that is set here
    or by the run.
    """

    placement: Literal["apart", "colocated"] = "apart"
    devices: Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^\d+(,\d+)*$")] | None = None
    tensor_parallel: Positive = 1
    data_parallel: Positive = 1
    gpu_memory: Annotated[float, Field(gt=0, le=1)] | None = None

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_model_len: Positive | None = None
    tolerance: Annotated[float, Field(gt=0)] | None = None
    extra_args: Annotated[tuple[str, ...], BeforeValidator(_as_texts)] = ()
