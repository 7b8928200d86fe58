"""Runs are found where they lie, and their logs are read as far as they go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamer_graph.errors import RunLogError
from lamer_graph.report.index import Index
from lamer_graph.report.runs import find_runs
from report_runs import a_training, add, line, played, written


def index_of(folder: Path) -> Index:
    (run,) = find_runs([folder])
    index = Index(run)
    index.refresh()
    return index


def test_runs_below_a_folder_are_named_by_their_place_in_it(tmp_path: Path) -> None:
    for place in ("none", "memory/reflection", "trained/none"):
        written(tmp_path / "compare" / place, [played(1)])
    a_training(tmp_path / "compare" / "training", updates=1)
    found = find_runs([tmp_path / "compare"])
    assert [run.name for run in found] == ["memory/reflection", "none", "trained/none", "training"]
    assert [run.training for run in found] == [False, False, False, True]


def test_runs_of_one_name_are_told_apart_and_a_run_named_twice_is_one(tmp_path: Path) -> None:
    for place in ("a/run", "b/run"):
        written(tmp_path / place, [played(1)])
    found = find_runs([tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "a" / "run"])
    assert [run.name for run in found] == ["a/run", "b/run"]


def test_runs_whose_folders_are_named_by_hashes_are_called_what_is_written_beside_them(tmp_path: Path) -> None:
    names = {"readings/m-1a": "lamer, read", "readings/m-2b": "rl, read", "readings/m-3c": "rl, read"}
    for place in (*names, "readings/m-4d", "readings/m-5e"):
        written(tmp_path / "grid" / place, [played(1)])
    (tmp_path / "grid" / "runs.json").write_text(json.dumps({**names, "readings/m-5e": ["no name"]}))
    found = find_runs([tmp_path / "grid"])
    assert [run.name for run in found] == [
        "lamer, read",
        "rl, read (2b)",
        "rl, read (3c)",
        "readings/m-4d",
        "readings/m-5e",
    ]
    assert [run.name for run in find_runs([tmp_path / "grid" / "readings" / "m-2b"])] == ["rl, read"]


@pytest.mark.parametrize(
    ("place", "message"), [("nowhere", "no such folder"), ("empty", "neither"), ("file.txt", "is no folder")]
)
def test_a_place_without_a_run_is_named_with_what_is_wrong(place: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(RunLogError, match=message):
        find_runs([tmp_path / place])


def test_a_row_says_what_its_trial_came_to(tmp_path: Path) -> None:
    trials = [played(1, 0, good=True), played(2, 1, good=True), played(3, error="PolicyConnectionError")]
    index = index_of(written(tmp_path / "run", trials))
    assert [row.outcome for row in index.rows] == [1, 2, -1]
    assert [row.error for row in index.rows] == ["", "", "PolicyConnectionError"]
    for row, trial in zip(index.rows, trials, strict=True):
        turns = [turn for episode in trial["episodes"] for turn in episode["turns"]]
        assert (row.turns, row.invalid) == (len(turns), sum(not turn["valid"] for turn in turns))
        assert row.reward == pytest.approx(sum(turn["reward"] for turn in turns))


def test_every_row_leads_back_to_its_trial_by_its_place_in_the_file(tmp_path: Path) -> None:
    trials = [played(seed, remark="é\u2028" * seed) for seed in range(6)]
    index = index_of(written(tmp_path / "run", trials))
    assert [index.load(number)["trial_id"] for number in range(6)] == [trial["trial_id"] for trial in trials]


def test_a_growing_log_is_read_on_and_its_unfinished_line_waits(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [played(1)])
    index = index_of(folder)
    whole = line(played(2))
    with (folder / "trials.jsonl").open("ab") as file:
        file.write(whole[:100])
    assert not index.refresh()
    assert "unfinished (100 bytes)" in index.problems()[0]
    with (folder / "trials.jsonl").open("ab") as file:
        file.write(whole[100:])
    assert index.refresh()
    assert len(index.rows) == 2
    assert index.problems() == []
    assert index.load(1)["task"]["seed"] == 2


def test_a_log_that_was_put_back_or_replaced_is_read_from_its_start(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [played(1), played(2)])
    index = index_of(folder)
    written(folder, [played(3)])
    index.refresh()
    assert [row.task for row in index.rows] == ["minesweeper:4x4-3/3"]
    assert index.begun == 1
    assert index.find("minesweeper:4x4-3/1#0") is None


def test_a_damaged_line_is_said_and_left_out_and_those_after_it_are_read(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [played(1)])
    with (folder / "trials.jsonl").open("ab") as file:
        file.write(b'{"broken\n[1, 2]\n{"schema_version": 99}\n{"schema_version": 1}\n')
    add(folder, [played(2)])
    index = index_of(folder)
    assert [row.task for row in index.rows] == ["minesweeper:4x4-3/1", "minesweeper:4x4-3/2"]
    said = index.problems()
    assert "line 2 is not valid JSON" in said[0]
    assert "line 3 is not a trial but a list" in said[1]
    assert "upgrade" in said[2]
    assert "line 5 is no trial" in said[3]


def test_a_trial_that_changed_under_the_index_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [played(1), played(2)])
    index = index_of(folder)
    (folder / "trials.jsonl").write_bytes(line(played(2)) + line(played(1)))
    with pytest.raises(RunLogError, match="has changed"):
        index.load(0)


def test_a_training_has_a_log_for_every_update_and_none_of_what_a_restart_left_behind(tmp_path: Path) -> None:
    folder = a_training(tmp_path / "training", updates=3, tasks=1, group=2)
    written(folder / "collected" / "abandoned-17-update-00001", [played(99)])
    written(folder / "validation" / "update-00002", [played(50)])
    (run,) = find_runs([folder])
    told = [(source.update, source.part) for source in run.sources()]
    assert told == [(1, "training"), (2, "training"), (2, "validation"), (3, "training")]
    assert len(index_of(folder).rows) == 7


def test_metrics_of_a_training_leave_out_a_torn_line(tmp_path: Path) -> None:
    folder = a_training(tmp_path / "training", updates=2, tasks=1, group=1)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(json.dumps({"update": 3}).encode())
    (run,) = find_runs([folder])
    assert [one["update"] for one in run.metrics()] == [1, 2]
