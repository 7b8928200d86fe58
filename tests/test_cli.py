"""The command line: what it refuses, what it survives, what it prints. Exit codes 0 done, 2 refused, 1 failed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_server import MODEL, FakeServer, fake_server

from lamer_graph.cli import main
from lamer_graph.runlog import check, read_config, read_trials
from lamer_graph.serve import INSTALL_HINT, VllmServer, vllm_flavour
from lamer_graph.supervisor import descendants


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What `--json` printed: exactly one JSON document."""
        return json.loads(self.out)

    @property
    def error_line(self) -> str:
        """The one line on stderr."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("lamer-graph: ")
        assert "Traceback" not in self.err
        return self.err.strip()


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAMER_API_KEY", raising=False)

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as leave:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(int(leave.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


def keys(run: Path) -> list[tuple[str, int]]:
    return sorted((trial["task"]["id"], trial["trial"]) for trial in read_trials(run))


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
        assert "exists already" in outcome.error_line
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


# -- run folders and logs ---------------------------------------------------------------------------------------------


def collected(cli: Cli, server: FakeServer, *more: object, tasks: int = 4) -> Outcome:
    return cli("collect", "--out", "r", "--tasks", tasks, "--base-url", server.url, "--json", *more)


def test_collect_logs_exactly_what_was_asked_for(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    outcome = collected(cli, server, "--trials", "2")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.document["finished"] == 8
    logged = keys(tmp_path / "r")
    assert len(set(logged)) == len(logged) == 8
    assert check(tmp_path / "r").ok
    assert read_config(tmp_path / "r")["policy"] == MODEL


def test_workers_play_the_same_trials_as_one_process(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    assert collected(cli, server).code == 0
    (tmp_path / "r").rename(tmp_path / "alone")
    outcome = collected(cli, server, "--workers", "2")
    assert outcome.code == 0
    assert outcome.document["finished"] == 4

    def played(run: Path) -> dict[str, Any]:
        return {
            trial["trial_id"]: [[turn["action"] for turn in episode["turns"]] for episode in trial["episodes"]]
            for trial in read_trials(run)
        }

    assert played(tmp_path / "r") == played(tmp_path / "alone")


def test_a_worker_that_fails_is_reported_once(cli: Cli, tmp_path: Path) -> None:
    with fake_server() as server:
        assert collected(cli, server).code == 0
        log = tmp_path / "r" / "trials.jsonl"
        log.write_bytes(log.read_bytes() + b"{}\n{}\n")
        outcome = collected(cli, server, "--workers", "2", "--resume")
    assert outcome.code == 2
    assert "line 5" in outcome.error_line


def test_a_folder_with_another_configuration_is_refused_and_left_alone(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    collected(cli, server)
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    outcome = collected(cli, server, "--memory", "none", "--resume")
    assert outcome.code == 2
    assert "contents" in outcome.error_line
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before


def test_a_finished_run_is_not_started_again_without_resume(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    collected(cli, server)
    before = (tmp_path / "r" / "trials.jsonl").read_bytes()
    refused = collected(cli, server)
    assert refused.code == 2
    assert "--resume" in refused.error_line
    resumed = collected(cli, server, "--resume")
    assert resumed.code == 0
    assert (resumed.document["already"], resumed.document["finished"]) == (4, 0)
    assert (tmp_path / "r" / "trials.jsonl").read_bytes() == before


def test_an_unwritable_folder_is_refused(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    outcome = cli("collect", "--out", "file/run", "--base-url", server.url)
    assert outcome.code == 2
    assert "file/run" in outcome.error_line
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_torn_last_line_is_reported_then_dropped_and_its_trial_played_again(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    collected(cli, server)
    log = tmp_path / "r" / "trials.jsonl"
    complete = keys(tmp_path / "r")
    log.write_bytes(log.read_bytes()[:-50])
    checked = cli("log", "check", "r", "--json")
    assert checked.code == 0
    assert checked.document["torn_bytes"] > 0
    resumed = collected(cli, server, "--resume")
    assert resumed.code == 0
    assert (resumed.document["already"], resumed.document["finished"]) == (3, 1)
    assert keys(tmp_path / "r") == complete


def test_a_log_of_a_newer_schema_is_refused_and_left_alone(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    collected(cli, server)
    log = tmp_path / "r" / "trials.jsonl"
    first, rest = log.read_text().split("\n", 1)
    log.write_text(json.dumps({**json.loads(first), "schema_version": 99}) + "\n" + rest)
    before = log.read_bytes()
    outcome = collected(cli, server, "--resume")
    assert outcome.code == 2
    assert "99" in outcome.error_line
    checked = cli("log", "check", "r")
    assert checked.code == 1
    assert "99" in checked.error_line
    assert log.read_bytes() == before


def test_a_damaged_line_is_named_by_log_check(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    collected(cli, server)
    log = tmp_path / "r" / "trials.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    lines[1] = lines[1][:100] + "\n"
    log.write_text("".join(lines))
    outcome = cli("log", "check", "r", "--json")
    assert outcome.code == 1
    assert "line 2" in outcome.error_line
    assert outcome.document["ok"] is False


def test_log_export_writes_a_row_per_policy_call(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    from datasets import load_dataset

    collected(cli, server)
    outcome = cli("log", "export", "r", "--json")
    assert outcome.code == 0
    table = load_dataset("parquet", data_files=outcome.document["out"], cache_dir=str(tmp_path / "cache"))["train"]
    assert len(table) == outcome.document["rows"] == check(tmp_path / "r").calls


# -- real processes: signals, full disks ------------------------------------------------------------------------------


def started(tmp_path: Path, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lamer_graph.cli", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def ended(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=60)
    return Outcome(process.returncode, out, err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_leaves_a_whole_log_and_resume_plays_the_rest(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    with fake_server(delay=0.02) as server:
        arguments = ("collect", "--out", "r", "--tasks", "40", "--max-turns", "2", "--concurrency", "2")
        arguments = (*arguments, "--workers", workers, "--base-url", server.url, "--json")
        process = started(tmp_path, *arguments, start_new_session=True)
        log = tmp_path / "r" / "trials.jsonl"
        deadline = time.monotonic() + 60
        while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        outcome = ended(process)
        assert outcome.code == 1
        assert "--resume" in outcome.error_line
        assert outcome.document["interrupted"]
        report = check(tmp_path / "r")
        assert report.ok
        assert not report.torn_bytes
        assert 0 < report.trials < 40
        server.delay = 0.0
        resumed = ended(started(tmp_path, *arguments, "--resume"))
    assert resumed.code == 0
    assert resumed.document["already"] == report.trials
    logged = keys(tmp_path / "r")
    assert len(set(logged)) == len(logged) == 40


def test_a_disk_that_fills_up_is_a_failure_and_the_log_can_be_resumed(tmp_path: Path, server: FakeServer) -> None:
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    arguments = ("collect", "--out", "r", "--tasks", "20", "--max-turns", "2", "--base-url", server.url)
    outcome = ended(started(tmp_path, *arguments, preexec_fn=small_disk))
    assert outcome.code == 1
    assert "trials.jsonl" in outcome.error_line
    report = check(tmp_path / "r")
    assert report.ok
    assert 0 < report.trials < 20
    resumed = ended(started(tmp_path, *arguments, "--resume"))
    assert resumed.code == 0
    assert len(set(keys(tmp_path / "r"))) == 20


# -- what people and machines see -------------------------------------------------------------------------------------


def test_play_shows_board_action_reflection_and_memory(cli: Cli, server: FakeServer) -> None:
    outcome = cli("play", "--base-url", server.url, "--task", "1")
    assert outcome.code == 0
    document = cli("play", "--base-url", server.url, "--task", "1", "--json").document
    assert not document["episodes"][0]["success"]
    for text in ("episode 1 of 3", "episode 2 of 3", "turn 1", "reflects", "remembers", *document["reflections"]):
        assert text in outcome.out
    for episode in document["episodes"]:
        for turn in episode["turns"]:
            assert turn["action"] in outcome.out
    assert document["memory_reads"][1] == document["reflections"][:1]


def test_play_does_not_let_a_policy_steer_the_terminal(cli: Cli, server: FakeServer) -> None:
    server.answer = "\x1b[2J\x07[bold]I am the referee[/] you won"
    outcome = cli("play", "--base-url", server.url, "--max-turns", "1", "--episodes", "2")
    assert outcome.code == 0
    assert "[bold]I am the referee[/]" in outcome.out
    assert not {"\x1b", "\x07"} & set(outcome.out)


def test_eval_reports_intervals_and_the_sampling_they_were_made_with(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    arguments = ("eval", "--tasks", "20", "--sampling", "paper", "--base-url", server.url, "--out", "e")
    shown = cli(*arguments)
    assert shown.code == 0
    assert "temperature 0.7, top-p 0.8, top-k 20" in " ".join(shown.out.split())
    document = cli(*arguments, "--resume", "--json").document
    assert document["sampling"]["top_k"] == 20
    values = [estimate["value"] for estimate in document["pass_at"]]
    assert values == sorted(values)
    successes = [trial["success"] for trial in read_trials(tmp_path / "e")]
    assert values[-1] == pytest.approx(sum(successes) / len(successes))
    for estimate in document["pass_at"]:
        assert estimate["low"] <= estimate["value"] <= estimate["high"]


def test_shuffled_reflections_are_recorded_as_another_run(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    arguments = ("eval", "--tasks", "6", "--base-url", server.url, "--out", "e")
    assert cli(*arguments, "--shuffle-reflections").code == 0
    assert read_config(tmp_path / "e")["shuffle_reflections"] is True
    refused = cli(*arguments, "--resume")
    assert refused.code == 2
    assert "shuffle_reflections" in refused.error_line


def test_eval_without_a_single_finished_trial_says_why(cli: Cli, server: FakeServer) -> None:
    def lose() -> None:
        while server.calls < 1:
            time.sleep(0.001)
        server.fault = "401"

    server.delay = 0.1
    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    outcome = cli("eval", "--tasks", "3", "--base-url", server.url, "--out", "e")
    thread.join()
    assert outcome.code == 1
    assert "all 3 trials" in outcome.error_line
    assert "credentials" in outcome.error_line


# -- quickstart -------------------------------------------------------------------------------------------------------


def check_quickstart(document: Any, tasks: int) -> None:
    assert set(document["modes"]) == {"none", "trajectory", "reflection", "both", "reflection, shuffled"}
    for evaluation in document["modes"].values():
        assert evaluation["tasks"] == tasks
        assert len(evaluation["pass_at"]) == 3
    assert document["logs_valid"] is True
    assert 1 <= len(document["trial"]["episodes"]) <= 3
    first = [evaluation["pass_at"][0]["value"] for evaluation in document["modes"].values()]
    assert len(set(first)) == 1, "the first episode has no memory, so every mode plays it alike"


def test_quickstart_in_this_process_plays_every_memory_mode_and_leaves_valid_logs(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("quickstart", "--local", "--tasks", "4", "--out", "q", "--json")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.document["base_url"] is None
    check_quickstart(outcome.document, 4)
    assert len(keys(tmp_path / "q" / "reflection-shuffled")) == 4


@pytest.mark.slow
def test_quickstart_on_a_real_server_logs_what_it_answered_and_ends_it(cli: Cli, tmp_path: Path) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    outcome = cli("quickstart", "--tasks", "4", "--out", "q", "--json")
    assert outcome.code == 0
    check_quickstart(outcome.document, 4)
    gone = cli("play", "--base-url", outcome.document["base_url"])
    assert gone.code == 2
    assert "cannot reach" in gone.error_line


# -- a real vLLM ------------------------------------------------------------------------------------------------------


def test_collect_and_eval_play_on_a_real_vllm_and_the_log_has_its_tokens(
    cli: Cli, vllm_server: VllmServer, tmp_path: Path
) -> None:
    game = ("--tasks", "4", "--max-turns", "2", "--max-tokens", "8", "--base-url", vllm_server.base_url)
    outcome = cli("collect", *game, "--out", "r", "--json")
    assert outcome.code == 0, outcome.err
    report = check(tmp_path / "r")
    assert report.ok
    assert report.trials == 4
    assert report.calls == report.policy_versions[vllm_server.model_name] > 0
    assert report.untrainable_calls == 0
    assert report.tokens > 0
    assert cli("eval", *game, "--out", "e").code == 0


@pytest.mark.slow
def test_serve_answers_until_it_is_told_to_stop_and_leaves_no_process(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path
) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    process = started(tmp_path, "serve", "--policy", tiny_model_dir, "--port", "0", "--run", "s", "--json")
    assert process.stdout is not None
    document = json.loads(process.stdout.readline())
    assert document["model"] == tiny_model_dir.name
    assert Path(document["log"]) == tmp_path / "s" / "server.log"
    played = cli("play", "--base-url", document["base_url"], "--max-turns", "1", "--max-tokens", "8", "--json")
    assert played.code == 0, played.err
    children = descendants(process.pid)
    assert len(children) >= 2
    process.send_signal(signal.SIGTERM)
    outcome = ended(process)
    assert outcome == Outcome(0, "", "")
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


# -- doctor and warmup ------------------------------------------------------------------------------------------------


def test_doctor_prints_findings_for_people_and_machines_and_fails_if_something_is_broken(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamer_graph import doctor

    monkeypatch.setattr(doctor, "HEAVY", ())
    healthy = cli("doctor", "--json")
    assert healthy.code == 0, healthy.document
    assert {check["name"] for check in healthy.document["checks"]} >= {"python", "core packages", "machine"}
    monkeypatch.setattr(doctor, "HEAVY", (("rich", ("rich",), "import no_such_module", "train"),))
    broken = cli("doctor")
    assert broken.code == 1
    assert "no_such_module" in broken.out
    assert "make setup" in broken.out


@pytest.mark.slow
def test_warmup_makes_a_policy_that_plays_and_says_which_gates_it_missed(cli: Cli, tmp_path: Path) -> None:
    made = cli("warmup", "--out", "p", "--minutes", "0.1", "--json")
    assert made.code == (0 if made.document["passed"] else 1)
    assert {gate["name"] for gate in made.document["gates"]} >= {"valid actions", "pass@1"}
    played = cli("eval", "--policy", "p", "--tasks", "5", "--out", "e", "--json")
    assert played.code == 0
    assert read_config(tmp_path / "e")["prompt_style"] == "compact"
