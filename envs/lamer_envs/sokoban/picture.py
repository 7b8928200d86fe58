"""A room as SVG, drawn with attributes alone so that it looks the same on any page; classes let a page recolour it.

What must stay true: everything in it is made of numbers and fixed words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

CELL = 40


def room_svg(columns: int, cells: Sequence[str], pits: Collection[int], title: str) -> str:
    """`cells` are XSB characters, row-major. Where `pits` are hidden is for people: a faint disc each."""
    width, height = columns * CELL, len(cells) // columns * CELL
    parts = [f"<title>{title}</title>", f'<rect class="floor" width="{width}" height="{height}" fill="#f3f2ee"/>']
    for at, cell in enumerate(cells):
        x, y = at % columns * CELL, at // columns * CELL
        if cell == "#":
            parts.append(f'<rect class="wall" x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="#8d908a"/>')
        if at in pits:
            middle = f'cx="{x + CELL // 2}" cy="{y + CELL // 2}"'
            parts.append(f'<circle class="pit" {middle} r="16" fill="#2b2b28" opacity="0.18"/>')
        if cell in ".+*":
            middle = f'cx="{x + CELL // 2}" cy="{y + CELL // 2}"'
            parts.append(f'<circle class="target" {middle} r="12" fill="none" stroke="#c8553d" stroke-width="3"/>')
        if cell in "$*":
            name, fill = ("home", "#3f8f5f") if cell == "*" else ("box", "#c98f3d")
            inner = CELL - 10
            place = f'x="{x + 5}" y="{y + 5}" width="{inner}" height="{inner}"'
            parts.append(f'<rect class="{name}" {place} rx="4" fill="{fill}"/>')
            cross = f"M{x + 11} {y + 11}l18 18m0 -18l-18 18"
            parts.append(f'<path class="cross" d="{cross}" stroke="#ffffff" stroke-width="2" opacity="0.55"/>')
        if cell in "@+":
            middle = f'cx="{x + CELL // 2}" cy="{y + CELL // 2}"'
            parts.append(f'<circle class="player" {middle} r="10" fill="#2f6fb3"/>')
    view = f'viewBox="0 0 {width} {height}" width="{width}"'
    return f'<svg class="sokoban" {view} role="img">{"".join(parts)}</svg>'
