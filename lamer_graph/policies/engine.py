"""A decode loop over a Hugging Face causal model: rows come and go, their keys and values stay where they are.

What must stay true: a row's logits are those of the model on the row's own tokens alone. Rows share a slab of keys and
values (`slab`); a row is left-padded within the chunk that it is prefilled in. What a prompt has in common with earlier
ones is not computed again (`prefixes`), of prompts that come together neither: one of each kind goes first, the others
follow it. A finished row's place is taken by the last one, so the running rows are always the first n. Prefill goes in
chunks small enough for the activations to stay in a core's cache, a third faster than one large batch on a CPU.

`lockstep` (deterministic) instead fixes every shape by the row's own prompt length: a fixed number of rows, prompts
padded to a multiple of `BUCKET`, one more column per step, nothing moved. With one torch thread the same content then
goes through the same instructions, wherever and beside whatever it is. With shared prefixes a prompt is read alone, in
blocks (`blocks`), so that what is found is bit for bit what would have been computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from lamer_graph.errors import ConfigError
from lamer_graph.policies import dense
from lamer_graph.policies.attention import grouped
from lamer_graph.policies.blocks import BLOCK, Scratch, block_end
from lamer_graph.policies.prefixes import Prefixes, common
from lamer_graph.policies.runnable import FULL, SLIDING, WINDOW_BY_LAYER, check_config, window_of
from lamer_graph.policies.sampling import draw
from lamer_graph.policies.slab import Placing, Slab, Stem
from lamer_graph.policies.stopping import Watch
from lamer_graph.types import Sampling

BUCKET = 16
LOCKSTEP_ROWS = 16
WORTH = 32
"""Tokens that two prompts which come together must have in common for one to wait for the other."""
CPU_CHUNK_FLOATS = 2**19
"""Widest activation of a prefill chunk on the CPU, 2 MiB of float32: about a core's second-level cache."""
GPU_CHUNK = 16384
"""Tokens of a prefill chunk on a GPU."""
BROKEN = "broken"
"""Finish of a row whose logits are not finite: the weights are."""


@dataclass(slots=True, eq=False)
class Row:
    """One request: prompt, how to sample, and what was sampled so far. `owner` is the caller's own,
    `watch` looks for its stop strings."""

    prompt: Sequence[int]
    sampling: Sampling
    seed: int
    max_new: int
    owner: Any = None
    watch: Watch | None = None
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


class Engine:
    """Runs rows through `model`, a causal language model in eval mode. Not thread-safe; call under inference_mode.

    `cache_tokens` bounds rows times columns of the slab (one row may exceed it alone), `kept_tokens` what is kept of
    prompts for later ones (0: every prompt is computed whole).
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
        kept_tokens: int = 0,
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
        self.prefixes = Prefixes(kept_tokens) if kept_tokens else None
        self._eos = frozenset(eos)
        self._pad = pad
        self._lockstep = lockstep
        self._max_rows = min(max_rows, LOCKSTEP_ROWS) if lockstep else max_rows
        self._cache_tokens = cache_tokens
        self._intermediate: int = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        self._layers: int = config.num_hidden_layers
        self._slab: Slab | None = None
        self._stamp = 0
        self._dense: dense.Dense | None = None
        self.refresh()

    def refresh(self, changed: bool = False) -> None:
        """Look at the model again: somebody may have moved it or put adapters into it. Only while nothing runs.

        What was kept of prompts is forgotten where the weights have `changed`, or are seen to have.
        """
        first = next(self.model.parameters())
        self.device: torch.device = first.device
        self.dtype: torch.dtype = first.dtype
        on_cpu = self.device.type == "cpu"
        self._chunk_tokens = max(512, CPU_CHUNK_FLOATS // self._intermediate) if on_cpu else GPU_CHUNK
        if self._slab is None or self._slab.device != self.device:
            self.rows = []
            self._slab = Slab(self._layers, self._max_rows, self._cache_tokens, self.device)
            self._next = torch.zeros(self._max_rows, dtype=torch.long, device=self.device)
            changed = True
        stamp = _stamp(self.model)
        changed = changed or stamp != self._stamp
        self._stamp = stamp
        if changed and self.prefixes is not None:
            self.prefixes.clear()
        if self._window is not None or not dense.supports(self.model, adapted=self.prefixes is not None):
            self._dense = None
        elif changed or self._dense is None or self.prefixes is None:
            self._dense = dense.Dense(self.model)

    @property
    def slab(self) -> Slab:
        assert self._slab is not None
        return self._slab

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
            if self.prefixes is None:
                self._prefill(filled, list(range(len(filled))), [()] * len(filled), rows[0].bucket)
            else:
                self._read_alone(filled, rows[0].bucket)
            return self._settle()
        # Identical prompts (the first turns of a group) are computed once.
        by_prompt: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            by_prompt.setdefault(tuple(row.prompt), []).append(row)
        finished: list[Row] = []
        waiting = list(by_prompt)
        while waiting:
            wave, waiting = self._wave(waiting)
            while wave:
                # Prompts with like numbers of new tokens go together.
                size = 1
                while size < len(wave) and wave[size][1] * (size + 1) <= self._chunk_tokens:
                    size += 1
                chunk, wave = wave[:size], wave[size:]
                members = [row for prompt, _ in chunk for row in by_prompt[prompt]]
                source = [place for place, (prompt, _) in enumerate(chunk) for _ in by_prompt[prompt]]
                runs = [self.prefixes.find(prompt, len(prompt) - new) if self.prefixes else () for prompt, new in chunk]
                self._prefill(members, source, runs, max(len(prompt) for prompt, _ in chunk))
                finished += self._settle()
        return finished

    def _wave(self, prompts: list[tuple[int, ...]]) -> tuple[list[tuple[tuple[int, ...], int]], list[tuple[int, ...]]]:
        """Those of `prompts` that are computed now, each with how many of its tokens are new (fewest first), and those
        that wait because one of them begins as they do."""
        if self.prefixes is None:
            return sorted(((prompt, len(prompt)) for prompt in prompts), key=lambda one: one[1]), []
        now: list[tuple[tuple[int, ...], int]] = []
        later: list[tuple[int, ...]] = []
        for prompt in sorted(prompts):
            known = min(self.prefixes.known(prompt), len(prompt) - 1)
            if now and common(now[-1][0], prompt) >= known + WORTH:
                later.append(prompt)
            else:
                now.append((prompt, len(prompt) - known))
        return sorted(now, key=lambda one: one[1]), later

    def _prefill(self, members: list[Row], source: list[int], runs: Sequence[Sequence[Any]], width: int) -> None:
        """Run prompts padded to `width` and sample. `source[i]` is the place of member i's prompt in the batch, `runs`
        what is known of each prompt."""
        slab, distinct = self.slab, dict(zip(reversed(source), reversed(range(len(members))), strict=True))
        prompts = [members[distinct[place]].prompt for place in range(len(distinct))]
        known = [sum(run.length for run in found) for found in runs]
        pads = [width - len(prompt) for prompt in prompts]
        queries = max(len(prompt) - least for prompt, least in zip(prompts, known, strict=True))
        skipped = width - queries
        ids = torch.tensor(
            [([self._pad] * pad + list(prompt))[skipped:] for pad, prompt in zip(pads, prompts, strict=True)],
            device=self.device,
        )
        starts = torch.tensor(pads, device=self.device)
        columns = torch.arange(width, device=self.device)
        own_columns = columns[skipped:].unsqueeze(1)
        # A padding query sees itself, so that no softmax is over nothing.
        own = own_columns == columns
        seen = ((columns >= starts[:, None, None]) & (columns <= own_columns)) | own
        repeated = len(prompts) < len(members)
        index = torch.tensor(source, device=self.device) if repeated else None
        rows = slice(len(self.rows), len(self.rows) + len(members))
        first = [rows.start + distinct[place] for place in range(len(prompts))]
        if self._lockstep:
            slab.reserve_exactly(rows.stop, width)
        else:
            slab.reserve(rows.stop, width)
        slab.width = width
        slab.placing = Placing(
            rows,
            index,
            torch.tensor(first, device=self.device) if repeated else None,
            [Stem(rows.start + place, pads[of], runs[of]) for place, of in enumerate(source) if known[of]],
        )
        near = None if self._window is None else seen & (columns > own_columns - self._window)
        try:
            positions = (columns[skipped:] - starts.unsqueeze(1)).clamp_(min=0)
            logits = self._forward(ids, seen, near, positions)
        finally:
            slab.placing = None
        slab.placed(rows, starts if index is None else starts[index], width)
        self.rows += members
        if self.prefixes is not None and not self._lockstep:
            for prompt, pad, row in zip(prompts, pads, first, strict=True):
                self.prefixes.add(prompt, partial(slab.read, row, pad))
        self._sample(logits if index is None else logits[index], rows, members)

    def _read_alone(self, members: list[Row], width: int) -> None:
        """`_prefill` in lockstep: each prompt by itself and in blocks, then all placed and sampled together."""
        assert self.prefixes is not None
        slab, read = self.slab, dict[tuple[int, ...], tuple[Scratch, torch.Tensor]]()
        slab.reserve_exactly(len(members), width)
        logits: list[torch.Tensor] = []
        for place, row in enumerate(members):
            prompt = tuple(row.prompt)
            if prompt not in read:
                read[prompt] = self._in_blocks(prompt)
            scratch, after = read[prompt]
            slab.put(place, width - len(prompt), scratch.kept)
            logits.append(after)
        rows = slice(0, len(members))
        starts = torch.tensor([width - len(row.prompt) for row in members], device=self.device)
        slab.placed(rows, starts, width)
        self.rows += members
        self._sample(torch.stack(logits), rows, members)

    def _in_blocks(self, prompt: tuple[int, ...]) -> tuple[Scratch, torch.Tensor]:
        """The keys and values of a prompt, and the logits (V,) after it."""
        assert self.prefixes is not None
        stem = block_end(len(prompt) - 1)
        scratch = Scratch(self._layers, self.prefixes.find(prompt, stem))
        logits: torch.Tensor | None = None
        while scratch.tokens < len(prompt):
            begin, end = scratch.tokens, min(len(prompt), block_end(scratch.tokens + BLOCK))
            columns = torch.arange(end, device=self.device)
            own = columns[begin:].unsqueeze(1)
            seen = (columns <= own).unsqueeze(0)
            near = None if self._window is None else seen & (columns > own - self._window)
            ids = torch.tensor([prompt[begin:end]], device=self.device)
            scratch.width = end
            logits = self._forward(ids, seen, near, columns[None, begin:], scratch)
        assert logits is not None
        self.prefixes.add(prompt[:stem], scratch.read)
        return scratch, logits[0]

    # -- decoding -----------------------------------------------------------------------------------------------------

    def step(self) -> list[Row]:
        """One more token for every running row; those that are finished by it."""
        slab, count = self.slab, len(self.rows)
        slab.width = max(slab.ends_of) + 1
        if self._lockstep:
            slab.reserve_exactly(count, slab.width)
        else:
            slab.reserve(count, slab.width)
        starts, ends = slab.starts[:count], slab.ends[:count]
        columns = torch.arange(slab.width, device=self.device)
        seen = (columns >= starts.unsqueeze(1)) & (columns <= ends.unsqueeze(1))
        near = None if self._window is None else seen & (columns > ends.unsqueeze(1) - self._window)
        near = None if near is None else near.unsqueeze(1)
        logits = self._forward(self._next[:count, None], seen.unsqueeze(1), near, (ends - starts).unsqueeze(1))
        slab.advance(count)
        self._sample(logits, slice(0, count), self.rows)
        return self._settle()

    def clear(self) -> list[Row]:
        """Drop every running row (after an error) and all keys and values; gives the rows back."""
        dropped, self.rows = self.rows, []
        self.slab.clear()
        if self.prefixes is not None:
            self.prefixes.clear()
        return dropped

    def release(self) -> None:
        """Give back the memory of a large model's keys, values and merged weights. Only while nothing runs."""
        if self.prefixes is not None:
            self.prefixes.clear()
            self.slab.clear()
            self._dense = None

    def _forward(
        self,
        ids: torch.Tensor,
        seen: torch.Tensor,
        near: torch.Tensor | None,
        positions: torch.Tensor,
        store: Slab | Scratch | None = None,
    ) -> torch.Tensor:
        """Logits (n, V) after the last token of each row.

        seen (n, queries, columns) bool is what a query may look at, `near` what it may in a layer with a sliding window
        (None: there is none). Keys and values are the slab's, or the `store`'s.
        """
        mask: torch.Tensor | dict[str, torch.Tensor]
        store = self.slab if store is None else store
        if self._dense is not None:
            mask = self._mask(seen)
            return self._dense(ids, positions, mask, lambda layer, *new: store.layers[layer].update(*new))
        if near is not None and self._by_layer:
            mask = {FULL: self._mask(seen), SLIDING: self._mask(near)}
        else:
            mask = self._mask(seen if near is None else near)
        with grouped(self.model) if self._attention == "sdpa" and self.device.type == "cpu" else nullcontext():
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=store.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _mask(self, seen: torch.Tensor) -> torch.Tensor:
        """The mask (n, 1, queries, columns) in the form that the attention takes."""
        seen = seen.unsqueeze(1)
        if self._dense is None and self._attention == "sdpa":
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
            elif token in self._eos or (row.watch is not None and row.watch.ends(row.tokens)):
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
                self.rows, self.slab.ends_of = [], []
            done = [row for row in finished if not row.reported]
            for row in done:
                row.reported = True
            return done
        count = len(self.rows) - len(finished)
        holes = [place for place, row in enumerate(self.rows[:count]) if row.finish is not None]
        movers = [place for place, row in enumerate(self.rows) if place >= count and row.finish is None]
        if holes:
            self.slab.move(holes, movers)
            self._next[holes] = self._next[movers]
            for hole, mover in zip(holes, movers, strict=True):
                self.rows[hole] = self.rows[mover]
        del self.rows[count:], self.slab.ends_of[count:]
        return finished


def _stamp(model: Any) -> int:
    """Another number when weights were written to in place, or others took their place."""
    return hash(
        tuple((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in model.parameters())
    )
