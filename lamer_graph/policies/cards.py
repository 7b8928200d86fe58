"""What a server's list of models says of them, a card for each."""

from __future__ import annotations

from typing import Any


def window_of_card(card: dict[str, Any], cards: dict[str, dict[str, Any]]) -> int | None:
    """Tokens of a model's context. An adapter's card has none: it is that of the model named as its parent."""
    seen: list[dict[str, Any]] = []
    while card not in seen:
        if isinstance(window := card.get("max_model_len"), int):
            return window
        seen.append(card)
        card = cards.get(str(card.get("parent")), card)
    return None


def names(cards: dict[str, Any]) -> str:
    return ", ".join(f"'{name[:100]}'" for name in sorted(cards)[:20]) or "no model"
