"""The plot of a target: for each column the arms side by side, with intervals and the paper's numbers.

What must stay true: it shows the rows that count and nothing that is not in them; files are written whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamer_graph.evaluation.pictures import panels, save
from lamer_trainers.loop.curves import COLOURS
from lamer_trainers.reproduce.jobs import BUDGET

if TYPE_CHECKING:
    from lamer_trainers.reproduce.claims import Table

Json = dict[str, Any]


def draw(table: Table, rows: list[Json], stem: Path) -> list[Path]:
    """Draw into `stem`.png and `stem`.svg; the paths, none where there is nothing to draw.

    Raises ImportError without matplotlib (extra `viewer`), OSError.
    """
    counted = [row for row in rows if row["counts"]]
    if not counted:
        return []
    names = list(dict.fromkeys(row["column"] for row in counted))
    measures = list(dict.fromkeys(row["measure"] for row in counted))
    leveled = any(row["level"] for row in counted)
    apart = measures if table.target.measure in BUDGET else [""]
    parts = [(name, measure) for name in names for measure in apart]
    figure, axes = panels(1, len(parts), (1.0 + 4.6 * len(parts), 4.2))
    for axis, (column, measure) in zip(axes.flat, parts, strict=True):
        here = [row for row in counted if row["column"] == column and measure in ("", row["measure"])]
        if leveled:
            _lines(axis, here)
        else:
            _bars(axis, here)
        axis.set(title=" ".join(filter(None, (column, measure))))
        if table.target.measure == "pass":
            axis.set(ylim=(0, 1))
        axis.grid(alpha=0.3, axis="y")
    axes[0][0].set_ylabel({"pass": "share of tasks solved", "diversity": "entropy, nats"}.get(table.target.measure, ""))
    return save(figure, stem)


def _bars(axis: Any, rows: list[Json]) -> None:
    """A group of bars for each arm, one for each measure; the paper's number as a mark."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    width = 0.8 / len(measures)
    label: str | None = "paper"
    for index, measure in enumerate(measures):
        found = [row for row in rows if row["measure"] == measure]
        at = [arms.index(row["arm"]) + (index - (len(measures) - 1) / 2) * width for row in found]
        values = [row["value"] for row in found]
        reach = [[row["value"] - row["low"] for row in found], [row["high"] - row["value"] for row in found]]
        axis.bar(at, values, width, color=COLOURS[index % len(COLOURS)], label=measure)
        axis.errorbar(at, values, reach, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
        marks = [(x, row["paper"]) for x, row in zip(at, found, strict=True) if row.get("paper") is not None]
        if marks:
            axis.plot([x for x, _ in marks], [y for _, y in marks], "kD", markersize=3, label=label)
            label = None
    axis.set_xticks(range(len(arms)), arms, rotation=30, ha="right")
    axis.legend(fontsize="small")


def _lines(axis: Any, rows: list[Json]) -> None:
    """A line over the levels for each arm, at the last attempt."""
    last = max(row["k"] for row in rows)
    levels = list(dict.fromkeys(row["level"] for row in rows))
    for index, arm in enumerate(dict.fromkeys(row["arm"] for row in rows)):
        found = [row for row in rows if row["arm"] == arm and row["k"] == last]
        values = [row["value"] for row in found]
        reach = [[row["value"] - row["low"] for row in found], [row["high"] - row["value"] for row in found]]
        at = [levels.index(row["level"]) for row in found]
        axis.errorbar(at, values, reach, color=COLOURS[index % len(COLOURS)], marker="o", capsize=2, label=arm)
    axis.set_xticks(range(len(levels)), levels)
    axis.set_xlabel(f"pass@{last}" if last > 1 else "")
    axis.legend(fontsize="small")
