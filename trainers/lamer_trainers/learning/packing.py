"""From samples to micro-batches, for any number of samples, processes and mini-batches.

What must stay true: every sample is in exactly one micro-batch of one process, whatever the numbers, and counts as
often as it comes. All processes make the same number of passes. A pass computes at most `budget` tokens per process (a
sample that is longer goes alone), so memory does not grow with the batch.

Trials of a group share the task, turns the episode, all of them the rules: most tokens of an update repeat others'. A
pass over a forest (`trie`) computes each once, forward and backward, and every answer is read where its path lies.
Where a model cannot do that (`sharing`), a pass is rows padded on the right, each distinct sample one; what is causal
never sees the padding. Models with dropout share what is dropped as they share the tokens.

The answers lie apart from what is computed, one row a sample, so that the loss knows nothing of forests: `Reading` says
where in the pass the prediction of each token is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from lamer_trainers.learning.samples import Sample
from lamer_trainers.learning.tree_attention import Blocks
from lamer_trainers.learning.trie import Integers, cut_evenly, grow, in_order

Tensors = dict[str, torch.Tensor]


class Called(Protocol):
    """A call that was answered: a sample, a policy's completion, a scripted answer."""

    @property
    def prompt_token_ids(self) -> Sequence[int]: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Sequence[float]: ...


class Pass(NamedTuple):
    """What a model computes at once: `ids` (R, W); with `tree`, R is 1 and `positions` (1, W) are depths. Without one,
    `lengths` (R,) are the rows' real tokens."""

    ids: torch.Tensor
    positions: torch.Tensor | None
    lengths: torch.Tensor
    tree: Blocks | None

    def to(self, device: torch.device) -> Pass:
        positions = None if self.positions is None else self.positions.to(device)
        tree = None if self.tree is None else self.tree.to(device)
        return Pass(self.ids.to(device), positions, self.lengths.to(device), tree)


class Reading(NamedTuple):
    """Where predictions are: of the R * W places of a pass, M are `heads` (M,); P distinct tokens are predicted there,
    `tokens` (P,) at `head` (P,), in the order of heads. `at` (B, K) are the predictions of the answers' tokens."""

    heads: torch.Tensor
    head: torch.Tensor
    tokens: torch.Tensor
    at: torch.Tensor

    def to(self, device: torch.device) -> Reading:
        return Reading(*(value.to(device) for value in self))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward pass of one process.

    `tensors`, B rows of K columns, answers from the first column on: `completion_ids`, `completion_mask` (what is
    trained), `logged_logps` (0 where nothing is); `advantages` (B,); `prompt_ids`, `prompt_mask` (B, 0), which the loss
    wants to see; `remembered` (B,), which rows were drawn with a memory that their prompt no longer has. `tokens` are
    the trained tokens here, `all_tokens` those of all processes' part of this pass.
    """

    computed: Pass
    reading: Reading
    tensors: Tensors
    tokens: int
    all_tokens: int

    def to(self, device: torch.device) -> MicroBatch:
        tensors = {name: value.to(device) for name, value in self.tensors.items()}
        return MicroBatch(self.computed.to(device), self.reading.to(device), tensors, self.tokens, self.all_tokens)


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


def passes(
    sequences: Sequence[Integers], *, budget: int, processes: int = 1, shared: bool = True, once: bool = True
) -> list[list[list[int]]]:
    """The numbers of the sequences of each pass and process.

    `shared`: as forests, else as rows; `once`: equal sequences are one row (not so in a mixture of experts, whose
    auxiliary loss is over all rows).
    """
    ordered = in_order(sequences)
    numbers, lengths = ordered.numbers, ordered.lengths.tolist()
    if shared:
        runs = cut_evenly(ordered, budget, processes)
        runs.sort(key=lambda run: -len(run))
        pieces = [[numbers[place] for place in run] for run in runs]
        return [(pieces[at : at + processes] + [[]] * processes)[:processes] for at in range(0, len(pieces), processes)]
    same = ordered.shared[1:] == ordered.lengths[1:]
    alike = same & (ordered.lengths[1:] == ordered.lengths[:-1]) & once
    starts = [0, *(np.flatnonzero(~alike) + 1).tolist()]
    rows = {numbers[a]: numbers[a:b] for a, b in itertools.pairwise([*starts, len(numbers)])}
    sizes = dict(zip(numbers, lengths, strict=True))
    dealt = []
    for block in blocks([sizes[i] for i in range(len(sequences))], list(rows), budget, processes):
        dealt.append([[i for first in block[rank::processes] for i in rows[first]] for rank in range(processes)])
    return dealt


def lay_out(sequences: Sequence[Integers], *, pad: int = 0, shared: bool = True) -> tuple[Pass, list[Integers]]:
    """A pass over these sequences, and the places of each in it."""
    if shared:
        ordered = in_order(sequences)
        forest = grow([sequences[number] for number in ordered.numbers], ordered.shared.tolist())
        paths = [path for _, path in sorted(zip(ordered.numbers, forest.paths, strict=True), key=lambda pair: pair[0])]
        tree = Blocks(forest.end)
        ids, depth = torch.from_numpy(forest.tokens)[None], torch.from_numpy(forest.depth)[None]
        return Pass(ids, depth, torch.tensor([ids.shape[1]]), tree), paths
    row: dict[bytes, int] = {}
    return _rows(sequences, [row.setdefault(sequence.tobytes(), len(row)) for sequence in sequences], pad)


def _rows(sequences: Sequence[Integers], rows: Sequence[int], pad: int) -> tuple[Pass, list[Integers]]:
    width = max(map(len, sequences))
    ids = np.full((max(rows) + 1, width), pad, dtype=np.int64)
    lengths = np.zeros(len(ids), dtype=np.int64)
    for sequence, row in zip(sequences, rows, strict=True):
        ids[row, : len(sequence)] = sequence
        lengths[row] = len(sequence)
    paths = [row * width + np.arange(len(sequence)) for sequence, row in zip(sequences, rows, strict=True)]
    return Pass(torch.from_numpy(ids), None, torch.from_numpy(lengths), None), paths


def pack(
    samples: Sequence[Sample],
    advantages: Sequence[float],
    numbers: Sequence[int],
    *,
    budget: int,
    pad: int,
    process: int = 0,
    processes: int = 1,
    shared: bool = True,
    once: bool = True,
) -> list[MicroBatch]:
    """The micro-batches of `process` for the samples with these numbers; `shared` and `once` as in `passes`."""
    sequences = [_predicting(samples[i]) for i in numbers]
    packed = []
    for shares in passes(sequences, budget=budget, processes=processes, shared=shared, once=once):
        mine = shares[process]
        # A process that has nothing computes another's without loss: all make the same passes and gather alike.
        filled = mine or min((share for share in shares if share), key=len)
        given = [sequences[i] for i in filled]
        computed, paths = lay_out(given, pad=pad, shared=shared) if once else _rows(given, range(len(given)), pad)
        chosen = [samples[numbers[i]] for i in filled]
        rows = max(map(len, shares))
        reading, tensors = _answers(chosen, paths, rows)
        tensors["remembered"] = torch.tensor([*(one.remembered for one in chosen), *[False] * (rows - len(chosen))])
        tensors["advantages"] = torch.zeros(rows)
        tensors["advantages"][: len(chosen)] = torch.tensor([advantages[numbers[i]] for i in filled])
        if not mine:
            tensors["completion_mask"].zero_()
        counts = [sum(len(samples[numbers[i]].token_ids) for i in share) for share in shares]
        packed.append(MicroBatch(computed, reading, tensors, counts[process], sum(counts)))
    return packed


def readings(
    calls: Sequence[Called], *, budget: int, pad: int, shared: bool
) -> Iterator[tuple[list[int], Pass, Reading, Tensors]]:
    """One process's passes over these calls: their numbers, what is computed, and where their answers are read;
    `shared` as in `passes`."""
    sequences = [_predicting(call) for call in calls]
    for (numbers,) in passes(sequences, budget=budget, shared=shared):
        computed, paths = lay_out([sequences[i] for i in numbers], pad=pad, shared=shared)
        yield numbers, computed, *_answers([calls[i] for i in numbers], paths, len(numbers))


def read_alone(calls: Sequence[Called]) -> tuple[Pass, Reading, Tensors]:
    """All of these calls in one pass of rows, which any model can make, and where their answers are read."""
    sequences = [_predicting(call) for call in calls]
    computed, paths = lay_out(sequences, shared=False)
    return computed, *_answers(calls, paths, len(calls))


def _predicting(call: Called) -> Integers:
    """The tokens that something is predicted from: an answer's last one is not."""
    return np.array([*call.prompt_token_ids, *call.token_ids][:-1], dtype=np.int64)


def _answers(samples: Sequence[Called], paths: Sequence[Integers], rows: int) -> tuple[Reading, Tensors]:
    """Where the answers' tokens are predicted, and the loss's rows, of which the last may be empty."""
    keep = max(len(sample.token_ids) for sample in samples)
    ids, trained = (np.zeros((rows, keep), dtype=np.int64) for _ in range(2))
    logged = np.zeros((rows, keep), dtype=np.float32)
    places = np.zeros((rows, keep), dtype=np.int64)
    for row, (sample, path) in enumerate(zip(samples, paths, strict=True)):
        count = len(sample.token_ids)
        ids[row, :count], trained[row, :count], logged[row, :count] = sample.token_ids, 1, sample.logprobs
        places[row, :count] = path[len(sample.prompt_token_ids) - 1 :]
    used = trained.astype(bool)
    pairs, at = np.unique(np.stack([places[used], ids[used]]), axis=1, return_inverse=True)
    heads, head = np.unique(pairs[0], return_inverse=True)
    where = np.zeros((rows, keep), dtype=np.int64)
    where[used] = at.reshape(-1)
    reading = Reading(*(torch.from_numpy(np.ascontiguousarray(x)) for x in (heads, head.reshape(-1), pairs[1], where)))
    nothing = torch.zeros((rows, 0), dtype=torch.long)
    tensors = {
        "prompt_ids": nothing,
        "prompt_mask": nothing,
        "completion_ids": torch.from_numpy(ids),
        "completion_mask": torch.from_numpy(trained),
        "logged_logps": torch.from_numpy(logged),
    }
    return reading, tensors
