"""What a model says of the tokens of a pass: logprobs and entropies, from logits where they are needed alone.

What must stay true: a token's logprob is the one its sample has alone, whatever the pass holds besides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from lamer_trainers.learning.packing import Pass, Reading
from lamer_trainers.learning.tree_attention import NO_MASK

HEAD_FLOATS = 2**26
"""Logits (256 MiB of float32) that are turned into logprobs in one piece; of more, the pieces are computed again on the
way back."""


class Scores(NamedTuple):
    """Of B answers of K tokens: logprobs and entropies (B, K), and a mixture of experts' auxiliary loss."""

    logprobs: torch.Tensor
    entropies: torch.Tensor | None = None
    auxiliary: torch.Tensor | None = None


def score(
    model: Any,
    computed: Pass,
    reading: Reading,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    entropy_gradient: bool = False,
    auxiliary: bool = False,
) -> Scores:
    """Run `model` (wrapped or not) over a pass and read the answers. Forests need `attending` to be open."""
    with _heads_only(model, reading.heads) as picked:
        options: dict[str, Any] = {"output_router_logits": True} if auxiliary else {}
        output = model(**inputs(computed, masked=auxiliary), **options)
    logits = output.logits.flatten(0, 1)
    if not picked:
        logits = logits.index_select(0, reading.heads)
    logprobs: list[torch.Tensor] = []
    entropies: list[torch.Tensor] = []
    for rows, pairs in _pieces(len(reading.heads), logits.shape[-1], reading.head):
        given = (
            logits[rows],
            reading.head[pairs] - rows.start,
            reading.tokens[pairs],
            temperature,
            entropy,
            entropy_gradient,
        )
        again = rows.stop < len(reading.heads) or rows.start > 0
        told, spread = checkpoint(_of_logits, *given, use_reentrant=False) if again else _of_logits(*given)
        logprobs.append(told)
        if spread is not None:
            entropies.append(spread)
    return Scores(
        _at(torch.cat(logprobs), reading.at),
        _at(torch.cat(entropies), reading.at) if entropies else None,
        output.aux_loss if auxiliary else None,
    )


def inputs(computed: Pass, *, masked: bool = False) -> dict[str, Any]:
    """A model's arguments for a pass. Padding on the right is never seen by what is causal, so it needs no mask, unless
    something is summed over all tokens (`masked`)."""
    given: dict[str, Any] = {"input_ids": computed.ids, "use_cache": False}
    if computed.tree is not None:
        mask = NO_MASK.to(computed.ids.device)
        tree = computed.tree.for_a_pass()
        return {**given, "attention_mask": mask, "position_ids": computed.positions, "tree": tree}
    if masked:
        columns = torch.arange(computed.ids.shape[1], device=computed.ids.device)
        given["attention_mask"] = (columns < computed.lengths[:, None]).long()
    return given


def _pieces(count: int, vocabulary: int, head: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of `count` rows of logits, each with that of the predictions that are read there."""
    step = max(1, HEAD_FLOATS // vocabulary)
    starts = list(range(0, count, step))
    edges = torch.searchsorted(head, torch.tensor([*starts, count], device=head.device)).tolist()
    for start, first, last in zip(starts, edges, edges[1:], strict=False):
        yield slice(start, min(start + step, count)), slice(first, last)


def _of_logits(
    logits: torch.Tensor, head: torch.Tensor, tokens: torch.Tensor, temperature: float, entropy: bool, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logprobs of `tokens` (P,) by the rows `head` (P,) of `logits` (M, V), and those rows' entropies (P,)."""
    every = (logits.float() / temperature).log_softmax(-1)
    logprobs = every.flatten().index_select(0, head * every.shape[-1] + tokens)
    if not entropy:
        return logprobs, None
    with torch.set_grad_enabled(torch.is_grad_enabled() and gradient):
        return logprobs, -(every.exp() * every).sum(-1).index_select(0, head)


def _at(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return values.index_select(0, where.flatten()).view(where.shape)


@contextlib.contextmanager
def _heads_only(model: Any, heads: torch.Tensor) -> Iterator[bool]:
    """While open, the model's head computes these places alone; says whether it has a head that can be told."""
    layer = bare(model).get_output_embeddings()
    if layer is None:
        yield False
        return

    def pick(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0].flatten(0, -2).index_select(0, heads)[None], *given[1:])

    handle = layer.register_forward_pre_hook(pick)
    try:
        yield True
    finally:
        handle.remove()


def bare(model: Any) -> Any:
    """The model under accelerate's wrappers; PEFT's passes on what is asked of it."""
    while hasattr(model, "module"):
        model = model.module
    return model
