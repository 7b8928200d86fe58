"""A decode loop over a Hugging Face causal model: rows come and go, the key-value cache stays where it is.

What must stay true: a row's logits are those of the model on the row's own tokens alone. Rows share one slab of keys and
values per layer, (rows, heads, columns, head_dim); a row is left-padded within the chunk it is prefilled in, so it owns
the columns from its `start` to its `end`, and everything else is masked. A finished row's place is taken by the last
one, so the running rows are always the first n. Prefill goes in chunks small enough for the activations to stay in a
core's cache, which is a third faster than one large batch on a CPU.

`lockstep` (deterministic) instead fixes every shape by the row's own prompt length: a fixed number of rows, prompts
padded to a multiple of `BUCKET`, one more column per step, nothing moved. With one torch thread the same content then
goes through the same instructions, wherever and beside whatever it is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from lamer_graph.errors import ConfigError, PolicyResponseError
from lamer_graph.local_sampling import draw
from lamer_graph.types import Sampling

BUCKET = 16
LOCKSTEP_ROWS = 16
GROW = 64
"""Columns added to the slab at a time."""


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

    @property
    def width(self) -> int:
        """Columns that the row may come to need."""
        return len(self.prompt) + self.max_new

    @property
    def bucket(self) -> int:
        return -(-len(self.prompt) // BUCKET) * BUCKET


class _SlabLayer(CacheLayerMixin):
    """One layer's keys and values. `engine` says what the current forward pass is."""

    is_sliding = False

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        engine = self.engine
        self._reserve(key_states)
        assert self.keys is not None
        assert self.values is not None
        if engine.target is not None:
            rows, source = engine.target
            width = key_states.shape[2]
            self.keys[rows, :, :width] = key_states if source is None else key_states[source]
            self.values[rows, :, :width] = value_states if source is None else value_states[source]
            return key_states, value_states
        count = key_states.shape[0]
        where = (engine.index[:count], slice(None), engine.ends[:count])
        self.keys[where] = key_states[:, :, 0]
        self.values[where] = value_states[:, :, 0]
        return self.keys[:count, :, : engine.width], self.values[:count, :, : engine.width]

    def _reserve(self, like: torch.Tensor) -> None:
        rows, columns = self.engine.capacity
        if self.keys is not None and self.keys.shape[0] >= rows and self.keys.shape[2] >= columns:
            return
        shape = (rows, like.shape[1], columns, like.shape[3])
        # Zeros: a masked column weighs 0, and 0 times a stray NaN would still be NaN.
        keys, values = like.new_zeros(shape), like.new_zeros(shape)
        if self.keys is not None and self.values is not None:
            old_rows, old_columns = min(rows, self.keys.shape[0]), min(columns, self.keys.shape[2])
            keys[:old_rows, :, :old_columns] = self.keys[:old_rows, :, :old_columns]
            values[:old_rows, :, :old_columns] = self.values[:old_rows, :, :old_columns]
        self.keys, self.values = keys, values
        self.is_initialized = True

    def move(self, targets: torch.Tensor, sources: torch.Tensor, width: int) -> None:
        if self.keys is not None and self.values is not None:
            self.keys[targets, :, :width] = self.keys[sources, :, :width]
            self.values[targets, :, :width] = self.values[sources, :, :width]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self._reserve(key_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.engine.width, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class Engine:
    """Runs rows through `model`, a causal language model in eval mode. Not thread-safe; call under inference_mode."""

    def __init__(
        self, model: Any, *, eos: Iterable[int], pad: int, max_rows: int, cache_tokens: int, lockstep: bool
    ) -> None:
        config = model.config.get_text_config()
        layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
        sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        if layer_types != {"full_attention"} or (sliding and "layer_types" not in config.to_dict()):
            raise ConfigError(f"LocalPolicy runs full-attention models, not {config.model_type}: serve it with vLLM")
        self._attention = getattr(config, "_attn_implementation", "sdpa")
        if self._attention not in ("sdpa", "eager"):
            raise ConfigError(f"LocalPolicy needs attention 'sdpa' or 'eager', not '{self._attention}'")
        self.model = model
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self._eos = frozenset(eos)
        self._pad = pad
        self.lockstep = lockstep
        self.max_rows = min(max_rows, LOCKSTEP_ROWS) if lockstep else max_rows
        self._cache_tokens = cache_tokens
        intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        on_cpu = self.device.type == "cpu"
        self._chunk_tokens = min(16384, max(512, 2**19 // intermediate)) if on_cpu else 16384
        self.rows: list[Row] = []
        self._cache = Cache(layers=[_SlabLayer(self) for _ in range(config.num_hidden_layers)])
        # What `_SlabLayer` reads during a forward pass.
        self.capacity = (0, 0)
        self.target: tuple[slice, torch.Tensor | None] | None = None
        self.width = 0
        self.index = torch.arange(self.max_rows, device=self.device)
        self.starts = torch.zeros(self.max_rows, dtype=torch.long, device=self.device)
        self.ends = torch.zeros(self.max_rows, dtype=torch.long, device=self.device)
        self._next = torch.zeros(self.max_rows, dtype=torch.long, device=self.device)
        self._columns = torch.arange(0, device=self.device)
        self._end_of: list[int] = []

    # -- admission ----------------------------------------------------------------------------------------------------

    def admissible(self, waiting: Sequence[Row]) -> list[Row]:
        """Those of `waiting` (oldest first) that may join now. At least one if nothing runs."""
        if self.lockstep:
            if self.rows or not waiting:
                return []
            same = [row for row in waiting if row.bucket == waiting[0].bucket]
            return sorted(same[: self.max_rows], key=lambda row: (tuple(row.prompt), row.seed))
        chosen: list[Row] = []
        widest = max((row.width for row in self.rows), default=0)
        for row in waiting:
            widest = max(widest, row.width)
            count = len(self.rows) + len(chosen) + 1
            if count > self.max_rows or (count > 1 and count * widest > self._cache_tokens):
                break
            chosen.append(row)
        return chosen

    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Prefill `rows` and sample their first tokens; those that are finished by it."""
        if self.lockstep:
            # The places that are left are filled with copies whose results nobody reads.
            filled = [*rows, *(rows[:1] * (self.max_rows - len(rows)))]
            self._prefill(filled, list(range(len(filled))), filled[0].bucket)
            return self._settle(list(rows))
        finished: list[Row] = []
        by_prompt: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            by_prompt.setdefault(tuple(row.prompt), []).append(row)
        prompts = sorted(by_prompt, key=len)
        while prompts:
            # Identical prompts (a group's first turns) are computed once; short ones go together.
            chunk = [prompts[0]]
            while len(chunk) < len(prompts):
                following = prompts[len(chunk)]
                if len(following) * (len(chunk) + 1) > self._chunk_tokens:
                    break
                chunk.append(following)
            del prompts[: len(chunk)]
            members = [row for prompt in chunk for row in by_prompt[prompt]]
            source = [place for place, prompt in enumerate(chunk) for _ in by_prompt[prompt]]
            self._prefill(members, source, len(chunk[-1]))
            finished += self._settle(members)
        return finished

    def _prefill(self, members: list[Row], source: list[int], width: int) -> None:
        """Run the distinct prompts of `members` (member i has the prompt in place source[i]) and sample for each."""
        base = len(self.rows)
        places: dict[int, Row] = {}
        for place, row in zip(source, members, strict=True):
            places.setdefault(place, row)
        prompts = [places[place].prompt for place in range(len(places))]
        pads = [width - len(prompt) for prompt in prompts]
        ids = torch.tensor(
            [[self._pad] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)], device=self.device
        )
        starts = torch.tensor(pads, device=self.device)
        columns = self._columns_to(width)
        positions = (columns - starts.unsqueeze(1)).clamp_(min=0)
        # A padding query sees itself, so that no softmax is over nothing.
        seen = (columns >= starts[:, None, None]) | torch.eye(width, dtype=torch.bool, device=self.device)
        seen = seen & torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
        index = None if len(prompts) == len(members) else torch.tensor(source, device=self.device)
        rows = slice(base, base + len(members))
        self._grow(base + len(members), width)
        self.target, self.width = (rows, index), width
        logits = self._forward(ids, seen.unsqueeze(1), positions)
        self.target = None
        self.starts[rows] = starts if index is None else starts[index]
        self.ends[rows] = width
        self._end_of += [width] * len(members)
        self.rows += members
        self._sample(logits if index is None else logits[index], rows, members)

    # -- decoding -----------------------------------------------------------------------------------------------------

    def step(self) -> list[Row]:
        """One more token for every running row; those that are finished by it."""
        count = len(self.rows)
        self.width = max(self._end_of) + 1
        self._grow(count, self.width)
        ends = self.ends[:count]
        starts = self.starts[:count]
        columns = self._columns_to(self.width)
        seen = (columns >= starts.unsqueeze(1)) & (columns <= ends.unsqueeze(1))
        logits = self._forward(self._next[:count, None], seen[:, None, None], (ends - starts).unsqueeze(1))
        self.ends[:count] += 1
        self._end_of = [end + 1 for end in self._end_of]
        self._sample(logits, slice(0, count), self.rows)
        return self._settle(list(dict.fromkeys(self.rows)) if self.lockstep else self.rows)

    def clear(self) -> list[Row]:
        """Drop every running row and give them back."""
        dropped, self.rows, self._end_of = list(dict.fromkeys(self.rows)), [], []
        return dropped

    def _forward(self, ids: torch.Tensor, seen: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits (n, V) after the last token of each row. seen (n, 1, queries, columns) bool."""
        mask = seen
        if self._attention == "eager":
            mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
            mask.masked_fill_(~seen, torch.finfo(self.dtype).min)
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

    def _sample(self, logits: torch.Tensor, places: slice, members: Sequence[Row]) -> None:
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
        drawn = dict.fromkeys(range(len(members)))
        if self.lockstep:
            # A filler is the same object as the row that it copies: its first place speaks for it.
            first: dict[int, int] = {}
            for place, row in enumerate(members):
                first.setdefault(id(row), place)
            drawn = dict.fromkeys(first.values())
        token_list, logprob_list = tokens.tolist(), logprobs.tolist()
        for place in drawn:
            row = members[place]
            if row.finish is not None:
                continue
            token, logprob = token_list[place], logprob_list[place]
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if not math.isfinite(logprob):
                row.finish = "error"
            elif token in self._eos:
                row.finish = "stop"
            elif len(row.tokens) >= row.max_new:
                row.finish = "length"

    def _settle(self, candidates: list[Row]) -> list[Row]:
        """Those of `candidates` that have just finished; their places are given to others."""
        finished = [row for row in candidates if row.finish is not None and row.owner is not _REPORTED]
        if self.lockstep:
            if all(row.finish is not None for row in self.rows):
                self.rows, self._end_of = [], []
            return finished
        return finished
