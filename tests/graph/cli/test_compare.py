"""`lamer-graph compare`, and memory across tasks in `collect` and `eval`: what is written, refused, resumed."""

from __future__ import annotations

import csv
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli, keys
from fake_server import FakeServer
from lamer_graph.runlog import read_config, read_trials


def rows_of(document: Any) -> dict[str, Any]:
    return {row["name"]: row for row in document["rows"]}


def test_a_comparison_is_the_same_for_people_spreadsheets_and_machines(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    arguments = ("compare", "--memory", "none,both", "--backend", "in-context,chroma", "--tasks", "6")
    arguments = (*arguments, "--base-url", server.url, "--out", "c")
    shown = cli(*arguments)
    assert shown.code == 0, shown.err
    assert shown.err == ""
    document = cli(*arguments, "--resume", "--json").document
    rows = rows_of(document)
    assert list(rows) == ["none", "both/in-context", "both/chroma"]
    assert document["reference"] == "none"
    assert rows["both/in-context"]["differences"] == rows["both/chroma"]["differences"]
    assert rows["both/in-context"]["prompt_tokens"] == rows["both/chroma"]["prompt_tokens"]
    saved = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert saved == {key: value for key, value in document.items() if key not in ("run", "files")}
    with (tmp_path / "c" / "compare.csv").open() as file:
        lines = {line["name"]: line for line in csv.DictReader(file)}
    text = (tmp_path / "c" / "compare.md").read_text()
    for name, row in rows.items():
        assert float(lines[name]["pass@3"]) == row["pass_at"][2]["value"]
        assert f"| {name} | {row['pass_at'][0]['value']:.3f} (" in text
        last = f"{row['pass_at'][-1]['value']:.3f}"
        assert (last[1:] if last.startswith("0") else last) in shown.out
    assert lines["none"]["difference@3"] == ""
    assert lines["none"]["read_ms_p50"] == ""
    assert (tmp_path / "c" / "compare.png").read_bytes().startswith(b"\x89PNG")
    picture = (tmp_path / "c" / "compare.svg").read_text()
    assert all(f">{name}<" in picture for name in rows)
    logged = [keys(tmp_path / "c" / run) for run in ("none", "both-in-context", "both-chroma")]
    assert logged[0] == logged[1] == logged[2]
    assert len(logged[0]) == 6


def test_a_comparison_goes_on_where_it_was_cut_short_and_takes_one_more(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    game = ("--tasks", "4", "--max-turns", "2", "--base-url", server.url, "--out", "c", "--json")
    assert cli("compare", "--memory", "none,trajectory", *game).code == 0
    refused = cli("compare", "--memory", "none,trajectory", *game)
    assert refused.code == 2
    assert "--resume" in refused.error_line
    log = tmp_path / "c" / "trajectory-in-context" / "trials.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    before = server.calls
    again = cli(
        "compare", "--memory", "none,trajectory,both", *game, "--resume", "--reference", "trajectory/in-context"
    )
    assert again.code == 0
    assert server.calls > before
    rows = rows_of(again.document)
    assert [row["trials"] for row in rows.values()] == [4, 4, 4]
    assert again.document["reference"] == "trajectory/in-context"
    assert [name for name, row in rows.items() if row["differences"] is None] == ["trajectory/in-context"]
    other = cli("compare", "--memory", "none,trajectory", *game, "--resume", "--seed", "1")
    assert other.code == 2
    assert "seed" in other.error_line


SERVER = ("--base-url", "http://127.0.0.1:9")
DEAD = "http://127.0.0.1:9"

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "in-context across tasks": (
        ("compare", "--scope", "trial,tasks", *SERVER),
        "backend 'in-context' and scope 'tasks' exclude each other",
    ),
    "one configuration": (("compare", "--memory", "none", "--backend", "in-context,chroma", *SERVER), "at least two"),
    "unknown contents": (("compare", "--memory", "none,reflexion", *SERVER), "did you mean 'reflection'"),
    "unknown backend": (("compare", "--backend", "croma", *SERVER), "did you mean 'chroma'"),
    "unknown scope": (("compare", "--scope", "task", *SERVER), "did you mean 'tasks'"),
    "unknown reference": (("compare", "--reference", "nothing", *SERVER), "none, trajectory/in-context"),
    "workers in a folder": (("compare", "--backend", "chroma", "--workers", "2", *SERVER), "chroma run"),
    "a dead memory server": (
        ("compare", "--backend", "chroma", "--memory-url", DEAD, *SERVER),
        f"no Chroma server answers at {DEAD}",
    ),
    "a store without an address": (("compare", "--backend", "store", *SERVER), "--memory-url postgresql://"),
    "an address for nothing": (("eval", "--memory-url", DEAD, *SERVER), "in-context memory has none"),
    "not a server": (("eval", "--backend", "chroma", "--memory-url", "localhost:8000", *SERVER), "http://"),
    "a malformed address": (
        ("eval", "--backend", "chroma", "--memory-url", "http://me:secret@[::1", *SERVER),
        "a malformed address",
    ),
    "a password": (
        ("eval", "--backend", "store", "--memory-url", "postgresql://me:secret@host/db", *SERVER),
        "PGPASSWORD",
    ),
    "none across tasks": (
        ("eval", "--memory", "none", "--backend", "chroma", "--scope", "tasks", *SERVER),
        "--memory none and --backend chroma exclude each other: nothing is remembered",
    ),
    "eval in-context across tasks": (("eval", "--scope", "tasks", *SERVER), "'in-context' and scope 'tasks'"),
    "k alone": (("collect", "--out", "r", "--k", "2", *SERVER), "--k is about the memory of other tasks"),
    "outcomes alone": (("eval", "--outcomes", "solved", *SERVER), "--outcomes is about the memory of other tasks"),
    "embedder alone": (("collect", "--out", "r", "--embedder", "minilm", *SERVER), "--embedder is about the memory"),
    "an embedder of a store that has none": (
        ("eval", "--scope", "tasks", "--backend", "in-context", "--embedder", "minilm", *SERVER),
        "use it with --backend chroma",
    ),
    "an unknown embedder": (
        ("compare", "--backend", "chroma", "--scope", "trial,tasks", "--embedder", "minilmm", *SERVER),
        "did you mean 'minilm'",
    ),
    "an embedder that is not there": (
        ("compare", "--backend", "chroma", "--scope", "trial,tasks", "--embedder", f"{DEAD}/v1#m", *SERVER),
        f"embeddings server {DEAD}/v1/embeddings",
    ),
    "live alone": (("eval", "--live", *SERVER), "--live is about the memory of other tasks"),
    "warm alone": (("eval", "--warm", "3", *SERVER), "--warm is about the memory of other tasks"),
    "select alone": (("eval", "--select", "ucb", *SERVER), "--select is about the memory of other tasks"),
    "control alone": (("eval", "--control", "0.5", *SERVER), "--control is about the memory of other tasks"),
    "lessons alone": (("eval", "--lessons", "all", *SERVER), "--lessons is about the memory of other tasks"),
    "select of none": (
        ("compare", "--memory", "none,both", "--select", "similar,ucb", *SERVER),
        "--select is about the memory of other tasks",
    ),
    "an unknown select": (
        ("compare", "--backend", "chroma", "--scope", "tasks", "--select", "ubc", *SERVER),
        "did you mean 'ucb'",
    ),
    "control of nothing": (
        ("eval", "--backend", "chroma", "--scope", "tasks", "--control", "0.5", *SERVER),
        "would begin with none and see no new ones",
    ),
    "select of nothing": (
        ("collect", "--backend", "chroma", "--scope", "tasks", "--select", "ucb", "--out", "x", *SERVER),
        "would begin with none and see no new ones",
    ),
    "select by nothing": (
        ("eval", "--backend", "chroma", "--scope", "tasks", "--select", "ucb", "--warm", "3", *SERVER),
        "use --measure N, too",
    ),
    "measuring nothing": (
        ("compare", "--backend", "chroma", "--scope", "trial,tasks", "--measure", "3", *SERVER),
        "fill it first, with --warm",
    ),
    "measuring nothing by eval": (
        ("eval", "--backend", "chroma", "--scope", "tasks", "--measure", "3", *SERVER),
        "fill it first, with --warm",
    ),
    "all held back": (
        ("eval", "--backend", "chroma", "--scope", "tasks", "--control", "1", *SERVER),
        "must be 0, or a share of trials",
    ),
    "two fillings": (
        ("eval", "--backend", "chroma", "--scope", "tasks", "--warm", "3", "--store", ".", *SERVER),
        "exclude each other",
    ),
    "no store there": (
        ("eval", "--backend", "chroma", "--scope", "tasks", "--store", "nowhere", *SERVER),
        "nowhere is not a folder",
    ),
    "an empty store": (("eval", "--backend", "chroma", "--scope", "tasks", "--store", ".", *SERVER), "holds no memory"),
    "warm on the same tasks": (
        ("eval", "--backend", "chroma", "--scope", "tasks", "--warm", "3", "--split", "train", *SERVER),
        "train split",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_impossible_is_refused_by_name_before_any_work(cli: Cli, tmp_path: Path, name: str) -> None:
    arguments, named = REFUSED[name]
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert named in outcome.error_line
    assert "secret" not in outcome.error_line
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


def test_eval_across_tasks_begins_with_what_training_tasks_left_and_says_so(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    arguments = ("eval", "--backend", "chroma", "--scope", "tasks", "--warm", "5", "--k", "2", "--tasks", "4")
    arguments = (*arguments, "--base-url", server.url, "--out", "e")
    shown = cli(*arguments)
    assert shown.code == 0, shown.err
    said = " ".join(shown.out.split())
    assert "memory of other tasks: 2 records, filled from warm, as it was before the first trial" in said
    assert {trial["task"]["split"] for trial in read_trials(tmp_path / "e" / "warm")} == {"train"}
    warmed = {trial["trial_id"] for trial in read_trials(tmp_path / "e" / "warm")}
    for trial in read_trials(tmp_path / "e"):
        first = trial["memory_reads"][0]["keys"]
        assert len(first) == 2
        assert {key.rsplit("/", 2)[0] for key in first} <= warmed
    assert cli(*arguments, "--resume", "--json").document["config"]["visible"] == "frozen"


def test_a_filling_that_fails_is_said_and_nothing_is_evaluated(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    def lose() -> None:
        while server.calls < 1:
            time.sleep(0.001)
        server.fault = "401"

    server.delay = 0.1
    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    few = ("--tasks", "3", "--base-url", server.url, "--out", "e", "--json")
    outcome = cli("eval", "--backend", "chroma", "--scope", "tasks", "--warm", "3", *few)
    thread.join()
    assert outcome.code == 1
    assert "3 of 3 trials ended in an error" in outcome.error_line
    assert outcome.document == {"run": "e", "interrupted": True}
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["warm"]


def test_a_plain_server_is_compared_without_counts_of_tokens(cli: Cli, server: FakeServer) -> None:
    server.fault = "plain"
    few = ("--memory", "none,both", "--tasks", "3", "--max-turns", "2", "--base-url", server.url)
    outcome = cli("compare", *few, "--out", "c", "--json")
    assert outcome.code == 0
    assert [row["prompt_tokens"] for row in outcome.document["rows"]] == [None, None]
    assert outcome.document["sampling"]["top_k"] is None


def test_collect_across_tasks_takes_an_earlier_runs_memory(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    game = ("--backend", "chroma", "--scope", "tasks", "--base-url", server.url, "--json")
    assert cli("collect", "--tasks", "4", "--split", "train", "--out", "first", *game).code == 0
    made = cli("collect", "--tasks", "4", "--store", "first", "--live", "--out", "second", *game)
    assert made.code == 0, made.err
    assert read_config(tmp_path / "second")["store"] == str(tmp_path / "first")
    seen = {
        key.rsplit("/", 2)[0] for trial in read_trials(tmp_path / "second") for key in trial["memory_reads"][0]["keys"]
    }
    assert seen & {trial["trial_id"] for trial in read_trials(tmp_path / "first")}


def test_compare_across_tasks_gives_every_configuration_a_memory_of_its_own(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    arguments = (
        "compare",
        "--memory",
        "none,trajectory",
        "--backend",
        "chroma",
        "--scope",
        "trial,tasks",
        "--warm",
        "4",
    )
    outcome = cli(*arguments, "--tasks", "4", "--base-url", server.url, "--out", "c", "--json")
    assert outcome.code == 0, outcome.err
    rows = rows_of(outcome.document)
    assert list(rows) == ["none", "trajectory/chroma", "trajectory/chroma/tasks"]
    assert rows["trajectory/chroma/tasks"]["copied"] > 0
    assert rows["trajectory/chroma"]["copied"] == 0
    assert "filled from warm, as it was before the first trial" in (tmp_path / "c" / "compare.md").read_text()


def test_compare_measures_what_records_are_worth_before_it_selects_by_it(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    arguments = ("compare", "--memory", "reflection", "--backend", "chroma", "--scope", "tasks")
    selects = ("--select", "similar,value", "--warm", "4", "--measure", "3", "--tasks", "4")
    outcome = cli(*arguments, *selects, "--base-url", server.url, "--out", "c", "--json")
    assert outcome.code == 0, outcome.err
    assert list(rows_of(outcome.document)) == ["reflection/chroma/tasks", "reflection/chroma/tasks/value"]
    for name in ("reflection-chroma-tasks", "reflection-chroma-tasks-value"):
        measured = list(read_trials(tmp_path / "c" / name / "measured"))
        assert len(measured) == 12
        assert sum(any(read.get("held") for read in trial["memory_reads"]) for trial in measured) == 6
        filled = {trial["task"]["id"] for trial in read_trials(tmp_path / "c" / name / "warm")}
        assert not filled & {trial["task"]["id"] for trial in measured}
        found = cli("memory", "top", tmp_path / "c" / name / "measured", "--json").document["found"]
        assert found
        assert all(one["value"]["controlled"] and one["value"]["shown"] for one in found)
    shown = cli("memory", "top", tmp_path / "c" / name / "measured", "--worst")
    assert shown.code == 0
    assert "seen by" in shown.out
    assert "of the highest value, filled from measured" in (tmp_path / "c" / "compare.md").read_text()


def test_a_server_lost_during_a_comparison_is_a_failure_that_resume_makes_good(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    def lose() -> None:
        while server.calls < 60:
            time.sleep(0.002)
        server.fault = "401"

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    arguments = ("compare", "--memory", "none,both", "--tasks", "12", "--concurrency", "2", "--base-url", server.url)
    arguments = (*arguments, "--out", "c", "--json")
    outcome = cli(*arguments)
    thread.join()
    assert outcome.code == 1
    assert "PolicyAuthError" in outcome.err or "refused the credentials" in outcome.err
    assert not (tmp_path / "c" / "compare.json").exists()
    server.fault = ""
    resumed = cli(*arguments, "--resume")
    assert resumed.code == 0, resumed.err
    assert [(row["trials"], row["failed_trials"]) for row in resumed.document["rows"]] == [(12, 0), (12, 0)]


def test_without_matplotlib_there_are_tables_and_a_word_about_the_chart(
    cli: Cli, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = cli("compare", "--memory", "none,both", "--tasks", "2", "--base-url", server.url, "--out", "c")
    assert outcome.code == 0
    assert "lamer-graph[viewer]" in outcome.out
    written = {path.name for path in (tmp_path / "c").iterdir() if path.is_file()}
    assert written == {"compare.md", "compare.csv", "compare.json"}
