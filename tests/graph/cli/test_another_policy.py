"""A run goes on with the policy that played it: another one is refused before any work, by every command."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from command_line import Cli, Outcome, keys
from fake_server import MODEL, FakeServer
from lamer_graph import ChatModelPolicy
from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.collection.sampled_by import sampled_by
from lamer_graph.errors import RunLogError
from lamer_graph.policies.fingerprint import record_base
from lamer_graph.policies.local import LocalPolicy
from tiny_random import build_tiny_random

GAME = ("--env", "minesweeper:4x4-3", "--prompt-style", "compact", "--max-turns", 1, "--max-tokens", 2, "--episodes", 1)
CONFIG = CollectConfig(
    env="minesweeper:4x4-3", prompt_style="compact", tasks=2, max_turns=1, max_episodes=1, max_tokens=2
)

pytestmark = pytest.mark.usefixtures("one_thread")


def an_adapter(base: Path, folder: Path, seed: int) -> Path:
    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `a/adapter` and `b/adapter`, which differ in nothing but their weights."""
    runs = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate("ab"):
        an_adapter(tiny_model_dir, runs / name / "adapter", seed)
    return runs


def refused(outcome: Outcome, folder: str, there: object, here: object) -> str:
    assert outcome.code == 2
    assert f"{folder} was played by {there}, and {here} is another policy" in outcome.error_line
    return outcome.error_line


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("command", ["eval", "collect"])
def test_a_second_adapter_of_the_same_name_is_refused_and_the_first_goes_on(
    cli: Cli, adapters: Path, command: str
) -> None:
    def play(name: str, tasks: int, *more: object) -> Outcome:
        return cli(command, "--policy", adapters / name / "adapter", *GAME, "--tasks", tasks, "--out", "e", *more)

    assert play("a", 2).code == 0
    before = contents(Path("e"))
    line = refused(play("b", 2, "--resume"), "e", adapters / "a/adapter", adapters / "b/adapter")
    assert "files" in line
    assert contents(Path("e")) == before
    shutil.copytree(adapters / "a", "moved")
    assert cli(command, "--policy", "moved/adapter", *GAME, "--tasks", 2, "--out", "e", "--resume").code == 0


def test_another_policy_does_not_fill_the_memory_that_a_run_begins_with(cli: Cli, adapters: Path) -> None:
    warm = ("--backend", "chroma", "--scope", "tasks", "--warm", 2, "--tasks", 2, "--out", "e")
    assert cli("eval", "--policy", adapters / "a/adapter", *GAME, *warm).code == 0
    outcome = cli("eval", "--policy", adapters / "b/adapter", *GAME, *warm, "--resume")
    refused(outcome, "e/warm", adapters / "a/adapter", adapters / "b/adapter")


def test_a_comparison_with_another_policy_is_refused_before_a_new_configuration_is_played(
    cli: Cli, adapters: Path
) -> None:
    game = ("--env", "minesweeper:4x4-3", "--prompt-style", "compact", "--max-turns", 1, "--max-tokens", 2)
    arguments = ("compare", *game, "--episodes", 2, "--tasks", 2, "--out", "c")
    assert cli(*arguments, "--memory", "none,both", "--policy", adapters / "a/adapter").code == 0
    outcome = cli(*arguments, "--memory", "reflection,none,both", "--policy", adapters / "b/adapter", "--resume")
    refused(outcome, "c/none", adapters / "a/adapter", adapters / "b/adapter")
    assert not Path("c/reflection-in-context").exists()


def test_a_server_that_now_serves_another_folder_by_the_same_name_is_refused(cli: Cli, server: FakeServer) -> None:
    def play(*more: object) -> Outcome:
        return cli("collect", "--base-url", server.url, "--tasks", 2, "--out", "r", *more)

    assert play().code == 0
    assert play("--resume", "--workers", 2).code == 0
    server.root = "/models/other"
    assert "root /models/fake there, /models/other here" in refused(play("--resume"), "r", MODEL, MODEL)


def test_chat_models_are_told_apart_by_their_parameters(tmp_path: Path) -> None:
    def play(answer: str, wrapped: bool = False) -> None:
        model: Any = FakeListChatModel(responses=[answer])
        policy = ChatModelPolicy(model.with_retry() if wrapped else model)
        asyncio.run(collect(CONFIG.model_copy(update={"max_tokens": 512}), policy, tmp_path / "r", resume=True))

    play("<action>(1, 1)</action>")
    play("<action>(1, 1)</action>", wrapped=True)
    with pytest.raises(RunLogError, match=r"played by FakeListChatModel.*is another policy"):
        play("<action>(2, 2)</action>")


def test_a_run_that_does_not_say_who_played_it_goes_on_with_a_note(cli: Cli, adapters: Path) -> None:
    arguments = ("eval", *GAME, "--tasks", 2, "--out", "e")
    assert cli(*arguments, "--policy", adapters / "a/adapter").code == 0
    path = Path("e/run.json")
    about = json.loads(path.read_text())
    del about["sampled_by"]
    path.write_text(json.dumps(about))
    outcome = cli(*arguments, "--policy", adapters / "b/adapter", "--resume")
    assert outcome.code == 0
    assert "e does not say which policy played its trials" in outcome.out
    assert len(sampled_by("e")) == 1


def test_weights_that_were_changed_since_they_were_read_are_not_called_by_their_folder(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir)
    before = policy.identity()
    with policy.paused() as model, torch.no_grad():
        next(model.parameters()).add_(0.1)
    after = policy.identity()
    policy.close()
    assert before is not None
    assert after is not None
    assert before["folder"] == str(tiny_model_dir)
    assert "folder" not in after
    assert "files" not in after
    assert before["weights"] != after["weights"]


@pytest.mark.parametrize("lora", [False, True])
def test_a_training_whose_start_was_replaced_is_not_gone_on_with(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path, lora: bool
) -> None:
    start = shutil.copytree(tiny_model_dir, tmp_path / "start")
    changes = ("collect.tasks=1", "collect.trials=2", "collect.max_turns=1", "collect.max_episodes=1")
    changes += ("collect.max_tokens=2", "collect.contents=none", "optimise.warmup_updates=0", "validation=null")
    changes += ("optimise.mini_batches=1", "save_every=1", f"policy={start}", *(("lora.rank=4",) if lora else ()))
    arguments = ("train", "--preset", "minesweeper-cpu", *changes, "--out", "t", "optimise.updates=1")
    assert cli(*arguments).code == 0
    shutil.rmtree(start)
    build_tiny_random(start, seed=1)
    outcome = cli(*arguments, "--resume")
    assert outcome.code == 2
    assert (
        f"t holds a run that began with another policy than {start} now is (its weights differs)" in outcome.error_line
    )
    shutil.rmtree(start)
    shutil.copytree(tiny_model_dir, start)
    assert cli(*arguments[:-1], "optimise.updates=2", "--resume").code == 0


def test_trials_of_several_versions_lie_together_only_where_that_is_said(tiny_model_dir: Path, tmp_path: Path) -> None:
    other = build_tiny_random(tmp_path / "other", seed=1)
    asyncio.run(collect(CONFIG, LocalPolicy(tiny_model_dir), tmp_path / "r"))
    with pytest.raises(RunLogError, match=r"played by .*tiny-random, and .*other is another policy"):
        asyncio.run(collect(CONFIG, LocalPolicy(other), tmp_path / "r", resume=True))
    for _ in range(2):
        asyncio.run(collect(CONFIG, LocalPolicy(other), tmp_path / "r", resume=True, mixed=True))
    first, second = sampled_by(tmp_path / "r")
    assert {part for part in first if first[part] != second[part]} == {"weights", "files", "folder"}
    assert len(keys(tmp_path / "r")) == 2


# -- an adapter's base ------------------------------------------------------------------------------------------------


def test_an_adapter_of_a_policy_given_relatively_plays_from_any_folder(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model_dir, "rel/pol")
    an_adapter(Path("rel/pol"), Path("runs/a/adapter"), 0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    arguments = ("eval", *GAME, "--tasks", 1, "--policy", tmp_path / "runs/a/adapter")
    assert cli(*arguments).code == 0
    # Of the same name, another model lies where one stands now: the adapter's own is the one below its run.
    build_tiny_random(Path("rel/pol"), seed=1)
    record_base(tmp_path / "runs/a/adapter", tmp_path / "rel/pol")
    assert cli(*arguments).code == 0
    shutil.rmtree(tmp_path / "rel")
    shutil.rmtree("rel")
    line = cli(*arguments).error_line
    assert "'rel/pol'" in line
    assert str(Path.cwd()) in line
    assert "above the adapter" in line
