"""Log-probabilities of whole answers, of samples that are not trained: what `collapse.probe` asks a model for.

What must stay true: no gradient, no dropout, and the model is left in the mode that it was in. Every process computes
all of them, so that a sharded model's processes stay together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lamer_trainers.learning.packing import readings
from lamer_trainers.learning.samples import Sample
from lamer_trainers.learning.scoring import score
from lamer_trainers.learning.sharing import Sharing
from lamer_trainers.learning.tree_attention import attending


def scorer(
    model: Any, accelerator: Any, sharing: Sharing, *, temperature: float, budget: int, pad: int
) -> Callable[[Sequence[Sample]], list[float]]:
    """A function from samples to the log-probability (nats) of each one's answer after its prompt."""

    def scored(samples: Sequence[Sample]) -> list[float]:
        found, mode = [0.0] * len(samples), model.training
        shared = sharing.of(max(sample.length for sample in samples))
        model.eval()
        with torch.no_grad(), accelerator.autocast():
            for numbers, computed, reading, tensors in readings(samples, budget=budget, pad=pad, shared=shared):
                with attending(model) if computed.tree is not None else contextlib.nullcontext():
                    device = accelerator.device
                    told = score(model, computed.to(device), reading.to(device), temperature=temperature).logprobs
                own = (told * tensors["completion_mask"].to(device)).sum(1)
                for number, value in zip(numbers, own.tolist(), strict=True):
                    found[number] = value
        model.train(mode)
        return found

    return scored
