"""The picture of a training run: pass@k over updates, and whether it collapses, from `metrics.jsonl` alone.

What must stay true: every point is a reading of the log; the smooth line is their running mean and says so. Files are
written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from lamer_graph.evaluation.pictures import panels, save
from lamer_trainers.errors import TrainingDataError

Json = dict[str, Any]
WINDOW = 9
"""Updates in a running mean."""
COLUMNS = 4
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
COLLAPSE = {
    "collapse/reflection_mi": "reflections say of their task",
    "collapse/reflection_entropy": "reflections vary within one",
    "collapse/contrastive_mi": "by the policy's own numbers",
}
"""Metrics of `learning.collapse` that are drawn, in nats."""
INVALID = "batch/invalid"


def read_metrics(path: str | Path) -> list[Json]:
    """The lines of a `metrics.jsonl`, a torn last one left out. Raises TrainingDataError if there is none,
    or one is damaged."""
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise TrainingDataError(f"cannot read {path} ({error})") from None
    found: list[Json] = []
    for number, line in enumerate(lines, start=1):
        try:
            found += [orjson.loads(line)] if line.endswith(b"\n") else []
        except ValueError:
            raise TrainingDataError(f"{path} line {number} is not JSON: was it edited? take that line out") from None
    if not found:
        raise TrainingDataError(f"{path} holds no update yet")
    return found


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Updates and values of those lines that have `key`."""
    known = [(line["update"], float(line[key])) for line in metrics if key in line]
    return [update for update, _ in known], [value for _, value in known]


def running_mean(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """Centred means over up to `window` values, fewer at the ends."""
    half = window // 2
    parts = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]], stem: str | Path) -> list[Path]:
    """Draw pass@k of one or more runs (name: metrics), four a row, into `stem`.png and `stem`.svg; returns the paths.

    Under each, where its metrics say so, how much its reflections depend on the task, and the share of invalid actions.
    Raises ImportError without matplotlib (extra `viewer`), OSError.
    """
    columns = min(COLUMNS, len(runs))
    rows = -(-len(runs) // columns)
    below = any(key in line for metrics in runs.values() for line in metrics for key in COLLAPSE)
    parts, heights = (2, [3.0, 1.4]) if below else (1, [3.0])
    size = (1.0 + 4.6 * columns, (5.2 if below else 3.6) * rows)
    figure, axes = panels(rows * parts, columns, size, sharey="row", height_ratios=heights * rows)
    for axis in axes.flat:
        axis.set_visible(False)
    for number, (name, metrics) in enumerate(runs.items()):
        row, column = divmod(number, columns)
        axis = axes[row * parts][column]
        axis.set_visible(True)
        for k, colour in enumerate(COLOURS, start=1):
            updates, values = series(metrics, f"batch/pass@{k}")
            if not values:
                break
            axis.plot(updates, values, ".", color=colour, alpha=0.25, markersize=4)
            axis.plot(updates, running_mean(values), color=colour, label=f"pass@{k}, mean of {WINDOW}")
        validated = [(line["update"], line["validation/pass@k"]) for line in metrics if "validation/pass@k" in line]
        if validated:
            axis.plot([u for u, _ in validated], [p[-1] for _, p in validated], "kD", markersize=4, label="validation")
        axis.set(title=name, xlabel="update", ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small", loc="lower right")
        if below:
            _draw_collapse(axes[row * parts + 1][column], metrics)
    for under in axes[1::2] if below else ():
        under[0].set_ylabel("nats")
    for over in axes[::parts]:
        over[0].set_ylabel("share of the batch's trials that succeed")
    return save(figure, stem)


def _draw_collapse(axis: Any, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Running means of the collapse metrics that there are, and of the share of invalid actions (of one)."""
    for key, label in (*COLLAPSE.items(), (INVALID, "share of invalid actions")):
        updates, values = series(metrics, key)
        if values:
            axis.plot(updates, running_mean(values), ":" if key == INVALID else "-", label=label)
    axis.set(xlabel="update")
    axis.set_visible(True)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="x-small", loc="best")
