"""A target's results as files: Markdown, CSV, JSON and a plot, ours beside the paper's numbers.

What must stay true: whatever is done is reported, whenever it is asked for, and what is not done is named; a share has
its interval and its number of seeds; files are written whole or not at all.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from lamer_graph.runlog import write_atomic
from lamer_trainers.reproduce.claims import Table, Verdict, verdicts
from lamer_trainers.reproduce.facts import facts_of
from lamer_trainers.reproduce.grid import paper_number
from lamer_trainers.reproduce.jobs import BUDGET, Grid, Job
from lamer_trainers.reproduce.picture import draw
from lamer_trainers.reproduce.results import Number, costs, mean_cost

Json = dict[str, Any]
NOT_YET = "not run yet"
POOLED = (
    "Intervals are 95 %, over the instances behind the tasks (boards that differ only in where they were opened are "
    "one). Seeds are pooled by task: a task's value is its mean over the seeds, so an interval says how sure the tasks "
    "make of these policies' mean; the seeds' own values stand beside it. A difference is paired by task. A claim is "
    "held where the interval of its difference lies above 0, not held where it lies below, else not decided."
)


PLAYED = (
    "Counted in the metrics of finished trainings, validation left out; means over updates and seeds. A trial ends "
    "with its first success, so of rows that may play as many episodes the one with several in a trial plays fewer, "
    "the more of them it wins."
)


def write_report(grid: Grid, name: str, failed: dict[str, str] | None = None) -> Json:
    """Write `--out/TARGET/TARGET.md`, `.csv`, `.json` and the plot from what is done; the JSON document."""
    table = Table(name, grid.targets[name], grid)
    found = verdicts(table)
    rows = _cost_rows(table) if table.target.measure in BUDGET else _rows(table)
    folder = grid.wanted.out / name
    folder.mkdir(parents=True, exist_ok=True)
    jobs = {cell.job.name: cell.job for cell in grid.cells if cell.target == name}
    undone = [job for job in jobs.values() if not job.done]
    document: Json = {
        "target": name,
        "title": table.target.title,
        "scale": grid.wanted.scale,
        "seeds": list(grid.wanted.seeds),
        "set": list(grid.wanted.settings),
        "preset": grid.wanted.preset,
        "complete": not undone,
        "rows": rows,
        "claims": [verdict.to_json() for verdict in found],
        "paper_says": table.target.statement,
        "episodes": _episodes(table),
        "trainings": _facts(jobs.values()),
        "left_out": [one._asdict() for one in grid.left_out if one.target == name],
        "not_done": {job.says: (failed or {}).get(job.name, NOT_YET) for job in undone},
        "commands": {job.says: shlex.join(["lamer-graph", job.kind, *job.words]) for job in jobs.values()},
    }
    plots = draw(table, rows, folder / name)
    document["files"] = [str(folder / f"{name}.{kind}") for kind in ("md", "csv", "json")] + [str(p) for p in plots]
    write_atomic(folder / f"{name}.json", orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    write_atomic(folder / f"{name}.csv", _csv(rows).encode())
    write_atomic(folder / f"{name}.md", _markdown(table, document, rows, found, plots).encode())
    return document


def _facts(jobs: Iterable[Job]) -> Json:
    """What each finished training of these jobs, or under them, tells of itself."""
    trainings = {job.name: job for each in jobs for job in (each, each.after) if job and job.kind == "train"}
    told = {job.says: facts_of(job) for job in trainings.values()}
    return {says: facts for says, facts in told.items() if facts is not None}


def _episodes(table: Table) -> list[Json]:
    """What each row played in its finished trainings, counted: episodes of an `update`, mean of all, what they may be
    `at_most`, and of a training, `in_all`. Validation is not counted."""
    found = []
    for column in dict.fromkeys(column for column, _ in table.columns):
        for arm in table.arms:
            trainings = [job for job in table.trainings(column, arm) if job.done]
            played = [number for job in trainings for number in costs(job, "episodes")]
            if played:
                collect = trainings[0].run.collect
                found.append(
                    {
                        "column": column,
                        "arm": arm,
                        "trainings": len(trainings),
                        "update": round(sum(played) / len(played), 1),
                        "at_most": collect.tasks * collect.trials * collect.max_episodes,
                        "in_all": round(sum(played) / len(trainings)),
                    }
                )
    return found


def _rows(table: Table) -> list[Json]:
    """One for each cell, reading and k that is read."""
    rows = []
    for column, level in table.columns:
        for arm in table.arms:
            about = table.target.arms[arm]
            counted = table.counted(column, level, arm)[0]
            for reading in {**about.readings, **about.beside}:
                cell = table.at(column, level, arm, reading)
                if not cell.readings:
                    continue
                ks = (1,) if table.target.measure == "diversity" else range(1, cell.episodes + 1)
                for k in ks:
                    number = cell.number(table.target.measure, k)
                    rows.append(
                        {
                            "column": column,
                            "level": level,
                            "arm": arm,
                            "reading": reading,
                            "counts": reading == counted,
                            "measure": table.target.measure if len(ks) == 1 else f"pass@{k}",
                            "k": k,
                            **_said(number),
                            "tasks": len(cell.per_task(table.target.measure, k)),
                            "instances": len(set(cell.instances.values())),
                            "paper": paper_number(table.target.paper, arm, column, level, k),
                        }
                    )
    return rows


def _cost_rows(table: Table) -> list[Json]:
    rows = []
    for column, _ in table.columns:
        for arm in table.arms:
            for measure in BUDGET:
                alone = [costs(job, measure) for job in table.trainings(column, arm)]
                values = [value for seed in alone for value in seed]
                if values:
                    found = mean_cost(values)
                    number = Number(*found[:3], seeds=[sum(seed) / len(seed) for seed in alone if seed])
                    place = {"column": column, "level": "", "arm": arm, "reading": "", "counts": True}
                    rows.append({**place, "measure": measure, "k": 1, **_said(number), "updates": len(values)})
    return rows


def _said(number: Number) -> Json:
    return {
        "value": round(number.value, 4),
        "low": round(number.low, 4),
        "high": round(number.high, 4),
        "seeds": [round(value, 4) for value in number.seeds],
    }


def _csv(rows: list[Json]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "seeds": " ".join(map(str, row["seeds"]))} for row in rows)
    return text.getvalue()


# -- Markdown ---------------------------------------------------------------------------------------------------------


def _markdown(table: Table, document: Json, rows: list[Json], found: list[Verdict], plots: list[Path]) -> str:
    wanted, target = table.grid.wanted, table.target
    asked = [
        "lamer-graph",
        "reproduce",
        table.name,
        "--scale",
        wanted.scale,
        "--seeds",
        ",".join(map(str, wanted.seeds)),
    ]
    asked += ["--preset", wanted.preset] if wanted.preset else []
    asked += [word for setting in wanted.settings for word in ("--set", setting)]
    parts = [f"# {target.title}", target.about]
    parts += [f"Scale `{wanted.scale}`: {table.grid.scale.says} {target.part(wanted.scale).says}".rstrip()]
    parts += [f"`{shlex.join(asked)}`"]
    if not document["complete"]:
        parts.append(f"**Partial**: {len(document['not_done'])} runs of this target are not done, see the end.")
    if found:
        parts += ["## Claims", *_claims(found)]
    if target.statement:
        parts.append(f"The paper: {target.statement}")
    parts += ["## Numbers", *(_tables(table, rows) or ["Nothing is read yet."]), POOLED]
    parts += [f"![{target.title}]({plot.name})" for plot in plots if plot.suffix == ".png"]
    if document["episodes"]:
        parts += ["## Episodes played in training", _played(document["episodes"]), PLAYED]
    if document["trainings"]:
        parts += ["## Trainings", _trainings(document["trainings"])]
    if document["left_out"]:
        parts += ["## Left out at this scale"]
        parts += ["\n".join(f"- {one['what']}: {one['why']}" for one in document["left_out"])]
    if document["not_done"]:
        parts += ["## Not done", *_undone(document["not_done"])]
    return "\n\n".join(parts) + "\n"


def _claims(found: list[Verdict]) -> list[str]:
    """A line for each that something is known of, and where nothing is."""
    lines = ["| claim | where | compared | difference | verdict |", "|---|---|---|---|---|"]
    for one in found:
        if one.value is None:
            continue
        compared = f"{one.ours} to {one.theirs}, {one.measure}"
        lines.append(f"| {one.says} | {one.where} | {compared} | {one.number} | **{one.decided}** |")
    undecided = list(dict.fromkeys(one.where for one in found if one.value is None))
    parts = ["\n".join(lines)] if len(lines) > 2 else []
    return [*parts, *([f"Claims that nothing is run for yet are in: {', '.join(undecided)}."] if undecided else [])]


def _played(told: list[Json]) -> str:
    lines = ["| | trainings | episodes an update | at most | episodes of a training |", "|---|---|---|---|---|"]
    lines += [
        f"| {one['column']} {one['arm']} | {one['trainings']} | {one['update']:,.1f} | {one['at_most']:,} | "
        f"{one['in_all']:,} |"
        for one in told
    ]
    return "\n".join(lines)


def _trainings(told: Json) -> str:
    lines = [
        "| training | updates | minutes | kept | true reflections, first / last updates |",
        "|---|---|---|---|---|",
    ]
    for says, facts in told.items():
        first, last = (("" if share is None else f"{share:.2f}") for share in facts["true_reflections"])
        kept = "last" if facts["best_update"] is None else f"update {facts['best_update']}"
        numbers = f"{facts['updates']} | {facts['seconds'] / 60:.1f} | {kept}"
        lines.append(f"| {says} | {numbers} | {f'{first} / {last}' if last else ''} |")
    return "\n".join(lines)


def _undone(undone: dict[str, str]) -> list[str]:
    failed = {says: why for says, why in undone.items() if why != NOT_YET}
    parts = ["\n".join(f"- {says}: {why}" for says, why in failed.items())] if failed else []
    waiting = Counter(says.split()[0] for says in undone if says not in failed)
    by_column = ", ".join(f"{count} in {column}" for column, count in waiting.items())
    return [*parts, *([f"Not run yet: {by_column}."] if waiting else [])]


def _tables(table: Table, rows: list[Json]) -> list[str]:
    """One table for each column and level: a line for each reading, a number for each k."""
    made = []
    for column, level in table.columns:
        here = [row for row in rows if (row["column"], row["level"]) == (column, level)]
        if not here:
            continue
        measures = list(dict.fromkeys(row["measure"] for row in here))
        with_paper = any(row.get("paper") is not None for row in here)
        heads = [f"{measure}" for measure in measures]
        heads += [f"paper {measure}" for measure in measures] if with_paper else []
        about = f"{here[0]['tasks']} tasks of {here[0]['instances']} instances" if "tasks" in here[0] else "mean update"
        lines = [f"| {about} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for arm, reading in dict.fromkeys((row["arm"], row["reading"]) for row in here):
            cells = {row["measure"]: row for row in here if (row["arm"], row["reading"]) == (arm, reading)}
            counts = next(iter(cells.values()))["counts"]
            name = ", ".join(filter(None, (arm, reading)))
            words = [_cell(cells.get(measure)) for measure in measures]
            if with_paper:
                known = [cells[measure].get("paper") if counts else None for measure in measures if measure in cells]
                words += ["" if value is None else f"{value:.3f}" for value in known]
            lines.append(f"| {f'**{name}**' if counts else name} | {' | '.join(words)} |")
        made += [f"### {' '.join(filter(None, (column, level)))}", "\n".join(lines)]
    return made


def _cell(row: Json | None) -> str:
    if row is None:
        return ""
    form = "{:,.3f}" if row["value"] < 100 else "{:,.0f}"
    said = f"{form.format(row['value'])} [{form.format(row['low'])}, {form.format(row['high'])}]"
    seeds = row["seeds"]
    return said if len(seeds) < 2 else f"{said} ({' / '.join(form.format(value) for value in seeds)})"
