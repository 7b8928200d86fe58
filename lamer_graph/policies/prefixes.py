"""Keys and values of prompts read before, so that a prefix is computed once: a radix tree over runs of tokens.

What must stay true: a token's keys and values are found again only under the very tokens that stood before it, and only
as long as the weights are those that computed them (`clear`). The tree holds at most `capacity` tokens; what was used
longest ago goes first, ends before beginnings. The idea is RadixAttention's (Zheng et al., SGLang, arXiv 2312.07104).

A node keeps the keys and values of its run for every layer, each (heads, tokens, head_dim), in memory of its own: to
drop a node frees what it holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

Kept = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of a run of tokens, a pair for every layer."""


class Run(NamedTuple):
    """The first `length` tokens of a node, as `Prefixes.find` gives them."""

    kept: Kept
    length: int


class _Node:
    __slots__ = ("children", "kept", "parent", "tokens")

    def __init__(self, parent: _Node | None, tokens: tuple[int, ...], kept: Kept) -> None:
        self.parent = parent
        self.tokens = tokens
        self.kept = kept
        self.children: dict[int, _Node] = {}


class Prefixes:
    """At most `capacity` tokens of prompts with their keys and values."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens = 0
        """How many it holds."""
        self.reused = 0
        """How many tokens of prompts did not have to be computed, ever."""
        self._root = _Node(None, (), [])
        # In order of use, oldest first; a path is touched from its end to its beginning, so the oldest has no children.
        self._used: OrderedDict[_Node, None] = OrderedDict()

    def clear(self) -> None:
        """Forget everything: the weights are others."""
        self._root = _Node(None, (), [])
        self._used.clear()
        self.tokens = 0

    def known(self, tokens: Sequence[int]) -> int:
        """How many of the first `tokens` are here."""
        return sum(length for _, length in self._path(tuple(tokens)))

    def find(self, tokens: Sequence[int], most: int) -> list[Run]:
        """What is kept of the first `most` tokens at most, in order."""
        path = self._path(tuple(tokens[:most]))
        self._touch([node for node, _ in path])
        self.reused += sum(length for _, length in path)
        return [Run(node.kept, length) for node, length in path]

    def add(self, tokens: Sequence[int], read: Callable[[int, int], Kept]) -> None:
        """Keep `tokens`; `read(begin, end)` gives a copy of the keys and values of those that are not here yet."""
        whole = tuple(tokens)
        path = self._path(whole)
        known = sum(length for _, length in path)
        above = path[-1][0] if path else self._root
        if path and path[-1][1] < len(above.tokens) and known < len(whole):
            above = self._split(above, path[-1][1])
        nodes = [node for node, _ in path[:-1]] + ([above] if path else [])
        room = self.capacity - known
        if known < len(whole) and room > 0:
            end = min(len(whole), known + room)
            fresh = _Node(above, whole[known:end], read(known, end))
            above.children[whole[known]] = fresh
            self.tokens += end - known
            nodes.append(fresh)
        self._touch(nodes)
        while self.tokens > self.capacity:
            self._drop(next(iter(self._used)))

    def _path(self, tokens: tuple[int, ...]) -> list[tuple[_Node, int]]:
        """The nodes that `tokens` begin with, each with how many of its own they share: all, but for the last."""
        path: list[tuple[_Node, int]] = []
        node, at = self._root, 0
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            shared = common(child.tokens, tokens[at : at + len(child.tokens)])
            path.append((child, shared))
            if shared < len(child.tokens):
                break
            node, at = child, at + shared
        return path

    def _split(self, node: _Node, at: int) -> _Node:
        """Cut a node in two; gives the upper one, which takes its place. Both copy, so that each can be freed alone."""
        assert node.parent is not None
        upper = _Node(node.parent, node.tokens[:at], [_part(pair, 0, at) for pair in node.kept])
        node.parent.children[node.tokens[0]] = upper
        node.kept = [_part(pair, at, len(node.tokens)) for pair in node.kept]
        node.parent, node.tokens = upper, node.tokens[at:]
        upper.children[node.tokens[0]] = node
        self._used[upper] = None
        return upper

    def _touch(self, nodes: Sequence[_Node]) -> None:
        for node in reversed(nodes):
            self._used[node] = None
            self._used.move_to_end(node)

    def _drop(self, node: _Node) -> None:
        assert node.parent is not None
        assert not node.children
        del node.parent.children[node.tokens[0]]
        del self._used[node]
        self.tokens -= len(node.tokens)


def _part(pair: tuple[torch.Tensor, torch.Tensor], begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    return pair[0][:, begin:end].clone(), pair[1][:, begin:end].clone()


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences of one type begin with alike, by bisection: slices are compared at C's speed."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
