"""Scripted rows as a pretrained model reads them: its own renderer's tokens, in batches of like lengths.

What must stay true: a row's tokens are the prompt as it is asked in play, its answer, and the end of an answer; only
the last two are learnt. Answers that are as good as the one that was drawn are learnt with it, in equal shares: their
prompt is computed once (`learning.packing`), and of a choice among ten one draw says little.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lamer_trainers.warmstart.teachers import Row, Teacher

if TYPE_CHECKING:
    from lamer_graph.policies.rendering import Renderer

MOST_ALIKE = 6
"""Answers of a row that are learnt, at most: each costs its own tokens."""
SORTED_TOGETHER = 8
"""Batches whose rows are sorted by length before they are cut: where rows are padded, it is little."""


@dataclass(frozen=True, slots=True)
class Example:
    """An answer to a prompt in tokens, as a call that was answered (`packing.Called`). The answer includes its end."""

    prompt_token_ids: list[int]
    token_ids: list[int]
    share: float = 1.0
    """What it counts, beside those that are as good."""

    @property
    def logprobs(self) -> list[float]:
        """Nobody sampled it."""
        return [0.0] * len(self.token_ids)

    @property
    def length(self) -> int:
        return len(self.prompt_token_ids) + len(self.token_ids)


EncodedRow = tuple[Example, ...]
"""A row in tokens: the answer that was drawn, and others that are as good."""


def encode(renderer: Renderer, rows: Sequence[Row], teacher: Teacher) -> list[EncodedRow]:
    """The rows in tokens, of each at most `MOST_ALIKE` answers. Which ones, the rows' order decides."""
    end: int = renderer.tokenizer.eos_token_id
    rng = random.Random(0)
    encoded = []
    for row in rows:
        others = [answer for tie in row.ties if (answer := teacher.answer(tie)) != row.answer]
        answers = [row.answer, *rng.sample(others, min(MOST_ALIKE - 1, len(others)))]
        prompt = renderer.ids(row.messages)
        encoded.append(
            tuple(Example(prompt, [*renderer.plain_ids(answer), end], 1 / len(answers)) for answer in answers)
        )
    return encoded


def drawn(row: EncodedRow) -> EncodedRow:
    """The answer that was drawn, alone."""
    return (replace(row[0], share=1.0),)


def longest(encoded: Sequence[EncodedRow]) -> int:
    """Tokens of the longest answer with its prompt."""
    return max(example.length for row in encoded for example in row)


def batched(encoded: Sequence[EncodedRow], size: int, seed: int) -> list[list[int]]:
    """Numbers of the rows in batches of `size` (the last may be smaller), in an order that the seed decides."""
    rng = random.Random(seed)
    order = list(range(len(encoded)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for at in range(0, len(order), size * SORTED_TOGETHER):
        near = sorted(order[at : at + size * SORTED_TOGETHER], key=lambda i: encoded[i][0].length)
        cut = [near[i : i + size] for i in range(0, len(near), size)]
        rng.shuffle(cut)
        batches += cut
    return batches
