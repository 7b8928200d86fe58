"""Text of anybody's as a picture for a browser may hold it.

What must stay true: what `escaped` returns is text and nothing else wherever it stands in HTML or SVG, between tags or
in a quoted attribute, and holds no character that a terminal or a browser obeys (controls, directions of writing).
"""

from __future__ import annotations

import html


def shown(text: str) -> str:
    """A text without control characters, which a terminal would obey and a browser may not get."""
    return "".join(
        c if c.isprintable() or c == "\n" else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def escaped(text: str) -> str:
    """`shown`, and no markup."""
    return html.escape(shown(text))
