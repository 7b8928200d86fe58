"""Sampling in the trainer's process: from the very module that is trained, or ahead of it from a copy.

What must stay true: in turns, every trial is sampled by exactly the weights that are trained next, and the module is
paused whenever the trainer may write to it. A copy changes between batches only, never within one, so it plays while
the trainer updates (clipped, importance-weighted updates from slightly old samples as in IMPALA, Espeholt 2018).
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import torch

from lamer_graph.policies.local import LocalPolicy
from lamer_trainers.sources.batches import version_name
from lamer_trainers.sources.sampler import Sampler


class InProcess(Sampler):
    """`policy.model` is what the trainer trains, and what plays."""

    def __init__(self, policy: LocalPolicy) -> None:
        self.policy = policy
        self._held: contextlib.ExitStack | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        self.close()
        try:
            yield
        finally:
            self._held = contextlib.ExitStack()
            self._held.enter_context(self.policy.paused())

    def bring(self, step: int) -> dict[str, float]:
        with self.policy.paused():
            self.policy.version = version_name(step)
        return {}

    @contextlib.asynccontextmanager
    async def playing(self) -> AsyncIterator[LocalPolicy]:
        yield self.policy

    @contextlib.contextmanager
    def validating(self, step: int) -> Iterator[LocalPolicy]:
        self.bring(step)
        yield self.policy

    def close(self) -> None:
        """Let the policy sample again."""
        held, self._held = self._held, None
        if held is not None:
            held.close()


class CopyInProcess(Sampler):
    """`policy.model` is what the trainer trains, and validates with; a copy of it plays."""

    def __init__(self, policy: LocalPolicy) -> None:
        self.policy = policy
        self._copy = LocalPolicy(
            copy.deepcopy(policy.model),
            policy.tokenizer,
            version=version_name(0),
            template_args=policy.template_args,
            fold_system=policy.folds_system,
        )
        self._lock = threading.Lock()
        self._fresh: tuple[dict[str, torch.Tensor], int] | None = None

    def bring(self, step: int) -> dict[str, float]:
        begun = time.perf_counter()
        weights = trained_weights(self.policy.model)
        with self._lock:
            self._fresh = weights, step
        return {"time/swap": time.perf_counter() - begun}

    @contextlib.asynccontextmanager
    async def playing(self) -> AsyncIterator[LocalPolicy]:
        with self._lock:
            fresh, self._fresh = self._fresh, None
        if fresh is not None:
            self._copy.set_weights(fresh[0], version_name(fresh[1]))
        yield self._copy

    @contextlib.contextmanager
    def validating(self, step: int) -> Iterator[LocalPolicy]:
        with self.policy.paused():
            self.policy.version = version_name(step)
        yield self.policy

    def close(self) -> None:
        self._copy.close()


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of all that training changes: parameters with a gradient, tied ones once, and buffers that are saved.

    Under LoRA that is the adapter. A copy, because the trainer goes on writing to its own.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    changing = {name: value for name, value in model.named_parameters() if value.requires_grad}
    changing |= {name: value for name, value in model.state_dict().items() if name not in parameters}
    return {name: value.detach().clone() for name, value in changing.items()}
