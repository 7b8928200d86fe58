"""A decode loop over a Hugging Face causal model: rows come and go, the key-value cache stays where it is.

What must stay true: a row's logits are those of the model on the row's own tokens alone. Rows share one slab of keys
and values per layer, (rows, heads, columns, head_dim); a row is left-padded within the chunk it is prefilled in, so it
owns the columns from its `start` to its `end`, and everything else is masked. A finished row's place is taken by the
last one, so the running rows are always the first n. Prefill goes in chunks small enough for the activations to stay
in a core's cache, which is a third faster than one large batch on a CPU.

`lockstep` (deterministic) instead fixes every shape by the row's own prompt length: a fixed number of rows, prompts
padded to a multiple of `BUCKET`, one more column per step, nothing moved. With one torch thread the same content then
goes through the same instructions, wherever and beside whatever it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from lamer_graph.errors import ConfigError
from lamer_graph.policies import qwen3
from lamer_graph.policies.runnable import FULL, SLIDING, WINDOW_BY_LAYER, check_config, window_of
from lamer_graph.policies.sampling import draw
from lamer_graph.types import Sampling

BUCKET = 16
LOCKSTEP_ROWS = 16
GROW = 64
"""Columns are added to the slab in multiples of this."""
CPU_CHUNK_FLOATS = 2**19
"""Widest activation of a prefill chunk on the CPU, 2 MiB of float32: about a core's second-level cache."""
GPU_CHUNK = 16384
"""Tokens of a prefill chunk on a GPU."""
BROKEN = "broken"
"""Finish of a row whose logits are not finite: the weights are."""


@dataclass(slots=True, eq=False)
class Row:
    """One request: prompt, how to sample, and what was sampled so far. `owner` is the caller's own."""

    prompt: Sequence[int]
    sampling: Sampling
    seed: int
    max_new: int
    owner: Any = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None
    reported: bool = False

    @property
    def width(self) -> int:
        """Columns that the row may come to need."""
        return len(self.prompt) + self.max_new

    @property
    def bucket(self) -> int:
        return -(-len(self.prompt) // BUCKET) * BUCKET


class _SlabLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values. The engine says where the current forward pass writes."""

    is_sliding = False

    def __init__(self, engine: Engine) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.engine = engine

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        engine = self.engine
        keys, values = self._slab(key_states, value_states)
        if engine.prefilling is not None:
            rows, source = engine.prefilling
            keys[rows, :, : engine.width] = key_states if source is None else key_states[source]
            values[rows, :, : engine.width] = value_states if source is None else value_states[source]
            return key_states, value_states
        count = key_states.shape[0]
        where = (engine.index[:count], slice(None), engine.ends[:count])
        keys[where] = key_states[:, :, 0]
        values[where] = value_states[:, :, 0]
        return keys[:count, :, : engine.width], values[:count, :, : engine.width]

    def _slab(self, like_keys: torch.Tensor, like_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tensors, brought to the engine's capacity."""
        rows, columns = self.engine.capacity
        if self.keys is None or self.values is None or self.keys.shape[::2] != (rows, columns):
            self.keys, self.values = (
                _resized(old, like, rows, columns) for old, like in ((self.keys, like_keys), (self.values, like_values))
            )
            self.is_initialized = True
        return self.keys, self.values

    def move(self, targets: torch.Tensor, sources: torch.Tensor, width: int) -> None:
        if self.keys is not None and self.values is not None:
            self.keys[targets, :, :width] = self.keys[sources, :, :width]
            self.values[targets, :, :width] = self.values[sources, :, :width]

    def drop(self) -> None:
        self.keys = self.values = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self._slab(key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.engine.width, 0

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


class Engine:
    """Runs rows through `model`, a causal language model in eval mode. Not thread-safe; call under inference_mode.

    `cache_tokens` bounds rows times columns of the slab (one row may exceed it alone).
    """

    def __init__(
        self,
        model: Any,
        *,
        eos: Iterable[int],
        pad: int,
        max_rows: int,
        cache_tokens: int,
        lockstep: bool,
    ) -> None:
        check_config(model.config)
        config = model.config.get_text_config()
        self._window = window_of(config)
        self._by_layer = config.model_type in WINDOW_BY_LAYER
        self._attention = getattr(config, "_attn_implementation", "sdpa")
        if self._attention not in ("sdpa", "eager"):
            raise ConfigError(f"LocalPolicy needs attention 'sdpa' or 'eager', not '{self._attention}'")
        self.model = model
        self.rows: list[Row] = []
        self.sampled = 0
        """Tokens that were drawn for somebody, ever."""
        self._eos = frozenset(eos)
        self._pad = pad
        self._lockstep = lockstep
        self._max_rows = min(max_rows, LOCKSTEP_ROWS) if lockstep else max_rows
        self._cache_tokens = cache_tokens
        self._intermediate: int = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        self._layers = [_SlabLayer(self) for _ in range(config.num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        self._end_of: list[int] = []
        # What the layers read during a forward pass.
        self.capacity = (0, 0)
        self.prefilling: tuple[slice, torch.Tensor | None] | None = None
        self.width = 0
        self.refresh()

    def refresh(self) -> None:
        """Look at the model again: somebody may have moved it or put adapters into it. Only while nothing runs."""
        first = next(self.model.parameters())
        self.device: torch.device = first.device
        self.dtype: torch.dtype = first.dtype
        self._qwen3 = qwen3.Qwen3(self.model) if self._window is None and qwen3.supports(self.model) else None
        on_cpu = self.device.type == "cpu"
        self._chunk_tokens = max(512, CPU_CHUNK_FLOATS // self._intermediate) if on_cpu else GPU_CHUNK
        if self.capacity == (0, 0) or self.index.device != self.device:
            self.clear()
            self.index: torch.Tensor = torch.arange(self._max_rows, device=self.device)
            self.ends = torch.zeros_like(self.index)
            self._starts = torch.zeros_like(self.index)
            self._next = torch.zeros_like(self.index)

    # -- admission ----------------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether more rows could join now."""
        return not self.rows if self._lockstep else len(self.rows) < self._max_rows

    def admissible(self, waiting: Sequence[Row]) -> list[Row]:
        """Those of `waiting` (oldest first) that may join now: at least one if nothing runs."""
        if self._lockstep:
            if self.rows or not waiting:
                return []
            same = [row for row in waiting if row.bucket == waiting[0].bucket]
            return sorted(same[: self._max_rows], key=lambda row: (tuple(row.prompt), row.seed))
        chosen: list[Row] = []
        widest = max((row.width for row in self.rows), default=0)
        for row in waiting:
            widest = max(widest, row.width)
            count = len(self.rows) + len(chosen) + 1
            if count > self._max_rows or (count > 1 and count * widest > self._cache_tokens):
                break
            chosen.append(row)
        return chosen

    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Prefill `rows` (as `admissible` gave them) and sample their first tokens; those that are finished by it."""
        if self._lockstep:
            # Places that are left get copies of a row, so that the shape is the same; nobody owns their results.
            spare = self._max_rows - len(rows)
            filled = [
                *rows,
                *(Row(rows[0].prompt, rows[0].sampling, rows[0].seed, 1, reported=True) for _ in range(spare)),
            ]
            self._prefill(filled, list(range(len(filled))), rows[0].bucket)
            return self._settle()
        by_prompt: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            by_prompt.setdefault(tuple(row.prompt), []).append(row)
        prompts = sorted(by_prompt, key=len)
        finished: list[Row] = []
        while prompts:
            # Identical prompts (the first turns of a group) are computed once; prompts of like length go together.
            size = 1
            while size < len(prompts) and len(prompts[size]) * (size + 1) <= self._chunk_tokens:
                size += 1
            chunk, prompts = prompts[:size], prompts[size:]
            members = [row for prompt in chunk for row in by_prompt[prompt]]
            source = [place for place, prompt in enumerate(chunk) for _ in by_prompt[prompt]]
            self._prefill(members, source, len(chunk[-1]))
            finished += self._settle()
        return finished

    def _prefill(self, members: list[Row], source: list[int], width: int) -> None:
        """Run prompts padded to `width` and sample. `source[i]` is the place of member i's prompt in the batch."""
        distinct = dict(zip(source, members, strict=True))
        prompts = [distinct[place].prompt for place in range(len(distinct))]
        pads = [width - len(prompt) for prompt in prompts]
        ids = torch.tensor(
            [[self._pad] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)], device=self.device
        )
        starts = torch.tensor(pads, device=self.device)
        columns = torch.arange(width, device=self.device)
        # A padding query sees itself, so that no softmax is over nothing.
        own = torch.eye(width, dtype=torch.bool, device=self.device)
        seen = ((columns >= starts[:, None, None]) & (columns <= columns.unsqueeze(1))) | own
        index = None if len(prompts) == len(members) else torch.tensor(source, device=self.device)
        rows = slice(len(self.rows), len(self.rows) + len(members))
        self._reserve(rows.stop, width)
        self.width = width
        self.prefilling = rows, index
        near = None if self._window is None else seen & (columns > columns.unsqueeze(1) - self._window)
        try:
            logits = self._forward(ids, seen, near, (columns - starts.unsqueeze(1)).clamp_(min=0))
        finally:
            self.prefilling = None
        self._starts[rows] = starts if index is None else starts[index]
        self.ends[rows] = width
        self._end_of += [width] * len(members)
        self.rows += members
        self._sample(logits if index is None else logits[index], rows, members)

    def _reserve(self, rows: int, columns: int) -> None:
        """Set the slab's capacity for `rows` and `columns` with room to grow, within the budget where possible."""
        if self._lockstep:
            # Strides are a part of the shape that must depend on the row's own length only.
            self.capacity = rows, -(-columns // GROW) * GROW
            return
        if rows <= self.capacity[0] and columns <= self.capacity[1]:
            return
        need = min(self._max_rows, 1 << (rows - 1).bit_length()), -(-columns // GROW) * GROW
        roomy = max(need[0], self.capacity[0]), max(need[1], self.capacity[1])
        self.capacity = roomy if roomy[0] * roomy[1] <= self._cache_tokens else (rows, max(columns, *self._end_of, 0))

    # -- decoding -----------------------------------------------------------------------------------------------------

    def step(self) -> list[Row]:
        """One more token for every running row; those that are finished by it."""
        count = len(self.rows)
        self.width = max(self._end_of) + 1
        self._reserve(count, self.width)
        starts, ends = self._starts[:count], self.ends[:count]
        columns = torch.arange(self.width, device=self.device)
        seen = (columns >= starts.unsqueeze(1)) & (columns <= ends.unsqueeze(1))
        near = None if self._window is None else seen & (columns > ends.unsqueeze(1) - self._window)
        near = None if near is None else near.unsqueeze(1)
        logits = self._forward(self._next[:count, None], seen.unsqueeze(1), near, (ends - starts).unsqueeze(1))
        self.ends[:count] += 1
        self._end_of = [end + 1 for end in self._end_of]
        self._sample(logits, slice(0, count), self.rows)
        return self._settle()

    def clear(self) -> list[Row]:
        """Drop every running row (after an error) and the slab; gives the rows back."""
        dropped, self.rows, self._end_of, self.capacity = self.rows, [], [], (0, 0)
        for layer in self._layers:
            layer.drop()
        return dropped

    def _forward(
        self, ids: torch.Tensor, seen: torch.Tensor, near: torch.Tensor | None, positions: torch.Tensor
    ) -> torch.Tensor:
        """Logits (n, V) after the last token of each row.

        seen (n, queries, columns) bool is what a query may look at, `near` what it may in a layer with a sliding window
        (None: there is none).
        """
        mask: torch.Tensor | dict[str, torch.Tensor]
        if self._qwen3 is not None:
            mask = self._mask(seen)
            return self._qwen3(ids, positions, mask, lambda layer, *new: self._layers[layer].update(*new))
        if near is not None and self._by_layer:
            mask = {FULL: self._mask(seen), SLIDING: self._mask(near)}
        else:
            mask = self._mask(seen if near is None else near)
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _mask(self, seen: torch.Tensor) -> torch.Tensor:
        """The mask (n, 1, queries, columns) in the form that the attention takes."""
        seen = seen.unsqueeze(1)
        if self._qwen3 is None and self._attention == "sdpa":
            return seen
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~seen, torch.finfo(self.dtype).min)

    def _sample(self, logits: torch.Tensor, places: slice, members: Sequence[Row]) -> None:
        """Draw one token for each of `members`, which have these places, and mark those that are finished."""
        samplings = [row.sampling for row in members]
        tokens, logprobs = draw(
            logits,
            temperatures=[sampling.temperature for sampling in samplings],
            top_ks=[sampling.top_k for sampling in samplings],
            top_ps=[sampling.top_p for sampling in samplings],
            seeds=[row.seed for row in members],
            positions=[len(row.tokens) for row in members],
        )
        self._next[places] = tokens
        for row, token, logprob in zip(members, tokens.tolist(), logprobs.tolist(), strict=True):
            if row.finish is not None:
                continue
            row.tokens.append(token)
            self.sampled += row.owner is not None
            row.logprobs.append(logprob)
            if not math.isfinite(logprob):
                row.finish = BROKEN
            elif token in self._eos:
                row.finish = "stop"
            elif len(row.tokens) >= row.max_new:
                row.finish = "length"

    def _settle(self) -> list[Row]:
        """Rows that have just finished; the last running rows move into the places that they leave."""
        finished = [row for row in self.rows if row.finish is not None]
        if not finished:
            return []
        if self._lockstep:
            if len(finished) == len(self.rows):
                self.rows, self._end_of = [], []
            done = [row for row in finished if not row.reported]
            for row in done:
                row.reported = True
            return done
        count = len(self.rows) - len(finished)
        holes = [place for place, row in enumerate(self.rows[:count]) if row.finish is not None]
        movers = [place for place, row in enumerate(self.rows) if place >= count and row.finish is None]
        if holes:
            targets, sources = torch.tensor([holes, movers], device=self.device)
            for layer in self._layers:
                layer.move(targets, sources, max(self._end_of[place] for place in movers))
            for tensor in (self._starts, self.ends, self._next):
                tensor[targets] = tensor[sources]
            for hole, mover in zip(holes, movers, strict=True):
                self.rows[hole], self._end_of[hole] = self.rows[mover], self._end_of[mover]
        del self.rows[count:], self._end_of[count:]
        return finished
