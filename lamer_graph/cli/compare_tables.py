"""A comparison as tables: for a terminal, as Markdown, CSV and JSON.

What must stay true: all four say the same numbers; a number that there is not is an empty cell, never a zero.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from lamer_graph.cli.render import across_tasks, below, sampled
from lamer_graph.evaluation.compare import Comparison, Row
from lamer_graph.evaluation.stats import Difference, Estimate
from lamer_graph.runlog import write_atomic

Cells = list[str]


# -- for people -------------------------------------------------------------------------------------------------------


def tables(comparison: Comparison) -> list[RenderableType]:
    """Success and costs, and under what they were measured."""
    success = _table("success", _success_names(comparison), [_success(row, comparison) for row in comparison.rows])
    costs = _table("costs", COST_NAMES, [_costs(row) for row in comparison.rows])
    return [success, costs, escape(" ".join(notes(comparison)))]


def _table(title: str, names: Cells, rows: list[Cells]) -> Table:
    """A table that fits 80 columns: intervals below their values, a configuration's backend below its contents."""
    table = Table(title=title, title_justify="left", show_lines=any("(" in cell for row in rows for cell in row))
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=not number)
    for name, *cells in rows:
        table.add_row(escape(name).replace("/", "/\n", 1), *map(below, cells))
    return table


def notes(comparison: Comparison) -> list[str]:
    """How to read the numbers, a sentence each."""
    config = comparison.config
    found = comparison.rows[0].summary
    who = "each memory with a policy of its own" if comparison.trained else f"policy {config.policy}"
    said = [
        f"{config.env}, split {config.split}, {found.tasks} tasks x {config.trials} trials, {who}, "
        f"{sampled(comparison.sampling)}.",
        "Below each value its 95 % interval, over instances.",
        f"Differences are paired by task, from {comparison.reference}; p is two-sided, from the same bootstrap, of "
        "each comparison by itself.",
        "Read: milliseconds that an episode waited for its memory, median and 95th percentile.",
        "Tokens (prompt and answer) and seconds (from start to end of a trial; trials overlap) are all that was spent, "
        "per solved trial.",
    ]
    if comparison.trained:
        played = "; ".join(f"{row.name}: {row.config.policy}" for row in comparison.rows)
        said.append(
            f"Trained with the memory they play with: {played}. One training each, so a difference is that of memory, "
            "training with it and the luck of that training together; intervals do not hold that luck."
        )
    for row in comparison.rows:
        if row.config.scope == "tasks":
            filled = f" ({row.copied:,} records)" if row.config.store else ""
            said.append(f"{row.name}: {across_tasks(row.config).removesuffix('; ')}{filled}.")
        if row.summary.failed_trials:
            said.append(f"{row.name}: {row.summary.failed_trials} trials ended in an error and are in no number.")
    return said


def markdown(comparison: Comparison) -> str:
    """The whole comparison as a Markdown document."""
    parts = ["# Memory configurations compared\n"]
    parts.append(_markdown_table(_success_names(comparison), [_success(row, comparison) for row in comparison.rows]))
    parts.append(_markdown_table(COST_NAMES, [_costs(row) for row in comparison.rows]))
    names = ["difference", *(f"pass@{k}" for k in range(1, comparison.episodes + 1))]
    others = [
        [f"{row.name} - {comparison.reference}", *(f"{_cell(one, '+.3f')}, p {_p(one)}" for one in row.differences)]
        for row in comparison.rows
        if row.differences is not None
    ]
    parts.append(_markdown_table(names, others))
    parts.append("\n".join(f"- {note}" for note in notes(comparison)) + "\n")
    return "\n".join(parts)


def _markdown_table(names: Cells, rows: list[Cells]) -> str:
    lines = [names, ["---", *("---:" for _ in names[1:])], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _success_names(comparison: Comparison) -> Cells:
    n = comparison.episodes
    return ["memory", *(f"pass@{k}" for k in range(1, n + 1)), f"difference at {n}", "p"]


def _success(row: Row, comparison: Comparison) -> Cells:
    cells = [row.name, *(_cell(one, ".3f") for one in row.summary.pass_at)]
    if row.differences is None:
        return [*cells, "reference", ""]
    last = row.differences[-1]
    return [*cells, _cell(last, "+.3f"), _p(last)]


COST_NAMES = ["memory", "prompt tokens per call", "read p50", "read p95", "tokens per solved", "s per solved"]


def _costs(row: Row) -> Cells:
    read = row.latency_ms
    return [
        row.name,
        "" if row.prompt_tokens is None else f"{row.prompt_tokens.value:,.0f}",
        "" if read is None else f"{read.p50:.2f}",
        "" if read is None else f"{read.p95:.2f}",
        "" if row.tokens_per_solved is None else f"{row.tokens_per_solved.value:,.0f}",
        "" if row.seconds_per_solved is None else f"{row.seconds_per_solved.value:.2f}",
    ]


def _cell(one: Estimate | Difference, form: str) -> str:
    return f"{one.value:{form}} ({one.low:{form}} {one.high:{form}})"


def _p(one: Difference) -> str:
    return f"{one.p:.3f}"


# -- for machines -----------------------------------------------------------------------------------------------------


def csv_text(comparison: Comparison) -> str:
    """One line per configuration, one column per number."""
    lines = [_flat(row, comparison) for row in comparison.rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _flat(row: Row, comparison: Comparison) -> dict[str, Any]:
    config, found = row.config, row.summary
    line: dict[str, Any] = {
        "name": row.name,
        "contents": config.contents,
        "backend": config.backend,
        "scope": config.scope,
        "policy": config.policy,
        "reference": comparison.reference,
        "tasks": found.tasks,
        "trials": found.trials,
        "failed_trials": found.failed_trials,
        "solved": row.solved,
    }
    for k, estimate in enumerate(found.pass_at, start=1):
        line.update(_columns(f"pass@{k}", estimate))
    for k in range(1, comparison.episodes + 1):
        one = None if row.differences is None else row.differences[k - 1]
        line.update(_columns(f"difference@{k}", one))
        line[f"difference@{k}_p"] = None if one is None else one.p
    line.update(_columns("prompt_tokens", row.prompt_tokens))
    read = row.latency_ms
    line["read_ms_p50"] = None if read is None else read.p50
    line["read_ms_p95"] = None if read is None else read.p95
    line["reads"] = 0 if read is None else read.reads
    line.update(_columns("tokens_per_solved", row.tokens_per_solved))
    line.update(_columns("seconds_per_solved", row.seconds_per_solved))
    return line


def _columns(name: str, one: Estimate | Difference | None) -> dict[str, float | None]:
    parts = (None, None, None) if one is None else one[:3]
    return {name + end: value for end, value in zip(("", "_low", "_high"), parts, strict=True)}


def write_files(comparison: Comparison, folder: Path) -> list[Path]:
    """compare.md, compare.csv and compare.json in `folder`. Raises OSError."""
    texts = {
        "compare.md": markdown(comparison),
        "compare.csv": csv_text(comparison),
        "compare.json": json.dumps(comparison.to_json(), indent=2, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in texts]
