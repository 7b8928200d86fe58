"""`LamerConfig`: TRL's GRPOConfig plus what LaMer adds, with defaults that are right on a CPU and on a GPU.

What must stay true: a field of GRPOConfig that would do nothing here is refused (one of another `algorithm` is merely
not read), and a combination whose gradient would be wrong is refused with the way out. Times are in updates; one update
takes one batch of trials from the source and makes `mini_batches * num_iterations` optimiser steps with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from trl.trainer.grpo_config import GRPOConfig

from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.learning.launch import join
from lamer_trainers.learning.settings import LamerSettings

IDLE = (
    "auto_find_batch_size",
    "log_completions",
    "mask_truncated_completions",
    "reward_weights",
    "scale_rewards",
    "torch_compile",
    "use_adaptive_entropy",
    "use_transformers_continuous_batching",
    "use_vllm",
)
"""Fields of GRPOConfig that concern what TRL generates and scores itself, or a loop that this trainer replaces."""


@dataclass
class LamerConfig(LamerSettings, GRPOConfig):  # type: ignore[misc]
    """Fields of GRPOConfig, and those of `LamerSettings`. Raises TrainingConfigError."""

    def __post_init__(self) -> None:
        join()  # before transformers does, which would not wait for as long
        self.check_settings()
        for name in IDLE:
            if getattr(self, name) != GRPOConfig.__dataclass_fields__[name].default:
                raise TrainingConfigError(f"{name} does nothing here: samples come from a source of logged trials")
        if str(getattr(self.eval_strategy, "value", self.eval_strategy)) != "no":
            raise TrainingConfigError("eval_strategy must be 'no': play to evaluate, see lamer_graph.evaluate")
        if self.top_p != 1.0 or self.top_k not in (0, None) or self.min_p is not None:
            raise TrainingConfigError("train on top_p=1, top_k=0 and no min_p: others' logprobs are not the policy's")
        if self.deepspeed:
            raise TrainingConfigError("DeepSpeed counts backward passes itself; launch with DDP or FSDP")
        per_update = self.mini_batches * self.num_iterations
        self.max_steps = self.updates * per_update
        self.steps_per_generation = self.mini_batches * self.gradient_accumulation_steps
        self.generation_batch_size = None
        self.save_strategy = "steps" if self.save_updates else "no"
        self.save_steps = max(1, self.save_updates) * per_update
        self.logging_steps = per_update
        if self.bf16 is None:
            self.bf16 = not self.use_cpu and torch.cuda.is_available() and not self.fp16
        super().__post_init__()

    @property
    def steps_per_update(self) -> int:
        """Optimiser steps per batch of trials."""
        return self.mini_batches * int(self.num_iterations)
