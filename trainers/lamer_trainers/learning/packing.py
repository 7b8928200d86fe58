"""From samples to padded micro-batches, for any number of samples, processes and mini-batches.

What must stay true: every sample is in exactly one micro-batch of one process, whatever the numbers; what is padded
carries no loss. Shapes depend on the whole batch alone, so all processes make the same number of forward passes. A
micro-batch holds at most `budget` different tokens per process, padding included (a sample that is longer goes alone),
so memory does not grow with the batch.

Trials of one task begin alike, the more so the surer the policy is: of the samples of an update up to three quarters
repeat another's tokens. They lie in one micro-batch and count once there, because one forward pass is made for them
(`distinct`; where a model has dropout, they share what is dropped).

Rows are aligned on the right, prompt and answer as one sequence, because TRL concatenates what it calls prompt and
completion: the "completion" is simply the last columns, as many as the longest answer needs, and `tool_mask` marks the
answers' own tokens in them. Padding is then the difference in total length only, which sorting makes small.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lamer_trainers.learning.samples import Sample

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward pass of one process.

    `tensors`, B rows of L = P + K columns: `prompt_ids`, `prompt_mask` (B, P); `completion_ids`, `completion_mask`
    (what is attended to) and `tool_mask` (what is trained on) (B, K); `advantages` (B,); `logged_logps` (B, K), 0 where
    nothing is trained. `tokens` are the trained tokens here, `all_tokens` those of all processes' part of this pass.
    """

    tensors: Tensors
    tokens: int
    all_tokens: int


def split(count: int, parts: int, seed: Sequence[int]) -> list[list[int]]:
    """Sample numbers 0..count-1 in a random order, cut into `parts` of sizes that differ by at most one."""
    order = np.random.default_rng(list(seed)).permutation(count)
    return [part.tolist() for part in np.array_split(order, parts)]


def blocks(lengths: Sequence[int], numbers: Sequence[int], budget: int, processes: int) -> list[list[int]]:
    """Cut samples into blocks of like length, longest first; each block is one pass of all processes together."""
    order = sorted(numbers, key=lambda i: (-lengths[i], i))
    cut: list[list[int]] = []
    while order:
        size = max(1, budget // lengths[order[0]]) * processes
        cut.append(order[:size])
        order = order[size:]
    return cut


def repeats(contents: Mapping[int, Hashable]) -> dict[int, list[int]]:
    """The numbers whose contents are the same, by the first of them."""
    alike: dict[Hashable, list[int]] = {}
    for number, content in contents.items():
        alike.setdefault(content, []).append(number)
    return {same[0]: same for same in alike.values()}


def pack(
    samples: Sequence[Sample],
    advantages: Sequence[float],
    numbers: Sequence[int],
    *,
    budget: int,
    pad: int,
    process: int = 0,
    processes: int = 1,
    once: bool = True,
) -> list[MicroBatch]:
    """The micro-batches of `process` for the samples with these numbers.

    `once`: what is alike will be computed once, so it is together and counts once (not so in a mixture of experts,
    whose auxiliary loss is over all rows).
    """
    packed = []
    tokens = {i: (tuple(samples[i].prompt_token_ids), tuple(samples[i].token_ids)) for i in numbers}
    same = repeats(tokens) if once else {i: [i] for i in numbers}
    for block in blocks([sample.length for sample in samples], list(same), budget, processes):
        shares = [[i for first in block[rank::processes] for i in same[first]] for rank in range(processes)]
        mine = shares[process]
        # A process that has fewer rows repeats one without loss: its shape is that of the others.
        filled = mine + (mine or block)[:1] * (max(map(len, shares)) - len(mine))
        width = samples[block[0]].length
        keep = max(len(samples[i].token_ids) for i in block)
        ids = torch.full((len(filled), width), pad)
        attended = torch.zeros((len(filled), width), dtype=torch.long)
        trained = torch.zeros((len(filled), keep), dtype=torch.long)
        logged = torch.zeros((len(filled), keep), dtype=torch.float32)
        for row, number in enumerate(filled):
            sample = samples[number]
            answer = len(sample.token_ids)
            ids[row, width - sample.length :] = torch.tensor([*sample.prompt_token_ids, *sample.token_ids])
            attended[row, width - sample.length :] = 1
            if row < len(mine):
                trained[row, keep - answer :] = 1
                logged[row, keep - answer :] = torch.tensor(sample.logprobs)
        tensors = {
            "prompt_ids": ids[:, : width - keep],
            "prompt_mask": attended[:, : width - keep],
            "completion_ids": ids[:, width - keep :],
            "completion_mask": attended[:, width - keep :],
            "tool_mask": trained,
            "advantages": torch.tensor([advantages[i] for i in filled], dtype=torch.float32),
            "logged_logps": logged,
        }
        all_tokens = sum(len(samples[i].token_ids) for share in shares for i in share)
        packed.append(MicroBatch(tensors, sum(len(samples[i].token_ids) for i in mine), all_tokens))
    return packed


def distinct(ids: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The different rows of `ids` and `attended` (B, L), by their numbers (D,), and for each row the place of its like
    among these (B,): `x[numbers][places]` is x for everything that follows from the rows alone."""
    _, places = torch.unique(torch.cat([ids, attended], dim=1), dim=0, return_inverse=True)
    first = torch.full((int(places.max()) + 1,), len(places), device=ids.device)
    return first.scatter_reduce(0, places, torch.arange(len(places), device=ids.device), "amin"), places
