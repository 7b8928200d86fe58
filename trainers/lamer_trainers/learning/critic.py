"""The critic of PPO: what the rest of a trial is worth, seen from the prompt of a call.

What must stay true: values are of the *prompt* (the answer is what the advantage judges), advantages are computed with
the critic as it was before the batch, and the state that is saved is all of it: a resumed run goes on bit for bit.

A value is the hidden state of the prompt's last token through one linear layer; the body is a copy of the policy's as
it was when training began, adapters left out. Values are kept in units of the first batch's returns (its mean and
standard deviation), so that one learning rate fits all rewards. Loss: squared error to the GAE targets.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lamer_graph.runlog import write_atomic
from lamer_trainers.advantages import gae, whiten
from lamer_trainers.errors import CheckpointError
from lamer_trainers.learning.packing import lay_out, passes, split
from lamer_trainers.learning.samples import Sample
from lamer_trainers.learning.scoring import inputs
from lamer_trainers.learning.sharing import Sharing
from lamer_trainers.learning.tree_attention import attending
from lamer_trainers.learning.trie import Integers

WEIGHTS, OPTIMISER, SCALE = "critic.safetensors", "critic-optimiser.safetensors", "critic.json"
MAX_GRAD_NORM = 1.0


class Judged(NamedTuple):
    """One advantage per sample, whitened over the batch, and numbers for the log."""

    advantages: list[float]
    metrics: dict[str, float]


class Critic:
    """Values and their fit. `model` is the policy as it starts (a transformers causal model, PEFT or not).

    `budget` bounds the tokens of one forward pass; `mini_batches` optimiser steps are made per batch and pass. What
    prompts have in common is computed once where `sharing` says that it can be.
    """

    def __init__(
        self,
        model: Any,
        *,
        learning_rate: float,
        lam: float = 0.95,
        passes: int = 1,
        mini_batches: int = 4,
        budget: int = 16_384,
        seed: int = 0,
        sharing: Sharing | None = None,
    ) -> None:
        whole = copy.deepcopy(model)
        whole = whole.unload() if hasattr(whole, "unload") else whole  # PEFT: the base, without adapters
        self._sharing = sharing or Sharing(whole, wanted=True)
        # Float32 whatever the policy is in: steps of 1e-5 are lost in 16 bits.
        self._body = whole.base_model.float().requires_grad_(True).train(False)
        self._device = next(self._body.parameters()).device
        self._head = torch.nn.Linear(whole.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(self._head.weight)  # every value begins as the mean of the first batch's returns
        torch.nn.init.zeros_(self._head.bias)
        self._head.to(self._device)
        self._parameters = [*self._body.parameters(), *self._head.parameters()]
        self._optimiser = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=0.0)
        self._scale: tuple[float, float] | None = None
        self._lam, self._passes, self._mini_batches = lam, passes, mini_batches
        self._budget, self._seed = budget, seed

    def judge(self, samples: Sequence[Sample], update: int) -> Judged:
        """Advantages of a batch under the values as they are, then the fit of the values to the batch's targets.

        `samples` of a trial are in time order.
        """
        if self._scale is None:
            returns = torch.tensor([sample.step_return for sample in samples], dtype=torch.float64)
            deviation = float(returns.std()) if len(samples) > 1 else 0.0
            self._scale = float(returns.mean()), deviation or 1.0
        values = self.values(samples)
        made = gae(
            trials=[sample.trial for sample in samples],
            rewards=[sample.reward for sample in samples],
            values=values,
            discounts=[sample.discount for sample in samples],
            lam=self._lam,
        )
        loss = self._fit(samples, made.targets, update)
        return Judged(
            whiten(made.advantages),
            {
                "critic/value": sum(values) / len(values),
                "critic/loss": loss,
                "critic/explained": explained_variance(values, made.targets),
            },
        )

    @torch.no_grad()
    def values(self, samples: Sequence[Sample]) -> list[float]:
        """The value of each sample's prompt, in the units of rewards."""
        mean, deviation = self._scale or (0.0, 1.0)
        found = [0.0] * len(samples)
        for block in self._blocks(samples, range(len(samples))):
            with self._reading(samples, block) as values:
                for number, value in zip(block, values.tolist(), strict=True):
                    found[number] = mean + deviation * value
        return found

    def _fit(self, samples: Sequence[Sample], targets: Sequence[float], update: int) -> float:
        """One or more passes over the batch; the mean loss, in units of the scale."""
        assert self._scale is not None
        mean, deviation = self._scale
        total, steps = 0.0, 0
        for number in range(self._passes):
            parts = split(len(samples), min(self._mini_batches, len(samples)), (self._seed, update, number))
            for part in parts:
                self._optimiser.zero_grad()
                for block in self._blocks(samples, part):
                    wanted = torch.tensor([(targets[i] - mean) / deviation for i in block], device=self._device)
                    with self._reading(samples, block) as values:
                        loss = (values - wanted).square().sum() / len(part)
                        torch.autograd.backward(loss)
                    total += float(loss.detach())
                torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
                self._optimiser.step()
                steps += 1
        return total / steps

    def _blocks(self, samples: Sequence[Sample], numbers: Sequence[int]) -> list[list[int]]:
        """Passes of at most `budget` tokens, by the samples' numbers."""
        prompts = [_prompt(samples[i]) for i in numbers]
        dealt = passes(prompts, budget=self._budget, shared=self._shared(samples))
        return [[numbers[place] for place in share] for (share,) in dealt]

    def _shared(self, samples: Sequence[Sample]) -> bool:
        return self._sharing.of(max(len(sample.prompt_token_ids) for sample in samples))

    @contextlib.contextmanager
    def _reading(self, samples: Sequence[Sample], block: Sequence[int]) -> Iterator[torch.Tensor]:
        """(B,) values in units of the scale, read at each prompt's last token; open while they are gone back over."""
        shared = self._shared(samples)
        computed, paths = lay_out([_prompt(samples[i]) for i in block], shared=shared)
        last = torch.tensor([int(path[-1]) for path in paths], device=self._device)
        with attending(self._body) if shared else contextlib.nullcontext():
            hidden = self._body(**inputs(computed.to(self._device))).last_hidden_state.flatten(0, 1)
            yield self._head(hidden.index_select(0, last).float())[:, 0]

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Weights, optimiser and scale into `folder`. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._state(), folder / WEIGHTS)
        moments = {
            f"{number}.{name}": value.contiguous()
            for number, state in self._optimiser.state_dict()["state"].items()
            for name, value in state.items()
        }
        save_file(moments, folder / OPTIMISER)
        write_atomic(folder / SCALE, json.dumps({"scale": self._scale}).encode())

    def load(self, folder: Path) -> None:
        """What `save` wrote. Raises CheckpointError."""
        try:
            weights = load_file(folder / WEIGHTS, device=str(self._device))
            moments = load_file(folder / OPTIMISER, device=str(self._device))
            scale = json.loads((folder / SCALE).read_bytes())["scale"]
            for name, parameter in self._state().items():
                parameter.data.copy_(weights[name])
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{folder} holds no critic of this policy ({error}); start the run anew") from None
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in moments.items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        whole = self._optimiser.state_dict()
        self._optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        self._scale = None if scale is None else (float(scale[0]), float(scale[1]))

    def _state(self) -> dict[str, torch.Tensor]:
        body = {f"body.{name}": value for name, value in self._body.named_parameters()}
        return body | {f"head.{name}": value for name, value in self._head.named_parameters()}


def _prompt(sample: Sample) -> Integers:
    return np.array(sample.prompt_token_ids, dtype=np.int64)


def explained_variance(values: Sequence[float], targets: Sequence[float]) -> float:
    """1 - var(target - value) / var(target): 1 is perfect, 0 as good as a constant; 0 where targets do not vary."""
    wanted = torch.tensor(targets, dtype=torch.float64)
    spread = float(wanted.var(unbiased=False))
    if spread == 0.0:
        return 0.0
    return 1.0 - float((wanted - torch.tensor(values, dtype=torch.float64)).var(unbiased=False)) / spread
