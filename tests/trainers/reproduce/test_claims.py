"""From readings to verdicts: pooled over seeds, paired by task, decided by the interval alone."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from lamer_trainers.loop.run_folder import METRICS
from lamer_trainers.reproduce.claims import Table, Verdict, verdicts
from lamer_trainers.reproduce.jobs import Grid, Job, Wanted, expand
from lamer_trainers.reproduce.report import write_report
from lamer_trainers.reproduce.results import Reading, cellful

TASKS = [f"task-{number}" for number in range(60)]


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return expand(Wanted(("table3",), "cpu", (0, 1), tmp_path))


def solved(job: Job, share: float, first: int = 2) -> None:
    """A reading in which that share of the tasks, the first ones, was solved at episode `first` (from 0)."""
    won = round(share * len(TASKS))
    firsts: dict[str, list[int | None]] = {task: [first if n < won else None] for n, task in enumerate(TASKS)}
    entropies = dict.fromkeys(TASKS, 0.0)
    keep(job, Reading(3, {task: task for task in TASKS}, firsts, entropies, 0.0, 5.0))


def keep(job: Job, reading: Reading) -> None:
    job.made.parent.mkdir(parents=True, exist_ok=True)
    job.made.write_bytes(orjson.dumps(reading._asdict()))


def read_all(grid: Grid, **shares: float) -> None:
    for cell in grid.cells:
        if cell.column == "minesweeper" and cell.arm in shares:
            solved(cell.job, shares[cell.arm])


def found(grid: Grid) -> list[Verdict]:
    table = Table("table3", grid.targets["table3"], grid)
    return [verdict for verdict in verdicts(table) if verdict.column == "minesweeper"]


def test_a_claim_is_held_above_zero_not_held_below_and_else_not_decided(grid: Grid) -> None:
    read_all(grid, reflection=0.5, trajectory=0.2, both=0.8)
    over_trajectory, over_both = found(grid)
    assert (over_trajectory.outcome, over_both.outcome) == ("held", "not held")
    assert over_trajectory.value == pytest.approx(0.3)
    assert over_both.value == pytest.approx(-0.3)
    assert over_trajectory.low is not None
    assert 0.15 < over_trajectory.low < 0.3
    read_all(grid, both=0.5)
    assert found(grid)[1].outcome == "not decided at this scale"


def test_seeds_are_pooled_by_task_and_shown_beside(grid: Grid) -> None:
    (first, second) = [cell for cell in grid.cells if (cell.arm, cell.column) == ("both", "minesweeper")]
    solved(first.job, 1.0)
    solved(second.job, 0.5)
    pooled = cellful([first, second])
    assert pooled.per_task("pass", 3)[TASKS[0]] == 1.0
    assert pooled.per_task("pass", 3)[TASKS[-1]] == 0.5
    number = pooled.number("pass", 3)
    assert number.value == pytest.approx(0.75)
    assert number.seeds == [1.0, 0.5]
    assert number.low < 0.75 < number.high
    assert pooled.number("gain", 3).value == pytest.approx(0.75)
    assert pooled.number("pass", 1).value == 0.0


def test_what_is_not_run_decides_nothing_and_is_named(grid: Grid) -> None:
    assert {verdict.outcome for verdict in found(grid)} == {"not run"}
    read_all(grid, reflection=0.5)
    assert found(grid)[0].note == "not run: trajectory"
    seed_0 = next(cell for cell in grid.cells if (cell.arm, cell.column) == ("trajectory", "minesweeper"))
    solved(seed_0.job, 0.1)
    assert found(grid)[0].outcome == "held"
    assert found(grid)[0].note == "not run: seed 1; one seed"


def test_the_best_of_several_is_who_is_compared_with(tmp_path: Path) -> None:
    grid = expand(Wanted(("fig5",), "cpu", (0,), tmp_path))
    shares = {"gamma-0": 0.1, "gamma-0.3": 0.7, "gamma-0.6": 0.6, "gamma-0.9": 0.9}
    read_all(grid, **shares)
    table = Table("fig5", grid.targets["fig5"], grid)
    best = next(one for one in verdicts(table) if one.says == "0.9 is the best" and one.column == "minesweeper")
    # The fifth is not run: the best of four is not the best of five.
    assert (best.theirs, best.outcome) == ("gamma-0.3", "not run")
    read_all(grid, **{"gamma-1": 0.2})
    table = Table("fig5", grid.targets["fig5"], grid)
    best = next(one for one in verdicts(table) if one.says == "0.9 is the best" and one.column == "minesweeper")
    assert (best.theirs, best.outcome) == ("gamma-0.3", "held")


def test_the_better_reading_of_rl_counts(tmp_path: Path) -> None:
    grid = expand(Wanted(("table1",), "cpu", (0,), tmp_path))
    for cell in grid.cells:
        if (cell.arm, cell.column) == ("gigpo", "minesweeper"):
            solved(cell.job, {"alone": 0.2, "reflections": 0.4}[cell.reading])
    table = Table("table1", grid.targets["table1"], grid)
    assert table.counted("minesweeper", "", "gigpo")[0] == "reflections"
    document = write_report(grid, "table1")
    counted = [row for row in document["rows"] if row["counts"] and row["measure"] == "pass@3"]
    assert [(row["reading"], row["value"], row["paper"]) for row in counted] == [("reflections", 0.4, 0.551)]


def test_a_ratio_of_costs_is_held_inside_its_range(tmp_path: Path) -> None:
    grid = expand(Wanted(("budget",), "cpu", (0,), tmp_path))
    for cell in grid.cells:
        if cell.column == "minesweeper" and cell.arm in ("rl", "meta_rl"):
            cell.job.folder.mkdir(parents=True)
            seconds = 2.0 if cell.arm == "rl" else 4.0
            lines = [{"update": n, "time/update": seconds + n / 100, "batch/episodes": 384.0} for n in range(20)]
            lines.append({"update": 20, "time/update": 99.0, "batch/episodes": 384.0, "validation/pass@k": [0.5]})
            (cell.job.folder / METRICS).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    table = Table("budget", grid.targets["budget"], grid)
    twice = next(one for one in verdicts(table) if one.column == "minesweeper" and one.theirs == "rl")
    assert twice.outcome == "held"
    assert twice.value == pytest.approx((4 + 0.095) / (2 + 0.095), abs=1e-6)
    rows = write_report(grid, "budget")["rows"]
    told = {(row["arm"], row["measure"]): row["value"] for row in rows}
    assert told["rl", "seconds"] == pytest.approx(2.095)
    assert told["rl", "episodes"] == 384
    assert ("rl", "tokens") not in told


def test_what_each_row_really_played_is_counted_and_stands_in_the_report(tmp_path: Path) -> None:
    grid = expand(Wanted(("meta-vs-rl",), "cpu", (0, 1), tmp_path))
    played = {"rl": 384.0, "meta": 298.0}
    for cell in grid.cells:
        if (job := cell.job.after) is not None and not job.folder.exists():
            job.made.mkdir(parents=True)
            lines = [{"update": n, "time/update": 1.0, "batch/episodes": played[cell.arm] + n} for n in range(2)]
            (job.folder / METRICS).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    document = write_report(grid, "meta-vs-rl")
    common = {"column": "minesweeper", "trainings": 2, "at_most": 384}
    assert document["episodes"] == [
        {**common, "arm": "rl", "update": 384.5, "in_all": 769},
        {**common, "arm": "meta", "update": 298.5, "in_all": 597},
    ]
    text = (tmp_path / "meta-vs-rl" / "meta-vs-rl.md").read_text()
    assert "| minesweeper meta | 2 | 298.5 | 384 | 597 |" in text
    assert "at most as many episodes" in text
    assert "equal number" not in text


def test_a_report_of_what_is_done_has_all_files_and_names_the_rest(grid: Grid, tmp_path: Path) -> None:
    read_all(grid, reflection=0.5, trajectory=0.2)
    document = write_report(grid, "table3", {"nothing": "x"})
    folder = tmp_path / "table3"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"table3.{kind}" for kind in ("csv", "json", "md", "png", "svg")
    ]
    text = (folder / "table3.md").read_text()
    assert "**Partial**" in text
    assert "| **held** |" in text
    assert "| **reflection** | 0.000 [0.000, 0.060] (0.000 / 0.000) |" in text
    assert "0.805" in text  # the paper's, of reflections in MineSweeper
    assert document["complete"] is False
    assert len((folder / "table3.csv").read_text().splitlines()) == 1 + len(document["rows"]) == 7
    assert all("--out" not in command for command in document["commands"].values())
