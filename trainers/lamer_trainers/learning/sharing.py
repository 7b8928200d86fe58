"""Whether a model can compute what samples have in common once, and saying so once where it cannot.

What must stay true: nobody's gradient depends on a belief. A model is tried on a few tokens before it is trained: one
that ignores positions or masks, or mixes tokens otherwise than by attention, gives other numbers there and computes its
samples in rows of their own.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import numpy as np
import torch

from lamer_graph.policies.runnable import FULL, SLIDING, window_of
from lamer_trainers.learning.packing import lay_out
from lamer_trainers.learning.scoring import bare, inputs
from lamer_trainers.learning.tree_attention import attending

logger = logging.getLogger(__name__)

PROBE = ((5, 6, 7, 8, 9), (5, 6, 7, 10, 11), (5, 6, 12), (13, 14, 15))
"""Tokens on which a model is tried: branches of two depths, and a beginning of its own."""
NEAR = 1e-3
NEAR_16 = 0.05
"""Nats by which logprobs may differ on average between a forest and its sequences alone, in 32 and in 16 bits."""


class Sharing:
    """Says of each batch whether its samples may share tokens.

    `model` is tried now, if sharing is `wanted`; with an `auxiliary` loss over all rows it is not wanted.
    """

    def __init__(self, model: Any, wanted: bool, *, auxiliary: bool = False) -> None:
        self.able, self._said = wanted, False
        self._window: int | None = None
        if not wanted:
            return
        reason = "its experts' auxiliary loss is over all rows" if auxiliary else cannot_share(model)
        if reason is not None:
            self.able = False
            self._say(reason)
            return
        self._window = window_of(bare(model).config.get_text_config())

    def of(self, longest: int) -> bool:
        """Whether samples of up to so many tokens may share."""
        if not self.able or self._window is None or longest <= self._window:
            return self.able
        self._say(f"its attention has a window of {self._window} tokens, and a sample has {longest}")
        return False

    def _say(self, reason: str) -> None:
        if not self._said:
            logger.warning(
                f"samples are computed whole, what they have in common each time: {reason}. The numbers are the same, "
                "it takes longer"
            )
        self._said = True


def cannot_share(model: Any) -> str | None:
    """Why a model cannot compute a forest of tokens as their sequences alone, or None if it can."""
    inner = bare(model)
    config = inner.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if others := sorted(kinds - {FULL, SLIDING}):
        return f"it has layers of {', '.join(others)}"
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return "it cannot be told positions"
    if any(parameter.is_meta for parameter in inner.parameters()):
        return "its weights are not here"
    size = min(window_of(config) or len(PROBE[0]), len(PROBE[0]))
    return _probe(inner, [np.array(tokens[:size]) % config.vocab_size for tokens in PROBE])


@torch.no_grad()
def _probe(model: Any, sequences: list[Any]) -> str | None:
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        computed, paths = lay_out(sequences)
        with attending(model):
            together = model(**inputs(computed.to(device))).logits[0].float().log_softmax(-1)
        gaps = []
        for sequence, path in zip(sequences, paths, strict=True):
            alone = model(input_ids=torch.from_numpy(sequence)[None].to(device), use_cache=False).logits[0]
            gaps.append((together[torch.from_numpy(path).to(device)] - alone.float().log_softmax(-1)).abs().mean())
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return f"it takes no such input ({' '.join(str(error).split())[:120]})"
    finally:
        model.train(training)
    gap = float(torch.stack(gaps).max())
    near = NEAR if next(model.parameters()).dtype == torch.float32 else NEAR_16
    return None if gap <= near else f"its numbers are then off by {gap:.2g} nats"
