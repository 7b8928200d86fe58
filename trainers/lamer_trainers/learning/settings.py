"""What LaMer adds to TRL's GRPOConfig: fields, defaults and what of them contradicts itself, without importing TRL.

What must stay true: importing this loads no torch, so that a run file is read, and refused, at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lamer_trainers.credit import Objective, Variant
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.learning.samples import (
    Algorithm,
    Anchor,
    Baseline,
    Credit,
    Estimator,
    Level,
    Normalise,
    check_choices,
)

OldLogprobs = Literal["recomputed", "logged"]
EXACT_LOSSES = ("dapo", "cispo")
"""Loss types that TRL divides by the number of tokens of the whole batch; the others weigh padding rows, or (vespo) a
whole answer by one number, beside our weight of every token."""


@dataclass
class LamerSettings:
    """The fields of `LamerConfig` that are not TRL's, and those with other defaults than TRL's."""

    updates: int = field(default=1, metadata={"help": "Batches of trials to train on; sets max_steps."})
    mini_batches: int = field(default=1, metadata={"help": "Optimiser steps per pass over a batch of trials."})
    micro_batch_tokens: int = field(
        default=16_384, metadata={"help": "Most tokens of one forward pass on one process, padding included."}
    )
    share_prefixes: bool = field(
        default=True,
        metadata={"help": "Compute what samples have in common once; off: every sample whole, in padded rows."},
    )
    save_updates: int = field(default=0, metadata={"help": "Save a checkpoint every so many updates; 0: never."})

    algorithm: Algorithm = field(default="gigpo", metadata={"help": "gigpo, grpo, rloo, reinforce++, mr-search, ppo."})
    gamma_step: float = field(default=0.95, metadata={"help": "Discount per turn within an episode."})
    gamma_traj: float = field(default=0.6, metadata={"help": "Discount per episode within a trial."})
    credit: Variant = field(
        default="paper", metadata={"help": "'paper' (eq. 4) or 'reference' (the authors' code; ppo's always)."}
    )
    level: Level = field(default="return", metadata={"help": "What episode-level methods compare; see Credit."})
    invalid_penalty: float = field(
        default=0.5,
        metadata={"help": "Taken off an invalid turn's return, unless the environment charges enough."},
    )
    drop_groups: float = field(
        default=0.0, metadata={"help": "Leave out groups whose returns' variance is below this quantile of the batch."}
    )
    collapse_probe: int = field(
        default=0,
        metadata={"help": "Tasks whose reflections are scored against each other every update, this number squared."},
    )
    objective: Objective = field(
        default="all", metadata={"help": "Whose rewards count: 'all' episodes', or the 'final' one's alone."}
    )
    progress_weight: float = field(
        default=0.0, metadata={"help": "Worth of an attempt's progress over the trial's earlier ones; see Credit."}
    )
    normalise: Normalise = field(default="mean", metadata={"help": "See Estimator."})
    anchor: Anchor = field(default="observation", metadata={"help": "Which turns share a step-level baseline."})
    baseline: Baseline = field(default="task", metadata={"help": "Which calls share an episode-level baseline."})
    by_memory: bool = field(
        default=False, metadata={"help": "Compare trials that see other tasks' records with each other only."}
    )
    step_weight: float = field(default=1.0, metadata={"help": "Weight of GiGPO's step-level advantage."})
    advantage_clamp: float = field(default=4.0, metadata={"help": "Bound of normalise='batch', in deviations."})

    gae_lambda: float = field(default=0.95, metadata={"help": "ppo: lambda of generalised advantage estimation."})
    critic_learning_rate: float = field(default=1e-5, metadata={"help": "ppo: learning rate of the critic."})

    old_logprobs: OldLogprobs = field(
        default="recomputed",
        metadata={
            "help": "What the clipped ratio divides by. 'recomputed': the policy at the start of the update, and each "
            "token weighs min(pi_old / pi_sampled, importance_cap), which costs one more forward pass; 'logged': the "
            "logged logprobs themselves, right where sampler and trainer compute the same numbers (LocalPolicy)."
        },
    )
    importance_cap: float = field(
        default=2.0, metadata={"help": "Truncation of the importance weights of old_logprobs='recomputed'."}
    )
    distil_floor: float = field(
        default=0.01,
        metadata={"help": "With a distiller: tokens that are less probable without the memory are not trained."},
    )
    max_staleness: int | None = field(
        default=None, metadata={"help": "Refuse samples drawn more than so many policy versions ago."}
    )
    max_logprob_gap: float | None = field(
        default=1.0,
        metadata={"help": "Stop if logged and own logprobs differ by more nats a token on average: another model."},
    )

    # Defaults that differ from TRL's.
    loss_type: str = field(default="dapo", metadata={"help": "Token-mean losses only: dapo or cispo."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Off: a loss of NaN must be seen."})
    ignore_data_skip: bool = field(default=True, metadata={"help": "A resume asks the source for the next batch."})
    bf16: bool | None = field(default=None, metadata={"help": "None: on where there is a GPU."})
    report_to: str | list[str] | None = field(default="none", metadata={"help": "As in transformers."})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "There are no columns here."})
    max_completion_length: int | None = field(default=1024, metadata={"help": "Longest answer that is accepted."})
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations to save memory, at some 20%% more time."}
    )

    def check_settings(self) -> None:
        """Raises TrainingConfigError for a value that none of these may have, and for what contradicts itself."""
        for name in ("updates", "mini_batches", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise TrainingConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.loss_type not in EXACT_LOSSES:
            raise TrainingConfigError(
                f"loss_type '{self.loss_type}' is no mean over trained tokens here; use {' or '.join(EXACT_LOSSES)}"
            )
        check_choices(self, old_logprobs=OldLogprobs)
        if not 0 <= self.gae_lambda <= 1 or self.critic_learning_rate < 0:
            raise TrainingConfigError("gae_lambda lies in [0, 1] and critic_learning_rate is at least 0")
        if not 0 <= self.drop_groups < 1:
            raise TrainingConfigError(f"drop_groups is a quantile, at least 0 and below 1, not {self.drop_groups}")
        if self.collapse_probe < 0 or self.collapse_probe == 1:
            raise TrainingConfigError(f"collapse_probe is 0 or at least 2 tasks, not {self.collapse_probe}")
        if not 0 < self.distil_floor < 1:
            raise TrainingConfigError(
                f"distil_floor must be a probability, above 0 and below 1, not {self.distil_floor}"
            )
        if self.importance_cap <= 0:
            raise TrainingConfigError(f"importance_cap must be above 0, not {self.importance_cap}")
        _ = self.estimator, self.credit_rule  # they raise for what contradicts itself

    @property
    def credit_rule(self) -> Credit:
        return Credit(
            self.gamma_step,
            self.gamma_traj,
            self.credit,
            self.level,
            self.invalid_penalty,
            self.objective,
            self.progress_weight,
        )

    @property
    def estimator(self) -> Estimator:
        return Estimator(
            self.algorithm,
            self.normalise,
            self.anchor,
            self.baseline,
            self.step_weight,
            self.advantage_clamp,
            self.by_memory,
            self.gamma_traj,
        )
