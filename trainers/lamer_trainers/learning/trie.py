"""Token sequences merged where they begin alike: every distinct prefix is one node, whatever the depth.

What must stay true: the nodes on a sequence's path spell the sequence, and two sequences share the nodes of their
common beginning and no others. Nodes lie in depth-first order, so that a subtree is a range: k is q or an ancestor of
q exactly if k <= q < end[k] (the check of TRL's pull request 7328).

Pure arithmetic on integers; what a model makes of it is in `tree_attention` and `packing`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Forest:
    """N nodes: their `tokens`, `depth` (0 where a sequence begins) and `end`, the first node after the subtree (N,).

    `paths[i]` are the nodes of the i-th sequence, from its first token to its last.
    """

    tokens: Integers
    depth: Integers
    end: Integers
    paths: list[Integers]


@dataclass(frozen=True, slots=True)
class Ordered:
    """Sequences in lexicographic order, by their numbers, and with how many tokens each begins like the one before."""

    numbers: list[int]
    lengths: Integers
    shared: Integers


def in_order(sequences: Sequence[Integers]) -> Ordered:
    """The order in which sequences that begin alike are neighbours. None may be empty."""
    keys = [sequence.astype(">u4").tobytes() for sequence in sequences]  # compared as memory: big-endian, unsigned
    numbers = sorted(range(len(sequences)), key=keys.__getitem__)
    shared = [0, *(_common(sequences[a], sequences[b]) for a, b in itertools.pairwise(numbers))]
    lengths = [len(sequences[number]) for number in numbers]
    return Ordered(numbers, np.array(lengths, dtype=np.int64), np.array(shared[: len(numbers)], dtype=np.int64))


def _common(first: Integers, second: Integers) -> int:
    size = min(len(first), len(second))
    apart = first[:size] != second[:size]
    at = int(apart.argmax())
    return at if apart[at] else size


def cut(ordered: Ordered, limit: int) -> list[range]:
    """Runs of neighbours, each a forest of at most `limit` nodes (or a single sequence), with the fewest nodes in all.

    Every run begins with its first sequence whole: what it had in common with the run before is repeated.
    """
    count = len(ordered.numbers)
    fresh = np.concatenate([[0], np.cumsum(ordered.lengths - ordered.shared)])
    # A run i..j has nodes(i, j) = start[i] + fresh[j + 1] of them: its first sequence whole, then what is new.
    start = ordered.lengths - fresh[1:]
    best = np.zeros(count + 1, dtype=np.int64)
    begins = np.zeros(count + 1, dtype=np.int64)
    low = 0
    for last in range(count):
        while low < last and start[low] + fresh[last + 1] > limit:
            low += 1  # nodes(i, j) falls with i
        totals = best[low : last + 1] + start[low : last + 1]
        at = low + int(totals.argmin())
        begins[last + 1] = at
        best[last + 1] = best[at] + start[at] + fresh[last + 1]
    runs, stop = [], count
    while stop:
        runs.append(range(int(begins[stop]), stop))
        stop = int(begins[stop])
    return runs[::-1]


def cut_evenly(ordered: Ordered, limit: int, multiple: int) -> list[range]:
    """As `cut`, for `multiple` processes that wait for each other: the smallest limit that needs no further round."""
    runs = cut(ordered, limit)
    if multiple == 1:
        return runs
    most = -(-len(runs) // multiple) * multiple
    low, high = 0, limit
    while low + 1 < high:
        middle = (low + high) // 2
        tried = cut(ordered, middle)
        if len(tried) <= most:
            runs, high = tried, middle
        else:
            low = middle
    return runs


def grow(sequences: Sequence[Integers], shared: Sequence[int]) -> Forest:
    """The forest of sequences in lexicographic order; each begins like the one before for `shared` tokens.

    The first one's `shared` is not looked at.
    """
    common = [0, *(int(value) for value in shared[1:])]
    size = sum(map(len, sequences)) - sum(common)
    tokens, depth, end = (np.empty(size, dtype=np.int64) for _ in range(3))
    path = np.empty(max(map(len, sequences)), dtype=np.int64)  # the nodes of the sequence at hand, by depth
    paths = []
    at = length = 0
    for sequence, begun in zip(sequences, common, strict=True):
        end[path[begun:length]] = at
        length = len(sequence)
        stop = at + length - begun
        path[begun:length] = np.arange(at, stop)
        tokens[at:stop] = sequence[begun:]
        depth[at:stop] = np.arange(begun, length)
        paths.append(path[:length].copy())
        at = stop
    end[path[:length]] = at
    return Forest(tokens, depth, end, paths)
