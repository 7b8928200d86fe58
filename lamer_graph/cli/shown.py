"""Text from elsewhere (policies, servers, logs, memories) as a terminal may be given it.

What must stay true: it is bounded, and holds nothing that a terminal obeys.
"""

from __future__ import annotations

MAX_CHARS = 600
"""Of a text from elsewhere that is shown."""


def shown(text: str, limit: int = MAX_CHARS) -> str:
    """`text`, bounded, without control characters: a terminal obeys some, and servers, policies and logs hold any."""
    cut = text if len(text) <= limit else text[:limit] + " .."
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in cut)


def one_line(text: str, limit: int = MAX_CHARS) -> str:
    """`shown` on one line: some libraries put whole tables into their messages."""
    return shown(" ".join(text.split()), limit)
