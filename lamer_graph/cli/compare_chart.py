"""A comparison as a picture, SVG and PNG: success, difference from the reference, and the prompt that it costs.

What must stay true: every point of success has its interval, and the three panels share their rows. Needs matplotlib
(extra `viewer`), which is imported here only; no window is ever opened.
"""

from __future__ import annotations

from pathlib import Path

from lamer_graph.evaluation.compare import Comparison
from lamer_graph.evaluation.stats import Difference, Estimate
from lamer_graph.runlog import replacing

FIRST, LAST, GREY = "#9db4c0", "#1f5673", "#777777"
"""Colours of the first and the last episode's numbers, and of what is beside them."""
ROW_INCHES = 0.42


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """compare.svg and compare.png in `folder`. Raises ImportError without matplotlib, OSError."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = comparison.rows
    places = list(range(len(rows)))[::-1]
    figure = Figure(figsize=(11, 1.6 + ROW_INCHES * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    success, difference, tokens = figure.subplots(1, 3, sharey=True, width_ratios=(3, 3, 2))

    def mark(panel: object, value: Estimate | Difference, place: float, colour: str, label: str = "") -> None:
        panel.errorbar(  # type: ignore[attr-defined]
            [value.value],
            [place],
            xerr=[[value.value - value.low], [value.high - value.value]],
            fmt="o",
            color=colour,
            capsize=3,
            label=label,
        )

    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        first, last = row.summary.pass_at[0], row.summary.pass_at[-1]
        shown = {1: (first, FIRST, 0.15), comparison.episodes: (last, LAST, -0.15)}
        for k, (estimate, colour, shift) in shown.items():
            mark(success, estimate, place + shift, colour, "" if number else f"pass@{k}")
        if row.differences is not None:
            mark(difference, row.differences[-1], place, LAST)
            difference.annotate(
                f"p={row.differences[-1].p:.3f}",
                (row.differences[-1].value, place),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=GREY,
            )
        if row.prompt_tokens is not None:
            tokens.barh([place], [row.prompt_tokens.value], height=0.5, color=FIRST)
    success.set_yticks(places, [row.name for row in rows])
    success.set_ylim(-0.6, len(rows) - 0.4)
    success.set_xlabel("share of tasks solved")
    success.legend(loc="best", fontsize=8)
    difference.axvline(0, color=GREY, linewidth=1, linestyle="--")
    difference.set_xlabel(f"pass@{comparison.episodes} minus that of {comparison.reference}")
    tokens.set_xlabel("prompt tokens per call")
    config = comparison.config
    who = "each with a policy of its own" if comparison.trained else f"policy {config.policy}"
    figure.suptitle(
        f"{config.env}, {rows[0].summary.tasks} tasks of split {config.split}, {who}; 95 % intervals",
        fontsize=10,
    )
    paths = [folder / "compare.svg", folder / "compare.png"]
    styled = matplotlib.rc_context({"svg.hashsalt": "lamer-graph", "svg.fonttype": "none"})
    with styled, replacing(paths[0]) as svg, replacing(paths[1]) as png:
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=150)
    return paths
