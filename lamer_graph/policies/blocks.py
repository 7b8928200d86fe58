"""Keys and values of one prompt that is read alone, in blocks: what makes a found prefix the bits of a computed one.

What must stay true: blocks begin at multiples of `BLOCK` and are computed one by one, over tensors of no other size
than the block and what is before it, so a block's numbers depend on the prompt up to its end and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from lamer_graph.policies.prefixes import Kept, Run

BLOCK = 64


def block_end(tokens: int) -> int:
    """The tokens of whole blocks among the first `tokens`."""
    return tokens // BLOCK * BLOCK


class _ScratchLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values, (1, heads, tokens, head_dim), laid out anew by every block."""

    is_sliding = False

    def __init__(self, scratch: Scratch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.scratch = scratch

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        new = key_states.contiguous(), value_states.contiguous()
        self.keys = new[0] if self.keys is None else torch.cat([self.keys, new[0]], dim=2)
        self.values = new[1] if self.values is None else torch.cat([self.values, new[1]], dim=2)
        return self.keys, self.values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.scratch.width, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class Scratch:
    """What is known of a prompt (whole blocks of `runs`), to be gone on from."""

    def __init__(self, layers: int, runs: Sequence[Run]) -> None:
        self.layers = [_ScratchLayer(self) for _ in range(layers)]
        self.cache = Cache(layers=list(self.layers))
        found = block_end(sum(run.length for run in runs))
        self.width = found
        if not found:
            return
        for number, layer in enumerate(self.layers):
            pairs = [(run.kept[number], run.length) for run in runs]
            keys = torch.cat([pair[0][:, :length] for pair, length in pairs], dim=1)
            values = torch.cat([pair[1][:, :length] for pair, length in pairs], dim=1)
            layer.keys, layer.values = keys[None, :, :found].contiguous(), values[None, :, :found].contiguous()

    @property
    def tokens(self) -> int:
        """How many it holds."""
        keys = self.layers[0].keys
        return 0 if keys is None else keys.shape[2]

    @property
    def kept(self) -> Kept:
        """Keys and values of every layer, each (heads, tokens, head_dim)."""
        found: Kept = []
        for layer in self.layers:
            assert layer.keys is not None
            assert layer.values is not None
            found.append((layer.keys[0], layer.values[0]))
        return found

    def read(self, begin: int, end: int) -> Kept:
        """A copy of those of the tokens between."""
        return [(keys[:, begin:end].clone(), values[:, begin:end].clone()) for keys, values in self.kept]
