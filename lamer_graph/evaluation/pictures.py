"""Pictures as PNG and SVG: a figure that opens no window, and its files.

What must stay true: the same numbers give the same bytes, and files are written whole or not at all. Needs matplotlib
(extra `viewer`), which is imported here only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lamer_graph.runlog import replacing


def panels(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure of `size` inches and its panels, an array [rows, columns]; `options` are those of `Figure.subplots`.

    Raises ImportError without matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Any, stem: str | Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg; their paths. Raises OSError."""
    import matplotlib

    paths = [Path(f"{stem}.{kind}") for kind in ("png", "svg")]
    styled = matplotlib.rc_context({"svg.hashsalt": "lamer-graph", "svg.fonttype": "none"})
    with styled, replacing(paths[0]) as png, replacing(paths[1]) as svg:
        figure.savefig(png, format="png", dpi=150)
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return paths
