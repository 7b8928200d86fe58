"""What text from elsewhere, and numbers that JSON has no form for, do to what a command says: nothing."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import orjson
import pytest
import typer
from rich.console import Console

from command_line import Cli
from lamer_graph.cli.frame import Json, Ui, command, describe
from lamer_graph.cli.render import conditions
from lamer_graph.cli.shown import one_line
from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import LamerError
from lamer_graph.evaluation.evaluate import evaluate
from lamer_graph.runlog import RunLog
from log_samples import a_trial
from scripted import ScriptedPolicy, random_player


def test_an_error_does_not_steer_the_terminal() -> None:
    said = describe(LamerError("the server says \x1b[2J\x07\x9b2J\nnothing"))
    assert said.isprintable()
    assert said.startswith("the server says")
    assert len(one_line("x" * 10_000)) < 700


def test_a_log_does_not_steer_the_terminal_that_it_is_checked_in(cli: Cli, tmp_path: Path) -> None:
    trial = a_trial()
    trial["episodes"][0]["turns"][0]["call"]["policy_version"] = "v1\x1b[2J"
    RunLog.create(tmp_path / "r", {}).close()
    lines = [trial, trial, {**a_trial(index=1), "more\x1b[2J": 1}]
    (tmp_path / "r" / "trials.jsonl").write_bytes(
        b"".join(orjson.dumps({"schema_version": 1, **one}) + b"\n" for one in lines)
    )
    outcome = cli("log", "check", "r")
    assert outcome.code == 1
    assert "v1" in outcome.out
    assert "\x1b" not in outcome.out + outcome.err


def test_a_servers_name_for_its_model_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CollectConfig(env="minesweeper:4x4-3", policy="[/bold]m[red]\x1b", tasks=1)
    found, _ = asyncio.run(evaluate(config, ScriptedPolicy(random_player), tmp_path / "e"))
    Console(width=200).print(conditions(found))
    assert "policy [/bold]m[red]\N{REPLACEMENT CHARACTER};" in capsys.readouterr().out


def test_a_document_that_is_no_json_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @command(app, "measure", examples=[])
    def measure(ui: Ui) -> Json:
        """Measure."""
        ui.working()
        return {"loss": math.nan}

    assert app(["--json"], standalone_mode=False) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["exit_code"] == 1
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


def test_an_export_without_its_libraries_says_how_to_get_them(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunLog.create(tmp_path / "r", {}).close()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = cli("log", "export", "r")
    assert outcome.code == 2
    assert "log export needs datasets: run `make setup`" in outcome.error_line


def test_progress_reaches_the_log_of_a_job_and_passing_words_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Ui(json=False, debug=False)
    ui.note("reading")
    ui.tell("fitting 8/16 rows\x1b[2J")
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("fitting 8/16 rows")
    assert said.err.count("\n") == 1
    assert "\x1b" not in said.err
    Ui(json=True, debug=False).tell("fitting 8/16 rows")
    assert not capsys.readouterr().err
