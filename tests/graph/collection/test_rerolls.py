"""Failed trials that are begun again from their midst: the same past to the word, another future, and never twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from collect_run import REROLLS
from lamer_graph.collection.collect import Shard, collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.collection.rerolls import places
from lamer_graph.errors import ConfigError, PolicyConnectionError, RunLogError
from lamer_graph.evaluation.evaluate import evaluate, report
from lamer_graph.runlog import check, read_trials
from lamer_graph.runlog.export import call_rows
from places import SUPPORT
from scripted import ScriptedPolicy, random_player

SCRIPT = SUPPORT / "collect_run.py"
TASKS, TRIALS, REROLLED, AGAIN = 6, 3, 2, 4


def config(**changes: Any) -> CollectConfig:
    given = {"tasks": TASKS, "trials": TRIALS, "rerolls": AGAIN, "reroll_trials": REROLLED, **changes}
    return CollectConfig(env="minesweeper:4x4-3", prompt_style="compact", **given)


def run(settings: CollectConfig, folder: Path, policy: ScriptedPolicy | None = None, **options: Any) -> Any:
    return asyncio.run(collect(settings, policy or ScriptedPolicy(random_player), folder, **options))


def told(folder: Path) -> dict[str, Any]:
    """Every finished trial without what depends on the clock."""
    return {line["trial_id"]: _timeless(line) for line in read_trials(folder) if line["error"] is None}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in ("seconds", "timings")}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def rerolled(folder: Path) -> list[Any]:
    return [line for line in told(folder).values() if "branch" in line]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rerolls") / "run"
    done = run(config(), folder)
    failed = sum(not line["success"] for line in told(folder).values() if "branch" not in line)
    assert failed >= TASKS * REROLLED
    assert done.requested == done.finished == TASKS * (TRIALS + REROLLED * AGAIN)
    assert done.missing == 0
    return folder


def test_every_group_has_so_many_suffixes_of_so_many_failed_trials(played: Path) -> None:
    lines, groups = told(played), {}
    for line in rerolled(played):
        begun = line["branch"]
        assert not lines[begun["trial_id"]]["success"]
        assert (begun["episode"], begun["turn"]) != (0, 0)
        groups.setdefault(tuple(begun.values()), []).append(line)
    assert [len(group) for group in groups.values()] == [AGAIN] * (TASKS * REROLLED)
    assert len({name for name, _, _ in groups}) == TASKS * REROLLED
    for group in groups.values():  # and they are not the same one again
        answers = {json.dumps([[t["text"] for t in e["turns"]] for e in line["episodes"]]) for line in group}
        assert len(answers) > 1


def plain(turn: Any) -> Any:
    return {key: value for key, value in turn.items() if key != "call"}


def asked(line: Any, episode: int, turn: int) -> Any:
    call = line["episodes"][episode]["turns"][turn]["call"]
    return [(role, line["texts"][index]) for role, index in call["messages"]]


def test_a_reroll_has_the_trials_past_and_is_asked_the_same_where_it_begins(played: Path) -> None:
    lines = told(played)
    for line in rerolled(played):
        first, at = line["branch"]["episode"], line["branch"]["turn"]
        whole = lines[line["branch"]["trial_id"]]

        for number in range(first + 1):
            turns, others = (one["episodes"][number]["turns"] for one in (line, whole))
            until = at if number == first else len(others)
            assert [plain(turn) for turn in turns[:until]] == [plain(turn) for turn in others[:until]]
        assert [made["text"] for made in line["reflections"][:first]] == [
            made["text"] for made in whole["reflections"][:first]
        ]
        assert asked(line, first, at) == asked(whole, first, at)


def test_the_calls_before_its_beginning_are_logged_once_and_the_log_is_whole(played: Path) -> None:
    found = check(played)
    assert found.ok, found.errors
    assert found.untrainable_calls == 0
    for line in rerolled(played):
        first, at = line["branch"]["episode"], line["branch"]["turn"]
        for number, episode in enumerate(line["episodes"]):
            for position, turn in enumerate(episode["turns"]):
                assert (turn["call"] is None) == ((number, position) < (first, at))
        for made in line["reflections"]:
            assert (made["call"] is None) == (made["episode"] < first)
    rows = [(row["trial_id"], row["kind"], row["episode"], row["turn"]) for row in call_rows(played)]
    assert len(rows) == len(set(rows)) == found.calls
    assert {row["branch"] is None for row in call_rows(played)} == {True, False}


def test_calls_of_another_trial_in_a_reroll_are_a_fault_of_the_log(played: Path, tmp_path: Path) -> None:
    lines = (played / "trials.jsonl").read_text().splitlines()
    number, line = next((n, json.loads(text)) for n, text in enumerate(lines) if '"branch"' in text)
    other = next(json.loads(text) for text in lines if line["branch"]["trial_id"] in text)
    line["episodes"][0]["turns"][0]["call"] = {**other["episodes"][0]["turns"][0]["call"], "messages": []}
    lines[number] = json.dumps(line)
    (tmp_path / "trials.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "run.json").write_text((played / "run.json").read_text())
    found = check(tmp_path)
    assert found.errors[0][1].startswith("calls before the place that it was begun at, which are those of minesweeper")


def test_the_same_run_again_begins_the_same_trials_at_the_same_turns(played: Path, tmp_path: Path) -> None:
    run(config(), tmp_path / "again", concurrency=3)
    assert told(tmp_path / "again") == told(played)


def test_a_resume_of_a_whole_run_plays_nothing(played: Path) -> None:
    before = (played / "trials.jsonl").read_bytes()
    done = run(config(), played, resume=True)
    assert (done.finished, done.already, done.missing) == (0, TASKS * (TRIALS + REROLLED * AGAIN), 0)
    assert (played / "trials.jsonl").read_bytes() == before


def test_without_rerolls_the_trials_are_the_same_and_the_configuration_is_that_of_before(
    played: Path, tmp_path: Path
) -> None:
    plain = config(rerolls=0, reroll_trials=1)
    run(plain, tmp_path / "plain")
    assert not {"rerolls", "reroll_trials"} & plain.model_dump(mode="json").keys()
    own = {name: line for name, line in told(played).items() if "branch" not in line}
    alike = {name: {**line, "config_hash": ""} for name, line in told(tmp_path / "plain").items()}
    assert alike == {name: {**line, "config_hash": ""} for name, line in own.items()}


def test_a_task_with_a_trial_that_failed_to_be_played_is_begun_again_after_the_resume_that_plays_it(
    played: Path, tmp_path: Path
) -> None:
    calls = 0

    def failing(messages: Any, sampling: Any) -> str:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise PolicyConnectionError("gone")
        return random_player(messages, sampling)

    done = run(config(), tmp_path / "run", ScriptedPolicy(failing), concurrency=1)
    assert done.failed == 1
    assert done.missing == 1  # what follows from its group is not known yet
    again = run(config(), tmp_path / "run", resume=True)
    assert again.missing == 0
    assert told(tmp_path / "run") == told(played)


def test_killed_while_it_plays_rerolls_a_run_goes_on_to_the_same_trials(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder, delay in ((whole, "0"), (cut, "0.004")):
        command = [sys.executable, str(SCRIPT), str(folder), delay, "rerolls"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        if folder is cut:
            deadline = time.monotonic() + 120
            while not (cut / "trials.jsonl").exists() or b'"branch"' not in (cut / "trials.jsonl").read_bytes():
                assert time.monotonic() < deadline
                assert process.poll() is None, "it was over before it could be killed"
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=240)
    left = len(told(whole)) - len(told(cut))
    assert left > 0
    again = asyncio.run(collect(REROLLS, ScriptedPolicy(random_player), cut, resume=True))
    assert again.finished == left
    assert told(cut) == told(whole)


@pytest.mark.parametrize("contents", ["none", "trajectory", "both"])
def test_whatever_is_remembered_a_reroll_remembers_as_the_trial_did(tmp_path: Path, contents: str) -> None:
    run(config(contents=contents, tasks=3, backend="chroma" if contents == "both" else "in-context"), tmp_path / "run")
    assert len(rerolled(tmp_path / "run")) == 3 * REROLLED * AGAIN
    assert check(tmp_path / "run").ok


def test_an_evaluation_takes_no_rerolls_and_counts_none(played: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="re-rolls are for training"):
        asyncio.run(evaluate(config(), ScriptedPolicy(random_player), tmp_path / "eval"))
    assert not (tmp_path / "eval").exists()
    assert report(played).summary.to_json()["trials"] == TASKS * TRIALS


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rerolls": 1}, "nothing to be compared with"),
        ({"rerolls": 0}, "rerolls is 0: set both, or none"),
        ({"scope": "tasks", "backend": "chroma"}, "would recall other records"),
        ({"shuffle_reflections": True}, "reflections change hands"),
        ({"env": "app:helper"}, "an application has none"),
    ],
)
def test_what_cannot_be_begun_again_is_refused_before_there_is_a_folder(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    settings = CollectConfig.model_validate({**config().model_dump(mode="json"), "reroll_trials": 2, **changes})
    with pytest.raises(ConfigError, match=says):
        run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_neither_the_graph_nor_a_shard_can_begin_trials_again(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which the graph plays from its start"):
        run(config(), tmp_path / "run", through_graph=True)
    with pytest.raises(ConfigError, match="2 workers and rerolls exclude each other"):
        run(config(), tmp_path / "run", shard=Shard(0, 2))


def test_a_past_that_goes_otherwise_now_stops_the_run_with_one_line(played: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(config(rerolls=0, reroll_trials=1), folder)
    lines = [json.loads(text) for text in (folder / "trials.jsonl").read_text().splitlines()]
    for line in lines:
        for turn in line["episodes"][0]["turns"][:1]:
            turn["reward"] += 1.0
    (folder / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.json").write_text((played / "run.json").read_text())
    with pytest.raises(RunLogError, match="cannot be begun again at its logged past: turn 0 of episode 0 now goes oth"):
        run(config(), folder, resume=True)


def test_a_trial_that_was_solved_or_has_one_turn_alone_is_not_begun_again(played: Path) -> None:
    solved = next(line for line in told(played).values() if line["success"])
    assert places(solved) == []
    lost = next(line for line in told(played).values() if not line["success"] and "branch" not in line)
    short = {**lost, "episodes": [{**lost["episodes"][0], "turns": lost["episodes"][0]["turns"][:1]}]}
    assert places(short) == []
    assert places(lost)[0] == ((0, 1) if len(lost["episodes"][0]["turns"]) > 1 else (1, 0))
