"""A collection is an exact set of trials, whatever fails, is killed, or is played by whom."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from collect_run import CONFIG
from lamer_envs.minesweeper import Minesweeper
from lamer_graph.collection import collect as collection
from lamer_graph.collection.collect import Shard, collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import ConfigError, PolicyConnectionError, RunLogError
from lamer_graph.evaluation.evaluate import evaluate, report
from lamer_graph.runlog import check, read_trials
from places import SUPPORT
from scripted import ScriptedPolicy, is_reflection, random_player

SCRIPT = SUPPORT / "collect_run.py"


def config(**changes: Any) -> CollectConfig:
    return CollectConfig(env="minesweeper:4x4-3", prompt_style="compact", **{"tasks": 20, **changes})


def run(settings: CollectConfig, folder: Path, policy: ScriptedPolicy | None = None, **options: Any) -> Any:
    return asyncio.run(collect(settings, policy or ScriptedPolicy(random_player), folder, **options))


def by_key(folder: Path) -> dict[tuple[str, int], Any]:
    """Every finished trial without what depends on the clock."""
    found = {}
    for trial in read_trials(folder):
        if trial["error"] is None:
            key = (trial["task"]["id"], trial["trial"])
            assert key not in found
            found[key] = {k: _timeless(v) for k, v in trial.items() if k != "timings"}
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k != "seconds"}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def test_an_interrupted_run_ends_without_looking_for_the_tasks_that_it_did_not_come_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = 0
    tasks_of = collection.requested_trials

    def counted(*given: Any) -> Iterator[Any]:
        nonlocal drawn
        for task in tasks_of(*given):
            drawn += 1
            yield task

    def stopping(messages: Any, sampling: Any) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return random_player(messages, sampling)

    monkeypatch.setattr(collection, "requested_trials", counted)
    done = run(config(tasks=500), tmp_path / "more", ScriptedPolicy(stopping), concurrency=2)
    assert done.interrupted
    assert (done.requested, done.already, done.missing) == (500, 0, 500 - done.finished)
    assert drawn < 20


def test_a_run_holds_exactly_the_requested_trials_and_passes_the_check(tmp_path: Path) -> None:
    done = run(config(trials=3), tmp_path / "run")
    assert (done.requested, done.finished, done.failed, done.missing) == (60, 60, 0, 0)
    report = check(tmp_path / "run")
    assert report.ok
    assert (report.trials, report.tasks) == (60, 20)
    assert report.untrainable_calls == 0


def test_the_tasks_after_skipped_ones_are_not_looked_for_from_the_first_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every update of a training run, which begins where the one before it ended."""
    made: list[int] = []
    reset = Minesweeper.reset

    def noted(self: Minesweeper, seed: int) -> Any:
        made.append(seed)
        return reset(self, seed)

    run(config(tasks=2, skip=500), tmp_path / "before")
    monkeypatch.setattr(Minesweeper, "reset", noted)
    run(config(tasks=2, skip=502), tmp_path / "run")
    assert 2 <= len(made) < 30
    assert not {trial["task"]["seed"] for trial in read_trials(tmp_path / "before")} & set(made[-2:])


@pytest.mark.parametrize("contents", ["none", "trajectory", "reflection", "both"])
def test_the_outcome_does_not_depend_on_concurrency(tmp_path: Path, contents: str) -> None:
    for concurrency in (1, 50):
        run(config(contents=contents), tmp_path / str(concurrency), concurrency=concurrency)
    assert by_key(tmp_path / "1") == by_key(tmp_path / "50")


def test_the_graph_and_the_bulk_driver_log_the_same_trials(tmp_path: Path) -> None:
    for through_graph in (False, True):
        run(config(contents="both"), tmp_path / str(through_graph), through_graph=through_graph)
    assert by_key(tmp_path / "True") == by_key(tmp_path / "False")


def test_errors_in_the_graph_are_recorded_and_played_again_by_a_resume(tmp_path: Path) -> None:
    done = run(config(), tmp_path / "run", failing(60), through_graph=True, concurrency=4)
    assert (done.failed > 0, done.finished > 0, done.finished + done.failed) == (True, True, 20)
    assert run(config(), tmp_path / "run", through_graph=True, resume=True).finished == done.failed


def test_the_log_says_what_each_episode_saw_and_wrote(tmp_path: Path) -> None:
    run(config(contents="both"), tmp_path / "run")
    trial = next(t for t in read_trials(tmp_path / "run") if len(t["episodes"]) == 3)
    name = trial["trial_id"]
    first = [f"{name}/0/trajectory", f"{name}/0/reflection"]
    second = [f"{name}/1/trajectory", f"{name}/1/reflection"]
    assert [read["keys"] for read in trial["memory_reads"]] == [[], first, first + second]
    assert [write["keys"] for write in trial["memory_writes"]] == [first, second]
    assert [reflection["episode"] for reflection in trial["reflections"]] == [0, 1]


def test_messages_can_be_rebuilt_from_the_interned_texts(tmp_path: Path) -> None:
    policy = ScriptedPolicy(random_player)
    run(config(tasks=3), tmp_path / "run", policy)
    logged = []
    for trial in read_trials(tmp_path / "run"):
        for call in [t["call"] for e in trial["episodes"] for t in e["turns"]] + [
            r["call"] for r in trial["reflections"]
        ]:
            logged.append([{"role": role, "content": trial["texts"][index]} for role, index in call["messages"]])
    assert sorted(map(json.dumps, logged)) == sorted(map(json.dumps, policy.seen))


def test_shards_partition_the_run(tmp_path: Path) -> None:
    run(config(), tmp_path / "whole")
    for index in range(3):
        run(config(), tmp_path / "parts", resume=True, shard=Shard(index, 3))
    assert by_key(tmp_path / "parts") == by_key(tmp_path / "whole")


def failing(after: int) -> ScriptedPolicy:
    count = 0

    def answer(messages: Any, sampling: Any) -> str:
        nonlocal count
        count += 1
        if count > after:
            raise PolicyConnectionError("http://127.0.0.1:9 did not answer")
        return random_player(messages, sampling)

    return ScriptedPolicy(answer)


def test_a_failed_call_ends_its_trial_with_a_recorded_error_and_resume_plays_what_is_missing(tmp_path: Path) -> None:
    run(config(), tmp_path / "whole")
    done = run(config(), tmp_path / "run", failing(60), concurrency=4)
    assert done.failed > 0
    assert done.finished > 0
    assert done.finished + done.failed == 20
    errors = [trial["error"] for trial in read_trials(tmp_path / "run") if trial["error"]]
    assert {error["type"] for error in errors} == {"PolicyConnectionError"}
    assert "127.0.0.1:9" in errors[0]["message"]
    again = run(config(), tmp_path / "run", resume=True)
    assert again.already == done.finished
    assert again.finished == done.failed
    assert by_key(tmp_path / "run") == by_key(tmp_path / "whole")


def test_resuming_a_finished_run_plays_nothing(tmp_path: Path) -> None:
    run(config(), tmp_path / "run")
    policy = ScriptedPolicy(random_player)
    again = run(config(), tmp_path / "run", policy, resume=True)
    assert (again.already, again.finished, policy.seen) == (20, 0, [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_stopped_in_the_middle_resumes_to_the_exact_set(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    child = subprocess.Popen([sys.executable, str(SCRIPT), str(folder), "0.02"], stdout=subprocess.PIPE, text=True)
    log = folder / "trials.jsonl"
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_bytes().count(b"\n") >= 5):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(number)
    out, _ = child.communicate(timeout=30)
    if number != signal.SIGKILL:
        assert child.returncode == 0
        assert json.loads(out)["interrupted"] is True
        assert log.read_bytes().endswith(b"\n")
        assert json.loads(out)["missing"] == 120 - len(by_key(folder))
    assert 5 <= len(by_key(folder)) < 120
    done = run(CONFIG, folder, resume=True)
    assert done.missing == 0
    run(CONFIG, tmp_path / "whole")
    assert by_key(folder) == by_key(tmp_path / "whole")


def test_a_folder_with_another_configuration_is_refused_before_any_work(tmp_path: Path) -> None:
    run(config(tasks=2), tmp_path / "run")
    policy = ScriptedPolicy(random_player)
    with pytest.raises(RunLogError, match="contents"):
        run(config(tasks=2, contents="none"), tmp_path / "run", policy, resume=True)
    with pytest.raises(RunLogError, match="--resume"):
        run(config(tasks=2), tmp_path / "run", policy)
    assert policy.seen == []


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="concurrency"):
        run(config(), tmp_path / "run", concurrency=0)
    with pytest.raises(ValidationError, match="max_episodes"):
        config(max_episodes=0)
    with pytest.raises(ConfigError, match="reflections"):
        run(config(contents="trajectory", shuffle_reflections=True), tmp_path / "run")
    with pytest.raises(ConfigError, match="train, paper"):
        CollectConfig.sampling_preset("test")
    assert not (tmp_path / "run").exists()


# -- ablation and evaluation ------------------------------------------------------------------------------------------


def names_its_task(messages: Any, sampling: Any) -> str:
    """Never solves anything; every reflection is unlike any other."""
    if is_reflection(messages):
        return f"<remark>{sampling.seed}</remark>"
    return "<action>(9, 9)</action>"


@pytest.mark.parametrize("tasks", [1, 2, 30])
def test_shuffled_reflections_are_another_trials_of_the_same_episode(tmp_path: Path, tasks: int) -> None:
    policy = ScriptedPolicy(names_its_task)
    run(config(tasks=tasks, shuffle_reflections=True), tmp_path / "run", policy, concurrency=4)
    run(config(tasks=tasks), tmp_path / "own")
    written: dict[int, set[str]] = {0: set(), 1: set()}
    for messages, sampling in zip(policy.seen, policy.samplings, strict=True):
        if is_reflection(messages):
            episode = int(messages[-1]["content"].split("Episode ")[1].split()[0]) - 1
            written[episode].add(str(sampling.seed))
    trials = list(read_trials(tmp_path / "run"))
    for episode in (0, 1):
        received = [trial["reflections"][episode]["text"] for trial in trials]
        assert sorted(received) == (sorted(written[episode]) if tasks > 1 else [""])
    assert all(reflection["call"] is None for trial in trials for reflection in trial["reflections"])
    again = tmp_path / "again"
    run(config(tasks=tasks, shuffle_reflections=True), again, ScriptedPolicy(names_its_task), concurrency=50)
    assert by_key(again) == by_key(tmp_path / "run")


def test_an_evaluation_is_read_from_the_log_alone(tmp_path: Path) -> None:
    settings = config(trials=4, split="val", **CollectConfig.sampling_preset("paper"))
    evaluation, done = asyncio.run(evaluate(settings, ScriptedPolicy(random_player), tmp_path / "run"))
    assert done.finished == 80
    assert report(tmp_path / "run").to_json() == evaluation.to_json()
    data = evaluation.to_json()
    assert data["sampling"] == {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_tokens": 512, "seed": 0}
    trials = list(read_trials(tmp_path / "run"))
    for k in (1, 2, 3):
        share = sum(any(e["success"] for e in trial["episodes"][:k]) for trial in trials) / len(trials)
        assert data["pass_at"][k - 1]["value"] == pytest.approx(share)
    assert data["diversity"]["value"] > 0


def test_a_run_without_a_finished_trial_has_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(RunLogError, match=r"no finished trials .*; 20 ended"):
        asyncio.run(evaluate(config(), failing(0), tmp_path / "run"))
