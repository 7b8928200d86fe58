"""A customer's instruction in few words: what it asks for, read from its text.

What must stay true: a brief follows from the instruction's text alone, never from the goal behind it, and says all
that the text says. Texts in other words than the generated catalogue's (official data) have none and are shown whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import NamedTuple

from lamer_envs.webshop.lexicon import CHOICES, KINDS, PRICES, QUALITIES, WANTS


class Brief(NamedTuple):
    """What is wanted: a kind of product, its qualities, values of options, and a highest price in dollars."""

    kind: str
    qualities: tuple[str, ...]
    options: tuple[str, ...]
    limit: float | None

    def __str__(self) -> str:
        limit = () if self.limit is None else (f"${self.limit:g}",)
        return ", ".join([self.kind, *self.qualities, *self.options, *limit])


@lru_cache(maxsize=8192)
def brief(instruction: str) -> Brief | None:
    """The brief of an instruction in the generated catalogue's wording, None for any other text."""
    match = next((found for wanted in _wordings() if (found := wanted.fullmatch(instruction))), None)
    if match is None:
        return None
    limit = next((price for name, price in match.groupdict().items() if name.startswith("limit") and price), None)
    return Brief(
        _things()[match["thing"]],
        tuple(re.split(", | and ", match["qualities"])),
        tuple(option.split(" ", 1)[1] for option in match["options"].split(", ")[1:]),
        None if limit is None else float(limit),
    )


@cache
def _things() -> dict[str, str]:
    return {kind.thing: kind.phrase for kind in KINDS}


@cache
def _wordings() -> list[re.Pattern[str]]:
    """One pattern per wording of a wish, each with all wordings of a price behind it."""
    quality = _any(value for each in QUALITIES.values() for value in each.values)
    value = _any(value for each in CHOICES.values() for value in each.values)
    name = _any(["in", *(each.name for each in CHOICES.values())])
    fields = {
        "{thing}": f"(?P<thing>{_any(_things())})",
        "{phrase}": _any(kind.phrase for kind in KINDS),
        "{qualities}": f"(?P<qualities>{quality}(?:(?:, | and ){quality})*)",
        "{options}": f"(?P<options>(?:, {name} {value})*)",
    }
    prices = "|".join(
        re.escape(text).replace(re.escape("{:.2f}"), rf"(?P<limit{nth}>[0-9]+\.[0-9]{{2}})")
        for nth, text in enumerate(PRICES)
    )
    patterns = []
    for text in WANTS:
        pattern = re.escape(text)
        for field, within in fields.items():
            pattern = pattern.replace(re.escape(field), within)
        patterns.append(re.compile(f"{pattern}(?:{prices})?"))
    return patterns


def _any(texts: Iterable[str]) -> str:
    """A pattern for any of the texts, longer ones first."""
    return f"(?:{'|'.join(re.escape(text) for text in sorted(set(texts), key=lambda text: (-len(text), text)))})"
