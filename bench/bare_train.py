"""The baseline of the training bench: the clipped token-mean loss in a plain PyTorch loop, with nothing of ours.

PPO's clipped ratio (Schulman et al., 2017) as a mean over all answer tokens of a mini-batch (DAPO, Yu et al., 2025)
with an entropy bonus. As one would write it with care: samples sorted by length, micro-batches under a token budget,
logits only where they are needed, fused AdamW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch


class Answer(NamedTuple):
    """One answer: its tokens, their logprobs when they were sampled, and its advantage."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    logprobs: Sequence[float]
    advantage: float

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.tokens)


class BareTrainer:
    """Makes one optimiser step for each mini-batch that it is given."""

    def __init__(self, model: Any, *, rate: float, clip: float, entropy: float, norm: float, budget: int) -> None:
        self.model = model.train()
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
        self.clip, self.entropy, self.norm, self.budget = clip, entropy, norm, budget

    def step(self, answers: Sequence[Answer]) -> float:
        """The loss of the mini-batch, after which the model has moved."""
        rest = sorted(answers, key=lambda answer: -answer.length)
        count, total = sum(len(answer.tokens) for answer in rest), 0.0
        self.optimiser.zero_grad()
        while rest:
            size = max(1, self.budget // rest[0].length)
            loss = self._loss(rest[:size]) / count
            torch.autograd.backward(loss)
            total += float(loss.detach())
            rest = rest[size:]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.norm)
        self.optimiser.step()
        return total

    def _loss(self, rows: Sequence[Answer]) -> torch.Tensor:
        """The sum of the token losses; rows end together, so the last columns hold all answers."""
        width, keep = rows[0].length, max(len(row.tokens) for row in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        seen, trained = torch.zeros_like(ids), torch.zeros((len(rows), keep))
        old = torch.zeros((len(rows), keep))
        for i, row in enumerate(rows):
            ids[i, width - row.length :] = torch.tensor([*row.prompt, *row.tokens])
            seen[i, width - row.length :] = 1
            trained[i, keep - len(row.tokens) :] = 1
            old[i, keep - len(row.tokens) :] = torch.tensor(row.logprobs)
        advantage = torch.tensor([row.advantage for row in rows])[:, None]
        logits = self.model(input_ids=ids, attention_mask=seen, use_cache=False, logits_to_keep=keep + 1).logits
        every = logits[:, :-1].log_softmax(-1)
        new = every.gather(-1, ids[:, -keep:, None])[..., 0]
        ratio = (new - old).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        entropies = -(every.exp() * every).sum(-1)
        total: torch.Tensor = ((-gain - self.entropy * entropies) * trained).sum()
        return total
