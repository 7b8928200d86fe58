"""`lamer-graph curve`: what is another attempt worth? pass@k over k of finished runs, on one page.

What must stay true: nothing is played; the table, CSV, JSON and picture say the same numbers, and a number that there
is not is an empty cell, never a zero.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamer_graph.cli.checks import check_new, run_folder
from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.errors import ConfigError

if TYPE_CHECKING:
    from lamer_graph.evaluation.curves import Curve, Curves

RunsArgument = Annotated[
    list[str],
    typer.Argument(metavar="[NAME=]RUN..", help="Folders of `eval`, each with a name or called like its folder."),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="NAME",
        show_default=False,
        help="The run that the others are compared with. Default: the first.",
    ),
]
TrainedOption = Annotated[
    int | None,
    typer.Option(
        "--trained",
        metavar="N",
        min=1,
        show_default=False,
        help="How many attempts the policies were trained with, marked in the picture; at most what the runs have.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        show_default=False,
        help="Folder for the table and picture. Default: a new one under runs/.",
    ),
]
COLOURS = ("#1f5673", "#c1666b", "#5b8c5a", "#8367c7", "#d4a017", "#777777")


def register(app: typer.Typer) -> None:
    @command(
        app,
        "curve",
        examples=[
            (
                "lamer-graph curve RL=runs/rl meta-RL=runs/meta --trained 3",
                "Two policies that were played with eval --episodes 8: does it go on beyond the third attempt?",
            ),
            ("lamer-graph curve before=runs/warm after=runs/trained", "Before and after a training."),
        ],
    )
    def curve(
        ui: Ui,
        runs: RunsArgument,
        reference: ReferenceOption = None,
        trained: TrainedOption = None,
        out: OutOption = None,
    ) -> Json:
        """Put pass@1..k of finished runs beside each other: each k with its 95 % interval and the paired difference.

        The numbers are read from the logs. With every run stands how many of its reflections were true, where the
        environment can judge them.
        """
        from rich.markup import escape

        from lamer_graph.evaluation.curves import curves

        folder = run_folder(out, "curve")
        check_new(folder)
        found = curves(named(runs), reference, trained)
        ui.print(*_shown(found), escape("\n".join(notes(found))))
        files = [*_write(found, folder), *_drawn(ui, found, folder)]
        ui.print(escape(f"also as {', '.join(path.name for path in files)} in {folder}"))
        return {"run": str(folder), **found.to_json(), "files": [str(path) for path in files]}


def named(runs: list[str]) -> dict[str, Path]:
    """The folders by name. Raises ConfigError for a name that comes twice, or is empty."""
    found: dict[str, Path] = {}
    for text in runs:
        name, equals, folder = text.partition("=")
        place = Path(folder if equals else text)
        name = name if equals else place.resolve().name
        if not name or name in found:
            raise ConfigError(f"'{text}' needs a name of its own: write NAME={place}")
        found[name] = place
    return found


BESIDE = 2
"""Runs beside the reference that a table of 80 columns has room for."""


def _cells(curve: Curve, k: int) -> tuple[str, str, str]:
    """pass@k, the difference from the reference, and p; empty where there is none."""
    reached, differences = curve.evaluation.summary.pass_at, curve.differences
    value = f"{reached[k].value:.3f} ({reached[k].low:.3f}-{reached[k].high:.3f})" if k < len(reached) else ""
    if differences is None or k >= len(differences):
        return value, "", ""
    one = differences[k]
    return value, f"{one.value:+.3f} ({one.low:+.3f} {one.high:+.3f})", f"{one.p:.3f}"


def _rows(found: Curves) -> list[list[str]]:
    """A header and one row for each k."""
    header, rows = ["attempts"], [[f"pass@{k + 1}"] for k in range(found.attempts)]
    for curve in found.curves:
        header += [curve.name, *([] if curve.differences is None else [f"minus {found.reference}", "p"])]
        for k, row in enumerate(rows):
            row += _cells(curve, k)[: 1 if curve.differences is None else 3]
    return [header, *rows]


def notes(found: Curves) -> list[str]:
    """How to read the numbers, a sentence each."""
    from lamer_graph.cli.render import sampled, told_truth

    first = found.curves[0]
    tasks = "; ".join(f"{one.name} {one.evaluation.summary.tasks} tasks x {one.config.trials}" for one in found.curves)
    said = [
        f"{first.config.env}, split {first.config.split}; {tasks} trials; {sampled(first.evaluation.sampling)}.",
        "With each value its 95 % interval over instances.",
    ]
    if len(found.curves) > 1:
        said.append("Differences are paired by task, p is two-sided, of each by itself.")
    if shared := ", ".join(f"{name} {both}" for name, both in found.shared().items()):
        said.append(
            f"Differences are over the tasks that {found.reference} has played, too ({shared}), columns over all."
        )
    said += [f"They differ in {phrase}." for phrase in found.told()]
    true = [(one.name, one.evaluation.truth) for one in found.curves]
    if any(truth is not None for _, truth in true):
        told = (f"{name} {told_truth(truth)}" for name, truth in true if truth is not None)
        said.append(f"Reflections true: {'; '.join(told)}.")
    return said


def _shown(found: Curves) -> list[object]:
    """Tables that fit 80 columns: intervals (and p) below their values, `BESIDE` runs beside the reference in each."""
    from rich.markup import escape
    from rich.table import Table

    from lamer_graph.cli.render import below

    others = [one for one in found.curves if one.differences is not None]
    tables: list[object] = []
    for start in range(0, max(1, len(others)), BESIDE):
        shown = [one for one in found.curves if one.differences is None or one in others[start : start + BESIDE]]
        table = Table("attempts", title="attempts", title_justify="left", show_lines=True)
        for one in shown:
            table.add_column(escape(one.name), justify="right", overflow="fold")
            if one.differences is not None:
                table.add_column(escape(f"minus {found.reference}"), justify="right", overflow="fold")
        for k in range(found.attempts):
            row = [f"pass@{k + 1}"]
            for one in shown:
                value, difference, p = map(below, _cells(one, k))
                row += [value] if one.differences is None else [value, difference and f"{difference}\n[dim]p {p}[/]"]
            table.add_row(*row)
        tables.append(table)
    return tables


def _write(found: Curves, folder: Path) -> list[Path]:
    from lamer_graph.runlog import write_atomic

    header, *rows = _rows(found)
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    table = "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", "k", "value", "low", "high", "difference", "difference_low", "difference_high", "p"])
    for one in found.curves:
        for k, value in enumerate(one.evaluation.summary.pass_at):
            other = one.differences[k] if one.differences is not None and k < len(one.differences) else None
            told = [""] * 4 if other is None else [other.value, other.low, other.high, other.p]
            writer.writerow([one.name, k + 1, value.value, value.low, value.high, *told])
    texts = {
        "curve.md": "\n".join(["# Attempts\n", table, *(f"- {note}" for note in notes(found))]) + "\n",
        "curve.csv": out.getvalue(),
        "curve.json": json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in texts]


def _drawn(ui: Ui, found: Curves, folder: Path) -> list[Path]:
    try:
        return draw(found, folder)
    except ImportError:
        ui.print("no chart: it needs matplotlib, install lamer-graph\\[viewer]")
        return []


def draw(found: Curves, folder: Path) -> list[Path]:
    """curve.png and curve.svg in `folder`. Raises ImportError without matplotlib, OSError."""
    from lamer_graph.evaluation.pictures import panels, save

    figure, ((axes,),) = panels(1, 1, (6.4, 4.2))
    for number, one in enumerate(found.curves):
        reached, colour = one.evaluation.summary.pass_at, COLOURS[number % len(COLOURS)]
        places = list(range(1, len(reached) + 1))
        axes.plot(places, [value.value for value in reached], marker="o", color=colour, label=one.name)
        low, high = [value.low for value in reached], [value.high for value in reached]
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    if found.trained is not None:
        axes.axvline(found.trained, color=COLOURS[-1], linewidth=1, linestyle="--", label="attempts of the training")
    axes.set_xticks(range(1, found.attempts + 1))
    axes.set_xlabel("attempts")
    axes.set_ylabel("share of tasks solved")
    axes.set_ylim(0, 1)
    axes.legend(loc="best", fontsize=8)
    config = found.curves[0].config
    axes.set_title(f"{config.env}, split {config.split}; 95 % intervals", fontsize=10)
    return save(figure, folder / "curve")
