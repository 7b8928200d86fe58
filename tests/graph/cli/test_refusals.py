"""What the command line refuses before any work (exit code 2), and that it says so in one line."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from command_line import Cli
from fake_server import MODEL, FakeServer, fake_server
from lamer_graph.runlog import check, read_trials

# -- bad input --------------------------------------------------------------------------------------------------------

SERVER = ("--base-url", "http://127.0.0.1:9")

BAD_INPUT: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown environment": (("collect", "--out", "r", "--env", "minesweper:4x4-3", *SERVER), "'minesweeper'"),
    "malformed parameters": (("collect", "--out", "r", "--env", "minesweeper:4y4", *SERVER), "SIZExSIZE-MINES"),
    "impossible parameters": (("eval", "--env", "minesweeper:4x4-99", *SERVER), "mines"),
    "malformed sokoban": (("play", "--env", "sokoban:huge", *SERVER), "sokoban"),
    "no episodes": (("play", "--episodes", "0", *SERVER), "--episodes"),
    "no tasks": (("collect", "--out", "r", "--tasks", "0", *SERVER), "--tasks"),
    "no trials": (("collect", "--out", "r", "--trials", "0", *SERVER), "--trials"),
    "no turns": (("eval", "--max-turns", "0", *SERVER), "--max-turns"),
    "negative concurrency": (("collect", "--out", "r", "--concurrency", "-1", *SERVER), "--concurrency"),
    "no workers": (("collect", "--out", "r", "--workers", "0", *SERVER), "--workers"),
    "not a number": (("collect", "--out", "r", "--tasks", "many", *SERVER), "--tasks"),
    "no timeout": (("play", "--timeout", "0", *SERVER), "--timeout"),
    "a timeout in this process": (("play", "--timeout", "60"), "--timeout is for a server"),
    "a resume of nothing": (("eval", "--resume", *SERVER), "--resume needs --out"),
    "a resume of no comparison": (("compare", "--resume", *SERVER), "--resume needs --out"),
    "concurrency where all is open": (
        ("eval", "--shuffle-reflections", "--concurrency", "3", *SERVER),
        "all trials are open at once",
    ),
    "a place for nothing": (("eval", "--memory", "none", "--backend", "chroma", *SERVER), "nothing is remembered"),
    "a place for nothing, collected": (
        ("collect", "--out", "r", "--memory", "none", "--backend", "chroma", *SERVER),
        "nothing is remembered",
    ),
    "a collection of a store without": (
        ("memory", "stats", "postgresql://nobody@127.0.0.1/x", "--collection", "mine"),
        "--collection is Chroma's",
    ),
    "unknown memory": (("play", "--memory", "telepathy", *SERVER), "reflection"),
    "unknown sampling": (("eval", "--sampling", "greedy", *SERVER), "paper"),
    "unknown option": (("play", "--episode", "3"), "--episodes"),
    "unknown command": (("colect",), "collect"),
    "missing command": (("log",), "command"),
    "missing option": (("collect", *SERVER), "--out"),
    "policy is no folder": (("play", "--policy", "nowhere"), "nowhere"),
    "policy is an empty folder": (("play", "--policy", "."), "config.json"),
    "two policies": (("play", "--policy", ".", *SERVER), "exclude each other"),
    "model without server": (("play", "--model", "x"), "--base-url"),
    "address without a scheme": (("play", "--base-url", "localhost:8000"), "http://host:port/v1"),
    "no shipped policy": (("play", "--env", "minesweeper:9x9-10"), "--policy"),
    "shuffling in several workers": (
        ("eval", "--shuffle-reflections", "--workers", "2", *SERVER),
        "--workers 1",
    ),
    "no log": (("log", "check", "nowhere"), "nowhere"),
    "no log to export": (("log", "export", "nowhere"), "nowhere"),
    "port out of range": (("serve", "--policy", ".", "--port", "-3"), "--port"),
    "serving nothing": (("serve", "--policy", "nowhere"), "nowhere"),
    "warm start for nothing": (("warmup", "--out", "p", "--env", "tictactoe"), "tictactoe"),
    "warm start of no model": (("warmup", "--out", "p", "--policy", "nowhere"), "no model at nowhere"),
    "all weights of nothing": (("warmup", "--out", "p", "--full"), "--full is for a given model"),
    "all weights and an adapter": (
        ("warmup", "--out", "p", "--policy", "nowhere", "--full", "--lora-rank", "8"),
        "exclude each other",
    ),
    "an unknown style": (("warmup", "--out", "p", "--policy", "nowhere", "--prompt-style", "poetic"), "poetic"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_refused_in_one_line_before_any_work(cli: Cli, tmp_path: Path, name: str) -> None:
    arguments, named = BAD_INPUT[name]
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert named in outcome.error_line
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_split_is_refused(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    outcome = cli("collect", "--out", "r", "--split", "holdout", "--base-url", server.url)
    assert outcome.code == 2
    assert "train" in outcome.error_line
    assert not (tmp_path / "r").exists()


def test_serving_beyond_this_machine_needs_a_key(cli: Cli, tiny_model_dir: Path) -> None:
    outcome = cli("serve", "--policy", tiny_model_dir, "--host", "0.0.0.0")
    assert outcome.code == 2
    assert "API key" in outcome.error_line


def test_a_malformed_adapter_is_refused(cli: Cli, tiny_model_dir: Path) -> None:
    outcome = cli("serve", "--policy", tiny_model_dir, "--adapter", "policy-v0001")
    assert outcome.code == 2
    assert "NAME=DIR" in outcome.error_line


def test_a_policy_is_never_overwritten(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "model.safetensors").write_text("precious")
    for command in ("warmup", "quickstart"):
        outcome = cli(command, "--out", "p")
        assert outcome.code == 2
        assert "exists" in outcome.error_line
    assert (tmp_path / "p" / "model.safetensors").read_text() == "precious"


def test_refusals_are_json_documents_for_machines(cli: Cli) -> None:
    for arguments in (("play", "--policy", "nowhere"), ("play", "--episodes", "0")):
        outcome = cli(*arguments, "--json")
        assert outcome.code == outcome.document["exit_code"] == 2
        assert outcome.error_line.removeprefix("lamer-graph: ") == outcome.document["error"]


def test_only_debug_shows_a_traceback(cli: Cli) -> None:
    outcome = cli("play", "--policy", "nowhere", "--debug")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert "ConfigError" in outcome.err


# -- servers that misbehave -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", "refused the credentials"),
        ("500", "500"),
        ("hang", "did not answer within"),
        ("garbage", "/v1/models"),
        ("chat 500", "500"),
        ("chat hang", "did not answer within"),
        ("no token ids", "token ids"),
        ("another model", "somebody-else"),
    ],
)
def test_a_faulty_server_is_a_refusal_that_names_it_within_20_s(
    cli: Cli, tmp_path: Path, fault: str, said: str
) -> None:
    with fake_server(fault) as server:
        started = time.monotonic()
        outcome = cli("collect", "--out", "r", "--tasks", "2", "--base-url", server.url, "--timeout", "3")
        assert time.monotonic() - started < 20
    assert outcome.code == 2
    assert said in outcome.error_line
    assert server.url in outcome.error_line
    assert not (tmp_path / "r").exists()


def test_a_server_that_is_not_there_is_a_refusal_that_names_it(cli: Cli, tmp_path: Path) -> None:
    with fake_server() as server:
        gone = server.url
    outcome = cli("collect", "--out", "r", "--base-url", gone)
    assert outcome.code == 2
    assert gone in outcome.error_line
    assert not (tmp_path / "r").exists()


def test_a_model_that_is_not_served_is_a_refusal_that_names_those_that_are(cli: Cli, server: FakeServer) -> None:
    outcome = cli("play", "--base-url", server.url, "--model", "gpt-0")
    assert outcome.code == 2
    assert MODEL in outcome.error_line


def test_a_context_shorter_than_the_prompt_is_refused_and_the_error_says_by_how_much(cli: Cli, tmp_path: Path) -> None:
    with fake_server(context=64) as server:
        outcome = cli("collect", "--out", "r", "--base-url", server.url)
    assert outcome.code == 2
    line = outcome.error_line
    needs, more, budget = [int(word) for word in line.replace(",", " ").split() if word.isdigit()][:3]
    assert needs - budget == more > 0
    assert "64" in line
    assert not (tmp_path / "r").exists()


def test_a_server_lost_during_the_run_is_a_failure_and_the_log_keeps_what_was_played(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    def lose() -> None:
        while server.calls < 60:
            time.sleep(0.005)
        server.fault = "401"

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    arguments = ("collect", "--out", "r", "--tasks", "30", "--concurrency", "4", "--base-url", server.url)
    outcome = cli(*arguments)
    thread.join()
    assert outcome.code == 1
    assert "PolicyAuthError" in outcome.error_line
    report = check(tmp_path / "r")
    assert report.ok
    assert 0 < report.failed_trials < report.trials
    server.fault = ""
    resumed = cli(*arguments, "--resume", "--json")
    assert resumed.code == 0
    assert resumed.document["finished"] == report.failed_trials
    assert len({(trial["task"]["id"]) for trial in read_trials(tmp_path / "r") if trial["error"] is None}) == 30
