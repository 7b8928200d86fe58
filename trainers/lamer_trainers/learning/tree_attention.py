"""Attention over a forest of tokens: every node sees its ancestors and itself, and nothing else is computed.

What must stay true: for every node the result is that of its sequence alone. The ancestors of the nodes of a block (so
many consecutive ones in depth-first order) are those of its first node and nodes of the block itself, whatever
branches off: a block needs the keys of one path and its own. So the cost of a token grows with its depth, as in a
sequence of its own, and not with the size of the forest, as under a dense mask.

The function is registered with transformers under `NAME` and used only while `attending` is open, by calls that give
it `tree=Blocks(..)`; all others get transformers' SDPA. Beside a tree go positions (depths) and `NO_MASK`, which keeps
transformers from making a mask of its own and which no other attention function can use.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lamer_trainers.learning.trie import Integers

NAME = "lamer_tree"
BLOCK = 128
"""Nodes of a block: more are fewer copies of keys, and more pairs that are computed for nothing."""
ALIKE = 0.75
"""Blocks are computed together where the least of them needs at least so much of the keys of the most needy."""
ALIGNED = 16
"""Keys of a block are so many times a whole number, as kernels like it."""
NO_MASK = torch.ones((1, 1, 2, 3), dtype=torch.bool)
UNKNOWN = ("head_mask", "position_bias", "s_aux", "softcap")
"""Arguments of attention functions that this one does not know."""


class Group(NamedTuple):
    """G blocks of q queries that look at k keys each: nodes of the queries (G * q,), of the keys (G * k,), and which
    query sees which key (G, q, k)."""

    queries: torch.Tensor
    keys: torch.Tensor
    seen: torch.Tensor


class Blocks:
    """How the nodes of a forest attend, by their `end`s. `places` (N,) are the nodes' queries in the groups' order."""

    def __init__(self, end: Integers, size: int = BLOCK) -> None:
        nodes = np.arange(len(end))
        starts = range(0, len(end), size)
        paths = [np.flatnonzero(end[:start] > start) for start in starts]
        needs = [len(path) + size for path in paths]
        self.groups: list[Group] = []
        places = np.empty(len(end), dtype=np.int64)
        done = 0
        for numbers in _alike(needs):
            width = -(-max(needs[number] for number in numbers) // ALIGNED) * ALIGNED
            queries = np.empty((len(numbers), size), dtype=np.int64)
            keys = np.zeros((len(numbers), width), dtype=np.int64)
            known = np.zeros((len(numbers), width), dtype=bool)
            for row, number in enumerate(numbers):
                own = nodes[starts[number] :][:size]
                queries[row] = own[-1]  # beyond the last node: that one again, for nobody
                queries[row, : len(own)] = own
                places[own] = done + row * size + np.arange(len(own))
                used = np.concatenate([paths[number], own])
                keys[row, : len(used)], known[row, : len(used)] = used, True
            q, k = queries[:, :, None], keys[:, None, :]
            seen = (k <= q) & (q < end[k]) & known[:, None, :]
            self.groups.append(
                Group(*(torch.from_numpy(values) for values in (queries.reshape(-1), keys.reshape(-1), seen)))
            )
            done += queries.size
        self.places = torch.from_numpy(places)
        self._masks: dict[Any, torch.Tensor] = {}

    def to(self, device: torch.device) -> Blocks:
        self.groups = [Group(*(value.to(device) for value in group)) for group in self.groups]
        self.places = self.places.to(device)
        return self

    def for_a_pass(self) -> Blocks:
        """The same with masks of its own, which go when what was computed with them does."""
        fresh = copy.copy(self)
        fresh._masks = {}
        return fresh

    def mask(self, number: int, repeats: int, dtype: torch.dtype) -> torch.Tensor:
        """What the queries of a group see, to be added to their scores, for `repeats` heads of queries to each of keys:
        (G, 1, repeats * q, k). Made once a pass: every layer keeps what it is given for the way back."""
        key = number, repeats, dtype
        if key not in self._masks:
            seen = self.groups[number].seen
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
            self._masks[key] = mask.repeat(1, repeats, 1)[:, None]
        return self._masks[key]


def _alike(needs: Sequence[int]) -> list[list[int]]:
    """Numbers of blocks that are computed together, most keys first."""
    groups: list[list[int]] = []
    for number in sorted(range(len(needs)), key=lambda i: (-needs[i], i)):
        if groups and needs[number] >= ALIKE * needs[groups[-1][0]]:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def tree_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    tree: Blocks | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Of `query` (1, H, N, D), `key` and `value` (1, h, N, D), H a multiple of h: (1, N, H, D), as others return it.

    Raises NotImplementedError for an argument that would change the result.
    """
    if tree is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return plain
    if unknown := [name for name in UNKNOWN if others.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    heads, own = query.shape[1], key.shape[1]
    repeats = heads // own
    device = query.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    found = []
    for number, group in enumerate(tree.groups):
        blocks, q, k = group.seen.shape
        # Heads that share keys lie one after the other in the rows of queries, so that no key is repeated for them.
        asked = query[0].index_select(1, group.queries).view(own, repeats, blocks, q, -1).permute(2, 0, 1, 3, 4)
        asked = asked.reshape(blocks, own, repeats * q, -1)
        known = key[0].index_select(1, group.keys).view(own, blocks, k, -1).transpose(0, 1)
        told = value[0].index_select(1, group.keys).view(own, blocks, k, -1).transpose(0, 1)
        mask = tree.mask(number, repeats, kind)
        mixed = scaled_dot_product_attention(asked, known, told, attn_mask=mask, dropout_p=dropout, scale=scaling)
        mixed = mixed.reshape(blocks, own, repeats, q, -1).permute(0, 3, 1, 2, 4)
        found.append(mixed.reshape(blocks * q, heads, -1))
    return torch.cat(found).index_select(0, tree.places)[None], None


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def attending(model: Any) -> Iterator[None]:
    """While open, `model` attends by `tree_attention`; also on the way back, where activations are computed again."""
    configs = {id(module.config): module.config for module in model.modules() if _attends(module)}.values()
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def _attends(module: Any) -> bool:
    return hasattr(getattr(module, "config", None), "_attn_implementation")
