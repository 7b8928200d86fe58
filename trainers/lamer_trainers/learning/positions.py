"""Positions that padding does not move.

What must stay true: a token's position is the number of real tokens before it, as when its row is alone. Rows of a
batch are padded on the left, and a model that is not told positions numbers columns instead: for rotary ones only the
differences matter, for learned ones (GPT-2) every padded row is then scored as another text.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch


def of_mask(mask: torch.Tensor) -> torch.Tensor:
    """(B, L) positions of an attention mask's tokens; padding has 0."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


@contextlib.contextmanager
def counted(model: Any) -> Iterator[None]:
    """While open, `model` gets the positions of its attention mask, whoever calls it; one that takes none is left."""
    if not takes_positions(model):
        yield
        return

    def add(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = named.get("attention_mask")
        if mask is not None and mask.dim() == 2 and named.get("position_ids") is None:
            named = {**named, "position_ids": of_mask(mask)}
        return positional, named

    handle = model.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def takes_positions(model: Any) -> bool:
    """Whether the model under PEFT's and accelerate's wrappers can be told positions."""
    while True:
        inner = getattr(model, "module", None)
        if inner is None and hasattr(model, "get_base_model"):
            inner = model.get_base_model()
        if inner is None or inner is model:
            return "position_ids" in inspect.signature(model.forward).parameters
        model = inner
