"""Batches of prompts with answers for a pretrained model: what all rows of a batch begin with is computed once.

What must stay true: loss and gradient are those of the whole rows, each on its own, averaged over all answer tokens of
the batch. A row's tokens are the prompt as the policy's own renderer gives it, its answer, and the end of an answer;
only the last two are learnt.

The rules, which every prompt of an environment begins with, are the most of it: 304 of some 400 tokens of a MineSweeper
prompt. Their keys and values are computed with a gradient in a pass of their own (batch 1) and shared by all rows, the
idea of Prefix Grouper, arXiv 2506.05433. Models with other than full attention get whole rows: padding between stem and
rest would count in their windows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lamer_graph.policies.runnable import window_of
from lamer_trainers.warmstart.teachers import Row

if TYPE_CHECKING:
    from lamer_graph.policies.rendering import Renderer

IGNORE = -100
SORTED_TOGETHER = 8
"""Batches whose rows are sorted by length before they are cut, so that little is padded."""


class Example(NamedTuple):
    """A row in tokens. `answer` includes the end."""

    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


class Batch(NamedTuple):
    """Rows that share `stem`, (S,): `ids`, (B, T), is what follows it, padded on the left; `labels`, (B, K), are those
    of its last K columns; `mask`, (B, T), is 0 at the padding."""

    stem: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device) for tensor in self))


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


def collate(examples: Sequence[Example], pad: int, *, share: bool = True) -> Batch:
    """The examples as one batch; nothing is shared unless `share`."""
    # The first answer token needs a query of its row's own.
    shared = min(_shared(examples), min(len(example.prompt) for example in examples) - 1) if share else 0
    stem = examples[0].prompt[:shared]
    rests = [[*example.prompt[len(stem) :], *example.answer] for example in examples]
    width, keep = max(map(len, rests)), max(len(example.answer) for example in examples)
    ids = torch.full((len(rests), width), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(rests), keep), IGNORE)
    for i, (rest, example) in enumerate(zip(rests, examples, strict=True)):
        ids[i, width - len(rest) :] = torch.tensor(rest)
        mask[i, width - len(rest) :] = 1
        labels[i, keep - len(example.answer) :] = torch.tensor(example.answer)
    return Batch(torch.tensor(stem, dtype=torch.long), ids, mask, labels)


def parts(examples: Sequence[Example], most: int, *, share: bool = True) -> list[list[Example]]:
    """The examples cut so that no part has more than `most` padded tokens besides its stem, unless it is one row."""
    shared = _shared(examples) if share else 0
    found: list[list[Example]] = []
    widest = 0
    for example in sorted(examples, key=lambda one: one.length):
        width = max(widest, example.length - shared)
        if found and width * (len(found[-1]) + 1) <= most:
            found[-1].append(example)
        else:
            found.append([example])
            width = example.length - shared
        widest = width
    return found


def computed(examples: Sequence[Example], most: int, *, share: bool = True) -> int:
    """Tokens that a step on the examples computes: the stem of each part, and its padded rows."""
    found = 0
    for part in parts(examples, most, share=share):
        shared = _shared(part) if share else 0
        found += shared + len(part) * (max(example.length for example in part) - shared)
    return found


def _shared(examples: Sequence[Example]) -> int:
    """With how many equal tokens all prompts begin."""
    first, last = min(one.prompt for one in examples), max(one.prompt for one in examples)
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def answer_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probabilities (B, K) of the labels, 0 where there is none. Differentiable, through the stem too."""
    rows, stem = len(batch.ids), len(batch.stem)
    mask, past = batch.mask, None
    if stem:
        past = model(input_ids=batch.stem[None], use_cache=True, logits_to_keep=1).past_key_values
        past.batch_repeat_interleave(rows)
        mask = torch.cat([mask.new_ones((rows, stem)), mask], dim=1)
    output = model(
        input_ids=batch.ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, stem:],
        past_key_values=past,
        use_cache=past is not None,
        logits_to_keep=batch.labels.shape[1] + 1,
    )
    logprobs = output.logits[:, :-1].float().log_softmax(-1)
    taken: torch.Tensor = logprobs.gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0]
    return taken * (batch.labels != IGNORE)


def can_share(config: Any) -> bool:
    """Whether the model of this (transformers) configuration attends fully in all its layers."""
    return window_of(config.get_text_config()) is None
