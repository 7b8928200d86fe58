"""`train --algorithm dpo` on a log, through the command line: what it leaves, how it goes on, what it refuses."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from command_line import Cli
from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.runlog import read_trials

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def played(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tasks of four trials of two short episodes."""
    config = CollectConfig(
        env="minesweeper:4x4-3", prompt_style="compact", max_turns=2, max_tokens=3, max_episodes=2, tasks=4, trials=4
    )
    folder = tmp_path_factory.mktemp("logs") / "played"
    sampler = LocalPolicy(tiny_model_dir)
    asyncio.run(collect(config, sampler, folder))
    sampler.close()
    # A policy that knows nothing plays invalid actions alone: that some of them paid is made up.
    text = (folder / "trials.jsonl").read_text().splitlines()
    import orjson

    for at, line in enumerate(text):
        trial = orjson.loads(line)
        for episode in trial["episodes"]:
            for turn in episode["turns"]:
                turn["reward"] = float(at % 5)
            episode["reward"] = sum(turn["reward"] for turn in episode["turns"])
        text[at] = orjson.dumps(trial).decode()
    (folder / "trials.jsonl").write_text("".join(f"{line}\n" for line in text))
    return folder


@pytest.fixture
def log(cli: Cli, played: Path) -> Path:
    return shutil.copytree(played, Path("log"))


def arguments(policy: Path, *more: object, logs: tuple[object, ...] = ("--from-logs", "log")) -> tuple[object, ...]:
    changes = (
        f"policy={policy}", "validation=null", "collect.max_tokens=3", "collect.max_turns=2", "collect.tasks=2",
        "optimise.updates=4", "optimise.warmup_updates=0", "save_every=2", "preferences.batch=4", "preferences.gap=0.5",
        "preferences.pairs=both",
    )  # fmt: skip
    return ("train", "--preset", "minesweeper-cpu", "--algorithm", "dpo", *logs, "--out", "run", *changes, *more)


def test_a_policy_learns_to_prefer_what_was_logged_as_better(cli: Cli, tiny_model_dir: Path, log: Path) -> None:
    before = (log / "trials.jsonl").read_bytes()
    more = ("validation.tasks=2", "validation.every=12", "optimise.learning_rate=0.001", "optimise.updates=12")
    document = cli(*arguments(tiny_model_dir, *more, "--json")).document
    assert document["updates"] == 12
    assert document["best"] is not None
    assert document["last"]["rewards/margins"] > 0
    assert document["last"]["batch/tokens"] > 0
    assert (log / "trials.jsonl").read_bytes() == before
    pairs = datasets.Dataset.from_parquet("run/pairs.parquet", cache_dir="cache")
    assert {"trial"} <= set(pairs["kind"])
    logged = {
        (tuple(call["prompt_token_ids"]), tuple(call["token_ids"]))
        for trial in read_trials(log)
        for call in calls(trial)
    }
    for row in pairs:
        for call in (*row["chosen"], *row["rejected"]):
            assert (tuple(call["prompt_ids"]), tuple(call["token_ids"])) in logged
    trained = AutoModelForCausalLM.from_pretrained("run/policy").state_dict()
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir).state_dict()
    assert any(not torch.equal(trained[name], start[name]) for name in start)


def calls(trial: dict[str, Any]) -> list[dict[str, Any]]:
    entries = [turn for episode in trial["episodes"] for turn in episode["turns"]] + trial["reflections"]
    return [entry["call"] for entry in entries]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [(), ("lora.rank=4", "lora.alpha=8")], ids=["full", "lora"])
def test_a_run_that_was_cut_short_goes_on_to_the_same_weights(
    cli: Cli, tiny_model_dir: Path, log: Path, lora: tuple[str, ...]
) -> None:
    weights = "adapter/adapter_model.safetensors" if lora else "policy/model.safetensors"
    cli(*arguments(tiny_model_dir, *lora))
    whole = load_file(Path("run") / weights)
    shutil.rmtree("run")
    cli(*arguments(tiny_model_dir, *lora))
    shutil.rmtree(Path("run") / Path(weights).parent)
    shutil.rmtree("run/checkpoints/checkpoint-4")
    cli(*arguments(tiny_model_dir, *lora, "--resume"))
    again = load_file(Path("run") / weights)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("logs", "changes", "says"),
    [
        ((), (), "name their run with --from-logs RUN"),
        (("--from-logs", "log"), ("preferences.gap=-1",), "preferences.gap"),
        (("--from-logs", "log"), ("distil.ratio=0.5",), "dpo has pairs: drop one"),
        (("--from-logs", "log"), ("preferences.pairs=turns",), "preferences.pairs"),
        (("--from-logs", "log"), ("collect.temperature=0.5", "preferences.reference=logged"), "at temperature 1"),
        (("--from-logs", "log"), ("preferences.batch=4000",), "set preferences.batch lower"),
        (("--from-logs", "log"), ("preferences.gap=1000",), "the logs hold no pair"),
        (("--from-logs", "log"), ("--dry-run", "preferences.gap=1000"), "the logs hold no pair"),
        (("--from-logs", "log"), ("--dry-run", "--device", "h200"), "leave it out"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    cli: Cli, tiny_model_dir: Path, log: Path, logs: Any, changes: Any, says: str
) -> None:
    outcome = cli(*arguments(tiny_model_dir, *changes, logs=logs))
    assert outcome.code == 2
    assert says in outcome.err
    assert "Traceback" not in outcome.err
    assert not Path("run").exists()  # so that the corrected command needs no other folder


def test_a_dry_run_counts_the_pairs(cli: Cli, tiny_model_dir: Path, log: Path) -> None:
    outcome = cli(*arguments(tiny_model_dir, "--dry-run", "--json"))
    there = outcome.document["preferences"]
    exported = cli("log", "export", "log", "--pairs", "both", "--json").document
    assert there["pairs"] >= exported["rows"]  # of a smaller gap
    assert there["pairs"] == sum(there["kinds"].values())
    assert there["tasks"] <= 4
    said = " ".join(cli(*arguments(tiny_model_dir, "--dry-run")).out.split())
    assert f"{there['pairs']:,} pairs (" in said
    assert f"read each {4 * 4 / there['pairs']:.1f} times" in said
    assert not Path("run").exists()


def test_preferences_of_another_algorithm_are_refused(cli: Cli, tiny_model_dir: Path) -> None:
    outcome = cli("train", "--preset", "minesweeper-cpu", f"policy={tiny_model_dir}", "preferences.beta=0.2")
    assert outcome.code == 2
    assert "set optimise.algorithm=dpo" in outcome.err


def test_pairs_are_exported_from_a_log(cli: Cli, log: Path) -> None:
    document = cli("log", "export", "log", "--pairs", "both", "--json").document
    pairs = datasets.Dataset.from_parquet("log/pairs.parquet", cache_dir="cache")
    assert len(pairs) == document["rows"] == sum(document["kinds"].values())
    assert all(row["chosen_return"] - row["rejected_return"] >= 1 for row in pairs)
    missing = cli("log", "export", "nowhere", "--pairs", "turn")
    assert missing.code == 2
    assert "no run log at nowhere" in missing.err
