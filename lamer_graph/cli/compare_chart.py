"""A comparison as a picture, PNG and SVG: success, difference from the reference, and the prompt that it costs.

What must stay true: every point of success has its interval, and the three panels share their rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lamer_graph.evaluation.compare import Comparison
from lamer_graph.evaluation.pictures import panels, save
from lamer_graph.evaluation.stats import Difference, Estimate

FIRST, LAST, GREY = "#9db4c0", "#1f5673", "#777777"
"""Colours of the first and the last episode's numbers, and of what is beside them."""
ROW_INCHES = 0.42


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """compare.png and compare.svg in `folder`. Raises ImportError without matplotlib, OSError."""
    rows = comparison.rows
    places = list(range(len(rows)))[::-1]
    size = (11, 1.6 + ROW_INCHES * len(rows))
    figure, ((success, difference, tokens),) = panels(1, 3, size, sharey=True, width_ratios=(3, 3, 2))

    def mark(panel: Any, value: Estimate | Difference, place: float, colour: str, label: str = "") -> None:
        panel.errorbar(
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
    return save(figure, folder / "compare")
