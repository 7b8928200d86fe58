"""A run whose answers are hardly ever actions is noticed while it goes on, and what is likely wrong is said.

What must stay true: it is said once, to people only, and never ends a run: a policy may be that bad.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamer_graph.collection.config import CollectConfig

TURNS = 40
"""Turns that are looked at first."""
SHARE = 0.9
"""Of invalid ones, from which on it is said."""


class Nonsense:
    """Counts the turns of trials as they end."""

    def __init__(self, config: CollectConfig) -> None:
        self._style, self._limit = config.prompt_style, config.max_tokens
        self._turns = self._invalid = self._cut = 0
        self._said = False

    def seen(self, trial: Mapping[str, Any]) -> str | None:
        """What to say after this logged trial; None as long as there is nothing."""
        for episode in trial["episodes"]:
            for turn in episode["turns"]:
                self._turns += 1
                self._invalid += not turn["valid"]
                call = turn["call"]
                self._cut += not turn["valid"] and call is not None and call["finish_reason"] == "length"
        if self._said or self._turns < TURNS or self._invalid < SHARE * self._turns:
            return None
        self._said = True
        share = f"{self._invalid / self._turns:.0%} of the first {self._turns} answers name no possible action"
        return "; ".join([share, *self._likely()])

    def _likely(self) -> list[str]:
        other = "compact" if self._style == "standard" else "standard"
        likely = [
            f"was the policy taught prompts of style '{self._style}', and this environment? Else try --prompt-style "
            f"{other}, or teach it: lamer-graph warmup --policy DIR"
        ]
        if 2 * self._cut > self._invalid:
            likely.insert(0, f"most were cut at --max-tokens {self._limit}")
        return likely
