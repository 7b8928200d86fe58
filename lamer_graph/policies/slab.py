"""Where running rows keep their keys and values: one tensor of each per layer, (rows, heads, columns, head_dim).

What must stay true: the running rows are the first ones, and a row owns the columns from its `start` to its `end`; what
lies outside of them is masked, and finite. A pass writes before it reads. What a row's prompt has in common with an
earlier one is copied in once, when the row is placed (see `prefixes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from lamer_graph.policies.prefixes import Kept, Run

GROW = 64
"""Columns are added in multiples of this."""


class Stem(NamedTuple):
    """What is known of a row's prompt: in the place `row`, from the column `start`."""

    row: int
    start: int
    runs: Sequence[Run]


class Placing(NamedTuple):
    """A pass that fills the places `rows` with prompts, each computed once: the i-th of them gets prompt `source[i]`
    (None: they are as many as prompts), and the first to have prompt j is in the place `first[j]`."""

    rows: slice
    source: torch.Tensor | None
    first: torch.Tensor | None
    stems: Sequence[Stem]


class SlabLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values. The slab says where the current forward pass writes."""

    is_sliding = False

    def __init__(self, slab: Slab, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slab = slab
        self.number = number

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        slab = self.slab
        keys, values = self._tensors(key_states, value_states)
        if slab.placing is not None:
            return self._place(slab.placing, keys, values, key_states, value_states)
        count = key_states.shape[0]
        where = (slab.index[:count], slice(None), slab.ends[:count])
        keys[where] = key_states[:, :, 0]
        values[where] = value_states[:, :, 0]
        return keys[:count, :, : slab.width], values[:count, :, : slab.width]

    def _place(
        self, placing: Placing, keys: torch.Tensor, values: torch.Tensor, *new: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values, and what was known, into their rows; gives those of each prompt once."""
        rows, source, first, stems = placing
        width, queries = self.slab.width, new[0].shape[2]
        for whole, part in zip((keys, values), new, strict=True):
            whole[rows, :, width - queries : width] = part if source is None else part[source]
        for row, at, runs in stems:
            # Over the padding of rows that have fewer new tokens than others.
            for kept, length in runs:
                for whole, part in zip((keys, values), kept[self.number], strict=True):
                    whole[row, :, at : at + length] = part[:, :length]
                at += length
        if not stems and queries == width:
            return new[0], new[1]
        if first is None:
            return keys[rows, :, :width], values[rows, :, :width]
        return keys[first, :, :width], values[first, :, :width]

    def _tensors(self, like_keys: torch.Tensor, like_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tensors, brought to the slab's capacity."""
        rows, columns = self.slab.capacity
        if self.keys is None or self.values is None or self.keys.shape[::2] != (rows, columns):
            self.keys, self.values = (
                _resized(old, like, rows, columns) for old, like in ((self.keys, like_keys), (self.values, like_values))
            )
            self.is_initialized = True
        return self.keys, self.values

    def put(self, row: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write what was computed elsewhere, each (heads, tokens, head_dim)."""
        for whole, part in zip(self._tensors(keys[None], values[None]), (keys, values), strict=True):
            whole[row, :, start : start + part.shape[1]] = part

    def move(self, targets: torch.Tensor, sources: torch.Tensor, width: int) -> None:
        if self.keys is not None and self.values is not None:
            self.keys[targets, :, :width] = self.keys[sources, :, :width]
            self.values[targets, :, :width] = self.values[sources, :, :width]

    def drop(self) -> None:
        self.keys = self.values = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self._tensors(key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.slab.width, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


def _resized(old: torch.Tensor | None, like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A tensor (rows, heads, columns, dim) of `like`'s kind that begins with what `old` held."""
    # Zeros: a masked column weighs 0, and 0 times a stray NaN would still be NaN.
    fresh = like.new_zeros((rows, like.shape[1], columns, like.shape[3]))
    if old is not None:
        kept = slice(0, min(rows, old.shape[0])), slice(None), slice(0, min(columns, old.shape[2]))
        fresh[kept] = old[kept]
    return fresh


class Slab:
    """The keys and values of at most `rows` rows in `layers` layers, and who owns which columns.

    `budget` bounds rows times columns (one row may exceed it alone).
    """

    def __init__(self, layers: int, rows: int, budget: int, device: torch.device) -> None:
        self.most_rows = rows
        self.budget = budget
        self.device = device
        self.layers = [SlabLayer(self, number) for number in range(layers)]
        self.cache = Cache(layers=list(self.layers))
        self.index = torch.arange(rows, device=device)
        self.starts = torch.zeros_like(self.index)
        self.ends = torch.zeros_like(self.index)
        self.ends_of: list[int] = []
        """`ends` of the running rows, once more where no device has to be waited for."""
        # What the layers read during a forward pass.
        self.capacity = (0, 0)
        self.placing: Placing | None = None
        self.width = 0

    def reserve(self, rows: int, columns: int) -> None:
        """Set the capacity for `rows` and `columns` with room to grow, within the budget where possible."""
        if rows <= self.capacity[0] and columns <= self.capacity[1]:
            return
        columns = max(columns, *self.ends_of, 0)
        tidy = -(-columns // GROW) * GROW
        need = min(self.most_rows, 1 << (rows - 1).bit_length()), tidy
        roomy = max(need[0], self.capacity[0]), max(need[1], self.capacity[1])
        fitting = (one for one in (roomy, (rows, tidy)) if one[0] * one[1] <= self.budget)
        self.capacity = next(fitting, (rows, columns))

    def reserve_exactly(self, rows: int, columns: int) -> None:
        """The capacity as the two numbers alone say it: no bit may depend on what was there before."""
        self.capacity = rows, -(-columns // GROW) * GROW

    def placed(self, rows: slice, starts: torch.Tensor, width: int) -> None:
        """Note who owns which columns now."""
        self.starts[rows] = starts
        self.ends[rows] = width
        self.ends_of += [width] * (rows.stop - rows.start)

    def advance(self, count: int) -> None:
        self.ends[:count] += 1
        self.ends_of = [end + 1 for end in self.ends_of]

    def move(self, holes: Sequence[int], movers: Sequence[int]) -> None:
        """Take what is in the places `movers` to the places `holes`."""
        targets, sources = torch.tensor([holes, movers], device=self.device)
        for layer in self.layers:
            layer.move(targets, sources, max(self.ends_of[place] for place in movers))
        for tensor in (self.starts, self.ends):
            tensor[targets] = tensor[sources]
        for hole, mover in zip(holes, movers, strict=True):
            self.ends_of[hole] = self.ends_of[mover]

    def put(self, row: int, start: int, kept: Kept) -> None:
        """Write keys and values into a row, from the column `start` on."""
        for layer, (keys, values) in zip(self.layers, kept, strict=True):
            layer.put(row, start, keys, values)

    def read(self, row: int, start: int, begin: int, end: int) -> Kept:
        """A copy of the keys and values of tokens of a row whose first one is in the column `start`."""
        begin, end = start + begin, start + end
        kept: Kept = []
        for layer in self.layers:
            assert layer.keys is not None
            assert layer.values is not None
            kept.append((layer.keys[row, :, begin:end].clone(), layer.values[row, :, begin:end].clone()))
        return kept

    def clear(self) -> None:
        """Free everything."""
        self.ends_of, self.capacity = [], (0, 0)
        for layer in self.layers:
            layer.drop()
