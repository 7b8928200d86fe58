"""Scripted rows as a pretrained model reads them: its own renderer's tokens, in batches of like lengths.

What must stay true: a row's tokens are the prompt as it is asked in play, its answer, and the end of an answer; only
the last two are learnt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamer_trainers.warmstart.teachers import Row

if TYPE_CHECKING:
    from lamer_graph.policies.rendering import Renderer

SORTED_TOGETHER = 8
"""Batches whose rows are sorted by length before they are cut: where rows are padded, it is little."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row in tokens, as a call that was answered (`packing.Called`). The answer includes its end."""

    prompt_token_ids: list[int]
    token_ids: list[int]

    @property
    def logprobs(self) -> list[float]:
        """Nobody sampled it."""
        return [0.0] * len(self.token_ids)

    @property
    def length(self) -> int:
        return len(self.prompt_token_ids) + len(self.token_ids)


def encode(renderer: Renderer, rows: Sequence[Row]) -> list[Example]:
    """The rows in tokens."""
    end: int = renderer.tokenizer.eos_token_id
    return [Example(renderer.ids(row.messages), [*renderer.plain_ids(row.answer), end]) for row in rows]


def batched(examples: Sequence[Example], size: int, seed: int) -> list[list[int]]:
    """Numbers of the examples in batches of `size` (the last may be smaller), in an order that the seed decides."""
    rng = random.Random(seed)
    order = list(range(len(examples)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for at in range(0, len(order), size * SORTED_TOGETHER):
        near = sorted(order[at : at + size * SORTED_TOGETHER], key=lambda i: examples[i].length)
        cut = [near[i : i + size] for i in range(0, len(near), size)]
        rng.shuffle(cut)
        batches += cut
    return batches
