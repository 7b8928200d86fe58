"""`lamer-graph reproduce`: refusals before any work, the plan of every scale, a grid that is killed and goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from command_line import Cli, keys, slow_imports, started
from lamer_trainers.loop.curves import read_metrics
from lamer_trainers.reproduce import checks
from lamer_trainers.reproduce.grid import target_names

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no target": ((), "name a target; there are: budget, fig3"),
    "unknown target": (("table4",), "unknown target 'table4'; did you mean 'table"),
    "unknown scale": (("table1", "--scale", "huge"), "smollm2"),
    "bad seeds": (("table1", "--seeds", "0,x"), "--seeds"),
    "equal seeds": (("table1", "--seeds", "1,1"), "different numbers"),
    "unknown row": (("table1", "--only", "lamr"), "did you mean 'lamer'"),
    "a row that is left out": (("table1", "--only", "zero_shot"), "zero_shot: it needs a policy that reads plain"),
    "unknown preset": (("meta-vs-rl", "--preset", "minesweeper-5x5"), "did you mean 'minesweeper-5x5-cpu'"),
    "unknown setting": (("table1", "--set", "optimise.updats=3"), "did you mean 'updates'"),
    "a resume of nothing": (("table1", "--resume"), "--resume: there is nothing in"),
    "a report of nothing": (("table1", "--report"), "--report: there is nothing in"),
    "a device for runs": (("table1", "--device", "h200"), "--device is what --dry-run estimates for"),
    "a plan and a report": (("table1", "--dry-run", "--report"), "exclude each other"),
    "no runs at once": (("table1", "--jobs", "0"), "--jobs"),
    "nothing at this scale": (("table2", "--scale", "smollm2"), "nothing to run at scale smollm2"),
    "a policy that is not here": (
        ("table3", "--scale", "smollm2"),
        "make it: lamer-graph warmup --policy models/smollm2-135m --env minesweeper:4x4-3 --out runs/smollm2-minesw",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_in_one_line_before_any_folder_is_made(cli: Cli, tmp_path: Path, what: str) -> None:
    arguments, said = REFUSED[what]
    outcome = cli("reproduce", *arguments, "--out", "grid")
    assert outcome.code == 2
    assert said in outcome.error_line
    assert not (tmp_path / "grid").exists()


def test_a_folder_that_holds_something_else_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "mine.txt").write_text("mine")
    outcome = cli("reproduce", "table3", "--out", "grid")
    assert (outcome.code, "holds something else" in outcome.error_line) == (2, True)
    assert [path.name for path in (tmp_path / "grid").iterdir()] == ["mine.txt"]


def test_without_a_library_the_command_says_which(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else find(name, *more))
    outcome = cli("reproduce", "table1")
    assert (outcome.code, "lamer-graph[train]" in outcome.error_line) == (2, True)


def test_what_is_refused_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    words = [arguments for arguments, _ in REFUSED.values()] + [("table3", "--out", "taken")]
    words += [("table1", "--set", "collect.contents=both"), ("table1", "--set", "distil.ratio=0.5")]
    codes, loaded = slow_imports(tmp_path, [("reproduce", *arguments) for arguments in words])
    assert codes == [2] * len(words)
    assert loaded == []


def test_a_dry_run_is_a_line_for_each_scale_and_with_a_scale_every_run(cli: Cli) -> None:
    short = cli("reproduce", "optimisers", "--dry-run", "--device", "h200").out.splitlines()
    assert [line.split(";")[0] for line in short] == [
        "cpu: 7 trainings, 8 readings, 0 done",
        "smollm2: 7 trainings, 8 readings, 0 done",
        "paper: 7 trainings, 8 readings, 0 done",
        "every run, its command and its time: --scale NAME",
    ]
    assert "time unknown; its policy is yet to be made: runs/smollm2-minesweeper" in short[1]
    assert re.search(r"; [0-9.]+ \w+ to [0-9.]+ (h|days), 1 at a time", short[2])
    assert max(map(len, short)) <= 120
    whole = cli("reproduce", "table3", "--scale", "smollm2", "--dry-run").out
    assert whole.count("lamer-graph train --preset") == whole.count("lamer-graph eval --policy") == 3
    assert "column sokoban is left out" in whole
    told = " ".join(cli("reproduce", "--help-all").out.replace("│", " ").split())
    assert "with --scale every run" in told


def test_a_dry_run_for_machines_has_every_run_of_every_scale(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("reproduce", "table3", "--seeds", "0,1", "--dry-run", "--device", "h200", "--json")
    assert outcome.code == 0, outcome.err
    scales = {one["scale"]: one for one in outcome.document["scales"]}
    assert list(scales) == ["cpu", "smollm2", "paper"]
    assert {name: len(one["runs"]) for name, one in scales.items()} == {"cpu": 36, "smollm2": 12, "paper": 36}
    run = next(one for one in scales["paper"]["runs"] if one["run"] == "minesweeper trajectory seed 1")
    assert run["command"].startswith("lamer-graph train --preset minesweeper-qwen3-4b collect.contents=trajectory")
    low, high = run["seconds"]
    assert 0 < low < high
    assert run["cached"] is False
    assert scales["smollm2"]["runs"][0]["seconds"] is None  # its policy is not here
    assert list(scales["smollm2"]["missing_policies"]) == ["runs/smollm2-minesweeper"]
    assert "Qwen/Qwen3-4B" in scales["paper"]["missing_policies"]
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_cannot_be_trained_is_refused_before_the_first_run(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "missing_policies", lambda grid: {})
    outcome = cli("reproduce", "table3", "--set", "policy=nowhere", "--out", "grid")
    assert (outcome.code, "nowhere" in outcome.error_line) == (2, True)
    assert not (tmp_path / "grid").exists()


# -- runs -------------------------------------------------------------------------------------------------------------


def small(policy: Path, out: str, updates: int = 1) -> list[object]:
    """A row of figure 3, trained and read in seconds."""
    settings = {
        "policy": policy,
        "validation": "null",
        "save_every": 1,
        "collect.tasks": 2,
        "collect.max_turns": 2,
        "collect.max_tokens": 3,
        "optimise.mini_batches": 1,
        "optimise.warmup_updates": 0,
        "optimise.updates": updates,
        "reading.tasks": 30,
    }
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    only = ["--only", "minesweeper", "--only", "meta_rl", "--only", "base"]
    return ["reproduce", "fig3", *only, *changes, "--out", out, "--jobs", 1]


def rows(folder: Path) -> Any:
    return json.loads((folder / "fig3" / "fig3.json").read_text())["rows"]


@pytest.mark.slow
def test_a_grid_runs_is_shared_and_is_reported(cli: Cli, tiny_model_dir: Path, tmp_path: Path) -> None:
    outcome = cli(*small(tiny_model_dir, "grid"), "--json")
    assert outcome.code == 0, outcome.err
    document = outcome.document
    assert (document["done"], document["cached"], document["failed"]) == (3, 0, {})
    (played,) = document["reports"][0]["episodes"]
    assert played["arm"] == "meta_rl"
    assert 2 * 8 <= played["update"] == played["in_all"] <= played["at_most"] == 2 * 8 * 3
    found = {row["arm"]: row for row in rows(tmp_path / "grid")}
    assert list(found) == ["base", "meta_rl"]
    assert found["base"]["tasks"] == 30
    again = cli(*small(tiny_model_dir, "grid"), "--resume", "--json")
    assert (again.document["done"], again.document["cached"]) == (0, 3)
    changed = cli(*small(tiny_model_dir, "grid", updates=2))
    assert (changed.code, "belongs to a grid with set" in changed.error_line) == (2, True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="jobs end with a killed parent by prctl(2)")
def test_a_grid_that_is_killed_in_a_reading_and_in_a_training_goes_on_and_ends_as_if_it_was_not(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path
) -> None:
    def lines(pattern: str) -> int:
        return sum(path.read_bytes().count(b"\n") for path in tmp_path.glob(f"killed/{pattern}"))

    def kill_once(pattern: str, least: int) -> None:
        process = started(tmp_path, *small(tiny_model_dir, "killed", updates=4))
        while process.poll() is None and lines(pattern) < least:
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)

    # The untrained policy is read first, eight trials of each task.
    kill_once("readings/*/trials.jsonl", 5)
    assert lines("readings/*/trials.jsonl") < 8 * 30
    kill_once("trainings/*/metrics.jsonl", 2)
    assert lines("trainings/*/metrics.jsonl") < 4
    (first,) = tmp_path.glob("killed/readings/*/reading.json")
    read_at = first.stat().st_mtime_ns
    again = cli(*small(tiny_model_dir, "killed", updates=4), "--json").document
    assert (again["done"], again["cached"], again["failed"]) == (2, 1, {})
    assert first.stat().st_mtime_ns == read_at
    readings = list(tmp_path.glob("killed/readings/*"))
    for folder in readings:
        played = keys(folder)
        assert len(played) == len(set(played)) == 8 * 30
    (training,) = tmp_path.glob("killed/trainings/*")
    assert [line["update"] for line in read_metrics(training / "metrics.jsonl")] == [1, 2, 3, 4]
    assert len(list((training / "collected").iterdir())) == 4
    assert cli(*small(tiny_model_dir, "whole", updates=4)).code == 0
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    (one,), (other,) = (
        list(tmp_path.glob(f"{name}/trainings/*/policy/model.safetensors")) for name in ("killed", "whole")
    )
    ours, theirs = load_file(one), load_file(other)
    # A batch's trials are summed in the order in which they ended.
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-5) for name in theirs)


def test_the_targets_are_listed_where_none_is_named(cli: Cli) -> None:
    assert ", ".join(target_names()) in cli("reproduce").error_line
