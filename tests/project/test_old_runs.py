"""Run folders of an earlier version are read, checked, exported, resumed, evaluated and trained from.

What they are and how they were made: `tests/data/old_runs/README.md`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from command_line import Cli, Outcome
from lamer_envs import make
from lamer_graph import create_lamer_agent
from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.evaluation.evaluate import report
from lamer_graph.runlog import RunLog, check, export_parquet, read_config, read_trials
from lamer_graph.runlog.recording import TrialRecorder
from lamer_memory import InContextMemory, MemoryConfig
from places import OLD_RUNS, ROOT
from scripted import ScriptedPolicy, random_player

LOGS = sorted(path.parent.relative_to(OLD_RUNS) for path in OLD_RUNS.rglob("trials.jsonl") if path.stat().st_size)
PLAYER = ("--policy", "examples/policies/minesweeper-tiny", "--deterministic", "--json")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders that a test may write in, where their relative paths mean what they did."""
    folder = tmp_path / "old"
    shutil.copytree(OLD_RUNS, folder)
    (folder / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def old_cli(cli: Cli, old: Path) -> Cli:
    """The command line in that copy (`cli` itself runs in an empty folder)."""
    return cli


def lines(run: Path) -> list[bytes]:
    return (run / "trials.jsonl").read_bytes().splitlines(keepends=True)


def cut(run: Path, last: int) -> list[bytes]:
    """Take the last lines of a run's log away, all but a few bytes of the first of them; what there was."""
    whole = lines(run)
    (run / "trials.jsonl").write_bytes(b"".join(whole[:-last]) + whole[-last][:40])
    return whole


def asked(line: bytes) -> Any:
    """What a trial is, and how its first call was sampled: this depends on neither the machine nor the wording."""
    trial = orjson.loads(line)
    call = trial["episodes"][0]["turns"][0]["call"]
    return trial["trial_id"], trial["task"], trial["trial"], call["seed"]


# -- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", LOGS, ids=str)
def test_a_log_is_valid(run: Path) -> None:
    found = check(OLD_RUNS / run)
    assert found.ok, found.errors
    assert found.trials == len(lines(OLD_RUNS / run))
    assert found.tokens
    assert not found.torn_bytes


@pytest.mark.parametrize("run", LOGS, ids=str)
def test_a_log_is_exported_whole(run: Path, tmp_path: Path) -> None:
    assert export_parquet(OLD_RUNS / run, tmp_path / "calls.parquet") == check(OLD_RUNS / run).calls


@pytest.mark.parametrize("run", LOGS, ids=str)
def test_a_log_opens_for_more_and_knows_what_it_holds(run: Path, old: Path) -> None:
    before = lines(old / run)
    finished = [trial for trial in read_trials(run) if trial["error"] is None]
    with RunLog.create(run, read_config(run), resume=True) as log:
        assert len(log.trial_ids) == len(finished)
        for trial in finished:
            log.append(trial)
    assert lines(old / run) == before


# -- collect, eval, compare -------------------------------------------------------------------------------------------

IN_CONTEXT = ("--tasks", 3, "--trials", 2, "--split", "train", "--concurrency", 2, "--out", "collect-in-context")
TASKS = ("--split", "train", "--concurrency", 1, "--backend", "chroma", "--scope", "tasks")


def resumed(cli: Cli, *arguments: object) -> Outcome:
    outcome = cli(*arguments, *PLAYER, "--resume")
    assert outcome.code == 0, outcome.err
    return outcome


def test_a_collection_is_resumed_and_plays_what_is_missing(old_cli: Cli, old: Path) -> None:
    whole = cut(old / "collect-in-context", 2)
    done = resumed(old_cli, "collect", *IN_CONTEXT).document
    assert (done["already"], done["finished"]) == (4, 2)
    now = lines(old / "collect-in-context")
    assert now[:4] == whole[:4]
    assert sorted(map(asked, now), key=str) == sorted(map(asked, whole), key=str)


def test_a_collection_with_a_memory_of_tasks_is_resumed_with_it(old_cli: Cli, old: Path) -> None:
    whole = cut(old / "collect-tasks", 1)
    done = resumed(old_cli, "collect", "--tasks", 4, *TASKS, "--out", "collect-tasks").document
    assert (done["already"], done["finished"]) == (3, 1)
    assert list(map(asked, lines(old / "collect-tasks"))) == list(map(asked, whole))
    listed = old_cli("memory", "stats", "collect-tasks/memory", "--json")
    assert listed.code == 0, listed.err


def test_a_memory_of_tasks_fills_another_run(old_cli: Cli, old: Path) -> None:
    store = old / "collect-tasks"
    outcome = old_cli("collect", "--tasks", 1, *TASKS, "--store", store, "--out", "next", *PLAYER)
    assert outcome.code == 0, outcome.err
    (trial,) = read_trials(old / "next")
    assert trial["memory_reads"][0]["keys"]


def test_an_evaluation_says_the_same_numbers_again(old_cli: Cli, old: Path) -> None:
    before = json.loads((old / "eval.json").read_bytes())
    now = resumed(old_cli, "eval", "--tasks", 4, "--out", "eval").document
    assert now["collection"]["finished"] == 0
    for name in ("sampling", "trials", "tasks", "pass_at", "turns_per_episode", "invalid_rate", "diversity"):
        assert now[name] == before[name], name
    assert report(old / "eval").to_json()["pass_at"] == before["pass_at"]


def test_a_comparison_says_the_same_numbers_again(old_cli: Cli, old: Path) -> None:
    before = json.loads((old / "compare" / "compare.json").read_bytes())
    now = resumed(old_cli, "compare", "--tasks", 3, "--memory", "none,reflection", "--out", "compare").document
    assert [row["name"] for row in now["rows"]] == [row["name"] for row in before["rows"]]
    for there, here in zip(before["rows"], now["rows"], strict=True):
        for name in ("trials", "pass_at", "turns_per_episode", "invalid_rate", "solved", "tokens_per_solved"):
            assert here[name] == there[name], name


@pytest.mark.parametrize(("run", "graph"), [("collect-failed", False), ("collect-failed-graph", True)])
def test_trials_that_an_error_ended_are_played_by_a_resume(run: str, graph: bool, old: Path) -> None:
    before = lines(old / run)
    config = CollectConfig.model_validate(read_config(run))
    policy = ScriptedPolicy(random_player)
    done = asyncio.run(collect(config, policy, run, concurrency=1, resume=True, through_graph=graph))
    assert (done.already, done.finished, done.failed) == (4, 2, 0)
    assert lines(old / run)[: len(before)] == before
    assert check(run).ok


# -- training ---------------------------------------------------------------------------------------------------------


def trained(folder: Path, **changes: Any) -> Any:
    """Go on with a run from its own description."""
    from lamer_trainers.loop.train import train
    from lamer_trainers.runfile import RunFile

    given = json.loads((folder / "run.json").read_bytes())
    run = RunFile.model_validate(given | {"optimise": {**given["optimise"], **changes}})
    return train(run, folder, resume=True)


@pytest.mark.usefixtures("one_thread")
def test_a_killed_training_goes_on_from_its_checkpoint(old: Path) -> None:
    run = Path("train-full")
    before = {path: path.read_bytes() for path in run.glob("collected/*/trials.jsonl")}
    done = trained(run)
    assert done.updates == 4
    assert (run / "policy" / "model.safetensors").is_file()
    for path, there in before.items():  # what had been played is kept, and the third batch is filled up
        assert path.read_bytes().startswith(there)
    assert len(lines(run / "collected" / "update-00002")) == len(lines(run / "collected" / "update-00003")) == 4
    updates = [json.loads(line)["update"] for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    assert updates == [1, 2, 3, 4]


@pytest.mark.usefixtures("one_thread")
def test_a_finished_training_of_an_adapter_goes_on_to_more_updates(old: Path) -> None:
    before = (old / "train-lora" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert trained(Path("train-lora"), updates=3).updates == 3
    assert (old / "train-lora" / "adapter" / "adapter_model.safetensors").read_bytes() != before


def test_a_trained_adapter_is_evaluated(old_cli: Cli, old: Path) -> None:
    outcome = old_cli("eval", "--policy", "train-lora/adapter", "--tasks", 1, "--max-tokens", 8, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["config"]["prompt_style"] == "compact"


def test_the_best_policy_of_a_training_is_evaluated(old_cli: Cli, old: Path) -> None:
    small = ("--tasks", 1, "--max-tokens", 3, "--max-turns", 1, "--json")
    outcome = old_cli("eval", "--policy", "train-full/best", *small)
    assert outcome.code == 0, outcome.err
    assert outcome.document["trials"] == 1


def test_a_collected_log_is_trained_on(old_cli: Cli, old: Path) -> None:
    outcome = old_cli(
        "train",
        "--preset=minesweeper-cpu",
        "--from-logs=collect-in-context",
        "policy=examples/policies/minesweeper-tiny",
        "collect.tasks=2",
        "collect.max_tokens=512",
        "optimise.updates=1",
        "optimise.mini_batches=1",
        "validation=null",
        "--out=offline",
        "--json",
    )
    assert outcome.code == 0, outcome.err
    assert outcome.document["updates"] == 1


# -- checkpoints of an agent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thread", ["act:3", "act:12", "reflect:1"])
def test_a_killed_trial_is_resumed_from_its_checkpoint(thread: str, old: Path) -> None:
    whole = json.loads((old / "agent-whole" / "result.json").read_bytes())
    config: Any = {"configurable": {"thread_id": thread}}
    with (
        SqliteSaver.from_conn_string("agent/checkpoints.sqlite") as saver,
        RunLog.create("agent/log", read_config("agent/log"), resume=True) as log,
    ):
        agent = create_lamer_agent(
            ScriptedPolicy(random_player),
            make("minesweeper", size=4, mines=3),
            MemoryConfig("both", backend=InContextMemory()),
            checkpointer=saver,
        )
        result = agent.invoke(None, config, context={"recorder": TrialRecorder(log)}, durability="sync")
    assert without(json.loads(json.dumps(result)), "call") == without(whole, "call")
    (trial,), (reference,) = read_trials("agent/log"), read_trials("agent-whole")
    for name in ("task", "trial", "episodes", "reflections", "success"):  # the wording of later prompts may be another
        assert as_answered(trial[name]) == as_answered(reference[name]), name
    assert trial["texts"][:2] == reference["texts"][:2]
    assert trial["trial_id"] == f"{reference['trial_id'].partition('@')[0]}@{thread}"


def as_answered(value: Any) -> Any:
    return without(without(value, "seconds"), "messages")


def without(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: without(item, name) for key, item in value.items() if key != name}
    return [without(item, name) for item in value] if isinstance(value, list) else value
