"""A board as SVG, drawn with attributes alone so that it looks the same on any page; classes let a page recolour it.

What must stay true: everything in it is made of numbers and fixed words.
"""

from __future__ import annotations

from collections.abc import Sequence

CELL, GAP, EDGE = 40, 3, 22
SMALL = ' font-size="12"'
_INK = ("#2f6fb3", "#2e7d4f", "#b3432f", "#4b3f9e", "#8a3a2a", "#2a7f86", "#8a2f7a", "#6b6b2a")


def board_svg(size: int, faces: Sequence[str], hidden: Sequence[bool], title: str) -> str:
    """`faces` as displayed and where mines lie `hidden`, both row-major. Those are for people: a small dot each."""
    side = EDGE + size * (CELL + GAP)
    parts = [f"<title>{title}</title>"]
    for number in range(1, size + 1):
        middle = EDGE + (number - 1) * (CELL + GAP) + CELL // 2
        parts.append(_text(middle, EDGE - 8, str(number), "edge", "#8b8b85", SMALL))
        parts.append(_text(EDGE - 12, middle + 4, str(number), "edge", "#8b8b85", SMALL))
    for at, face in enumerate(faces):
        x, y = (EDGE + place * (CELL + GAP) for place in (at % size, at // size))
        name, fill = {"?": ("closed", "#c9cbc6"), "*": ("hit", "#c8553d")}.get(face, ("open", "#f3f2ee"))
        parts.append(f'<rect class="{name}" x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="5" fill="{fill}"/>')
        middle = x + CELL // 2
        if face == "*":
            parts.append(f'<circle class="mine" cx="{middle}" cy="{y + CELL // 2}" r="9" fill="#2b2b28"/>')
        elif face.isdecimal():
            ink = _INK[int(face) - 1]
            parts.append(_text(middle, y + CELL // 2 + 7, face, f"n{face}", ink))
        elif face == "?" and hidden[at]:
            parts.append(f'<circle class="hidden" cx="{middle}" cy="{y + CELL // 2}" r="3" fill="#8b8b85"/>')
    text = 'font-family="sans-serif" font-size="20" text-anchor="middle"'
    view = f'viewBox="0 0 {side} {side}" width="{side}"'
    return f'<svg class="minesweeper" {view} role="img" {text}>{"".join(parts)}</svg>'


def _text(x: int, y: int, text: str, name: str, fill: str, more: str = "") -> str:
    return f'<text class="{name}" x="{x}" y="{y}" fill="{fill}"{more}>{text}</text>'
