"""What `play`, `eval`, `quickstart`, `serve`, `doctor` and `warmup` show to people and machines."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli, Outcome, ended, keys, started
from fake_server import FakeServer
from lamer_envs import make
from lamer_envs.alfworld.house import house
from lamer_graph.runlog import RunLog, read_config, read_trials
from lamer_graph.serving.supervisor import descendants
from lamer_graph.serving.vllm import INSTALL_HINT, vllm_flavour
from log_samples import a_trial

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


def test_play_without_memory_shows_every_episode_too(cli: Cli, server: FakeServer) -> None:
    game = ("play", "--base-url", server.url, "--memory", "none", "--max-turns", "1", "--episodes", "3")
    outcome = cli(*game)
    assert [number for number in (1, 2, 3) if f"episode {number} of 3" in outcome.out] == [1, 2, 3]
    assert cli(*game, "--json").document["memory_reads"] == [[], [], []]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_text_that_a_terminal_cannot_show_is_escaped(tmp_path: Path, encoding: str) -> None:
    with RunLog.create(tmp_path / "r\udcff\u00e9", {"a": 1}) as log:
        log.append(a_trial())
    outcome = ended(
        started(tmp_path, "log", "check", "r\udcff\u00e9", env={**os.environ, "PYTHONIOENCODING": encoding})
    )
    assert outcome.code == 0, outcome.err
    assert "r\\udcff" in outcome.out
    assert "the log is valid" in outcome.out


def test_play_does_not_let_a_policy_steer_the_terminal(cli: Cli, server: FakeServer) -> None:
    server.answer = "\x1b[2J\x07[bold]I am the referee[/] you won"
    outcome = cli("play", "--base-url", server.url, "--max-turns", "1", "--episodes", "2")
    assert outcome.code == 0
    assert "[bold]I am the referee[/]" in outcome.out
    assert not {"\x1b", "\x07"} & set(outcome.out)


@pytest.mark.parametrize("spec", ["minesweeper", "sokoban", "webshop:50", "alfworld"])
def test_play_shows_an_experts_game_in_every_environment(cli: Cli, server: FakeServer, spec: str) -> None:
    env = make(spec)
    state = env.reset(next(env.seeds("test")))
    plan = env.solve(state)
    assert plan
    coming = iter([plan[0], *plan])  # the first call only tries whether the server answers
    server.player = lambda messages, sampling: f"<action>{next(coming)}</action>"
    outcome = cli("play", "--env", spec, "--base-url", server.url)
    assert outcome.code == 0, outcome.err
    shown = " ".join(outcome.out.replace("\u2502", " ").split())
    assert f"turn {len(plan)}" in shown
    assert "won in" in shown
    assert "solved in episode 1" in shown


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (("--split", "ood"), {"cool", "pick2"}),
        (("--split", "test"), {"pick", "look", "clean", "heat"}),
        (("--tasks-type", "cool"), {"cool"}),
        (("--tasks-type", "cool", "--split", "ood"), {"cool"}),
    ],
)
def test_eval_plays_the_task_types_that_are_asked_for(
    cli: Cli, server: FakeServer, tmp_path: Path, options: tuple[str, ...], kinds: set[str]
) -> None:
    server.answer = "<action>look</action>"
    few = ("--tasks", "24", "--max-turns", "1", "--episodes", "1", "--memory", "none")
    outcome = cli("eval", "--env", "alfworld", "--base-url", server.url, "--out", "e", *few, *options)
    assert outcome.code == 0, outcome.err
    env = make(read_config(tmp_path / "e")["env"])
    assert {house(env.reset(trial["task"]["seed"])["house"]).kind for trial in read_trials(tmp_path / "e")} == kinds


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


def test_the_printed_sampling_is_what_was_sent_and_unknown_where_the_server_does_not_take_it(
    cli: Cli, server: FakeServer
) -> None:
    few = ("--tasks", "3", "--max-turns", "2", "--base-url", server.url)
    shown = cli("eval", *few, "--out", "vllm")
    assert "temperature 1, top-p 1, top-k 0, seed 0; " in " ".join(shown.out.split())
    assert {name: server.asked[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")} == {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    server.fault = "plain"
    for workers in (1, 2):
        arguments = ("eval", *few, "--out", f"plain-{workers}", "--workers", workers)
        shown = cli(*arguments)
        assert shown.code == 0
        said = "temperature 1, top-p 1, top-k unknown, seed 0, min-p unknown, repetition-penalty unknown; "
        assert said in " ".join(shown.out.split())
        sampling = cli(*arguments, "--resume", "--json").document["sampling"]
        assert (sampling["temperature"], sampling["top_k"], sampling["min_p"]) == (1.0, None, None)
    shown = cli("play", "--max-turns", "1", "--base-url", server.url)
    assert "top-k unknown" in " ".join(shown.out.split())
    refused = cli("eval", *few, "--out", "paper", "--sampling", "paper")
    assert refused.code == 2
    assert "top_k 20 cannot be had from this server; use top_k 0 (--sampling train)" in refused.error_line


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


BEFORE = ("none", "trajectory", "reflection", "both", "reflection, shuffled")
AFTER = ("trained, none", "trained, reflection", "trained, reflection, shuffled")


def check_quickstart(document: Any, tasks: int, updates: int) -> None:
    assert set(document["modes"]) == {*BEFORE, *(AFTER if updates else ())}
    for evaluation in document["modes"].values():
        assert evaluation["tasks"] == tasks
        assert len(evaluation["pass_at"]) == 3
    assert document["logs_valid"] is True
    assert 1 <= len(document["trial"]["episodes"]) <= 3
    for names in (BEFORE, *([AFTER] if updates else [])):
        first = [document["modes"][name]["pass_at"][0]["value"] for name in names]
        assert len(set(first)) == 1, "the first episode has no memory, so every mode plays it alike"
    if updates:
        assert document["training"]["updates"] == updates
        plots = [Path(plot) for plot in document["training"]["plots"]]
        assert {plot.suffix for plot in plots if plot.is_file()} == {".png", ".svg"}


def test_quickstart_in_this_process_plays_every_memory_mode_and_leaves_valid_logs(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("quickstart", "--local", "--tasks", "4", "--updates", "0", "--out", "q", "--json")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.document["base_url"] is None
    assert outcome.document["training"] is None
    check_quickstart(outcome.document, 4, 0)
    assert len(keys(tmp_path / "q" / "reflection-shuffled")) == 4


def test_quickstart_trains_an_adapter_and_plays_with_it(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("quickstart", "--local", "--tasks", "4", "--updates", "1", "--out", "q")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    for text in ("Meta-RL", "1/1", "What training bought", "before, none", "after, reflection", "plot:", "valid"):
        assert text in outcome.out
    adapter = tmp_path / "q" / "training" / "adapter"
    played = cli("eval", "--policy", adapter, "--tasks", "2", "--json").document
    assert played["config"]["policy"] == "adapter"
    assert played["config"]["prompt_style"] == "compact"


@pytest.mark.slow
def test_quickstart_on_a_real_server_logs_what_it_answered_and_ends_it(cli: Cli, tmp_path: Path) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    outcome = cli("quickstart", "--tasks", "4", "--updates", "1", "--out", "q", "--json")
    assert outcome.code == 0
    check_quickstart(outcome.document, 4, 1)
    gone = cli("play", "--base-url", outcome.document["base_url"])
    assert gone.code == 2
    assert "cannot reach" in gone.error_line


# -- serve -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_serve_answers_until_it_is_told_to_stop_and_leaves_no_process(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path
) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    process = started(tmp_path, "serve", "--policy", tiny_model_dir, "--port", "0", "--out", "s", "--json")
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
