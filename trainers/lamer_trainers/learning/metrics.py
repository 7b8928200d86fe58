"""One value of a metric for a mini-batch, from those of its micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

LOSS = "policy_loss"
"""Its micro-batches' values are parts of one sum; all others are means over tokens, or extremes."""


def of_mini_batch(name: str, values: Sequence[float], tokens: Sequence[int]) -> float | None:
    """The mini-batch's value where micro-batch i of `tokens[i]` tokens has `values[i]`; None where none is known."""
    known = [(value, weight) for value, weight in zip(values, tokens, strict=False) if not math.isnan(value)]
    if not known:
        return None
    if name.endswith(("_min", "_max")):
        return (min if name.endswith("_min") else max)(value for value, _ in known)
    if name == LOSS:
        return sum(value for value, _ in known)
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known)
