"""`lamer-graph collect` and `log`: run folders, damaged logs, signals, full disks. Exit codes 0 done, 1 failed."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli, Outcome, ended, keys, started
from fake_server import MODEL, FakeServer, fake_server
from lamer_graph import RunLog, TrialRecorder, create_lamer_agent
from lamer_graph.runlog import check, read_config, read_trials
from lamer_graph.serving.vllm import VllmServer
from sampled_model import Sampled

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


def test_a_resume_without_a_run_says_that_it_starts_one(cli: Cli, server: FakeServer) -> None:
    command = ("collect", "--out", "r", "--tasks", 1, "--base-url", server.url, "--resume")
    outcome = cli(*command)
    assert outcome.code == 0
    assert "note: no run in r yet: starting one" in outcome.out
    assert "starting one" not in cli(*command).out
    ev = cli("eval", "--out", "e", "--tasks", 1, "--base-url", server.url, "--resume")
    assert "note: no run in e yet: starting one" in ev.out


def test_a_server_that_says_no_window_is_not_collected_from_and_says_what_to_do(cli: Cli, server: FakeServer) -> None:
    server.fault = "plain"
    outcome = collected(cli, server)
    assert outcome.code == 2
    assert "returns no token ids and cannot be collected from" in outcome.error_line
    assert "lamer-graph serve --policy DIR" in outcome.error_line


def test_the_papers_sampling_is_refused_by_a_server_that_lacks_top_k(cli: Cli, server: FakeServer) -> None:
    server.fault = "plain"
    command = ("eval", "--out", "e", "--tasks", 1, "--base-url", server.url)
    outcome = cli(*command, "--sampling", "paper")
    assert outcome.code != 0
    assert "top_k 20 cannot be had from this server; use top_k 0 (--sampling train)" in outcome.error_line
    assert "min_p" not in outcome.error_line
    assert cli(*command).code == 0


def test_a_server_without_a_system_role_is_played_and_noted_so(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    server.fault = "plain, no system"
    command = ("eval", "--out", "e", "--tasks", 2, "--base-url", server.url)
    assert cli(*command).code == 0
    assert json.loads((tmp_path / "e/run.json").read_text())["rendered"] == {"template": {}, "folded": True}
    assert cli(*command, "--resume").code == 0


def test_a_run_of_known_template_arguments_does_not_go_on_with_unknown_ones(
    cli: Cli, server: FakeServer, tmp_path: Path
) -> None:
    told = ("--template", "enable_thinking=false")
    assert collected(cli, server, *told).code == 0
    assert json.loads((tmp_path / "r/run.json").read_text())["rendered"]["template"] == {"enable_thinking": False}
    outcome = collected(cli, server, "--resume")
    assert outcome.code == 2
    assert "were rendered with enable_thinking=false, and what the policy here renders" in outcome.error_line
    assert "there" in collected(cli, server, "--resume", "--template", "enable_thinking=true").error_line
    assert collected(cli, server, "--resume", *told).code == 0


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


def test_a_log_without_tokens_is_valid_and_said_to_train_nothing(cli: Cli, tmp_path: Path) -> None:
    with RunLog.create(tmp_path / "r", {}) as log:
        agent = create_lamer_agent(Sampled(), "minesweeper:4x4-3", max_turns=1, recorder=TrialRecorder(log))
        agent.invoke({"task": {"seed": 1}})
    checked = cli("log", "check", "r")
    assert checked.code == 0
    assert "valid; nothing in it can be trained on: no tokens were logged" in " ".join(checked.out.split())
    assert "cannot be trained on" not in cli("log", "check", "--help").out


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
