"""What rendered a log's prompts renders them later: template arguments, the system's words and the date go with it."""

from __future__ import annotations

import asyncio
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from transformers import AutoConfig

from command_line import Cli
from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.collection.sampled_by import rendered
from lamer_graph.errors import ConfigError, RunLogError
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.rendering import Renderer
from lamer_graph.runlog import read_trials
from lamer_trainers.loop import train as train_module
from lamer_trainers.runfile import load_run
from tiny_random import CHAT_TEMPLATE

THINKING = CHAT_TEMPLATE + "{% if add_generation_prompt and enable_thinking is false %}<think></think>{% endif %}"
DATED = "{{ strftime_now('%d %b %Y') }}\n" + CHAT_TEMPLATE
WITHOUT_SYSTEM = CHAT_TEMPLATE.replace("in messages", "in messages if message['role'] != 'system'")
QUIET = {"enable_thinking": False}
CHANGES = ("collect.max_tokens=3", "collect.max_turns=2", "optimise.mini_batches=1", "optimise.warmup_updates=0")

pytestmark = pytest.mark.usefixtures("one_thread")


def policy_with(template: str, tiny_model_dir: Path, folder: Path) -> Path:
    shutil.copytree(tiny_model_dir, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def play(policy: Path, folder: Path, *, tasks: int = 1, **options: Any) -> None:
    config = CollectConfig(
        env="minesweeper:4x4-3", prompt_style="compact", max_turns=2, max_tokens=3, tasks=tasks, trials=2
    )
    sampler = LocalPolicy(policy, **options)
    asyncio.run(collect(config, sampler, folder, resume=folder.exists()))
    sampler.close()


def train(cli: Cli, policy: Path, *more: object) -> Any:
    changes = (f"policy={policy}", "validation=null", "collect.tasks=1", "optimise.updates=1", *CHANGES)
    return cli("train", "--preset", "minesweeper-cpu", "--from-logs", "log", "--out", "run", *changes, *more)


def as_logged_in(folder: Path, started: str) -> None:
    trials = list(read_trials(folder))
    for trial in trials:
        trial["timings"]["started"] = started
    (folder / "trials.jsonl").write_bytes(b"".join(orjson.dumps(trial) + b"\n" for trial in trials))


def test_a_log_says_with_which_arguments_it_was_rendered_and_what_is_trained_on_it_keeps_them(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path
) -> None:
    policy = policy_with(THINKING, tiny_model_dir, tmp_path / "quiet")
    play(policy, Path("log"), template_args=QUIET)
    assert rendered("log") == {"template": QUIET, "folded": False}
    outcome = train(cli, policy)
    assert outcome.code == 0, outcome.err
    assert json.loads(Path("run/policy/lamer.json").read_text())["template"] == QUIET
    assert LocalPolicy("run/policy").template_args == QUIET
    # And whoever plays it plays it so.
    game = ("--env", "minesweeper:4x4-3", "--tasks", "1", "--max-tokens", "3", "--episodes", "1")
    assert cli("eval", "--policy", "run/policy", *game, "--out", "e").code == 0
    assert rendered("e") == {"template": QUIET, "folded": False}
    said = cli("eval", "--policy", policy, *game, "--out", "f", "--template", "enable_thinking=true")
    assert said.code == 0, said.err
    assert rendered("f") == {"template": {"enable_thinking": True}, "folded": False}


def test_other_arguments_are_named_before_any_work(cli: Cli, tiny_model_dir: Path, tmp_path: Path) -> None:
    policy = policy_with(THINKING, tiny_model_dir, tmp_path / "quiet")
    play(policy, Path("log"), template_args=QUIET)
    outcome = train(cli, policy, "template.enable_thinking=true")
    assert outcome.code == 2
    assert "log was rendered with enable_thinking=false there, enable_thinking=true here" in outcome.error_line
    assert not Path("run").exists()
    with pytest.raises(RunLogError, match="rendered with enable_thinking=false there, none here"):
        play(policy, Path("log"), tasks=1)
    # A log of before says nothing: then its prompts do.
    about = json.loads(Path("log/run.json").read_text())
    del about["rendered"]
    Path("log/run.json").write_text(json.dumps(about))
    outcome = train(cli, policy)
    assert outcome.code == 2
    assert "or of other template arguments than none (`template` in the run)" in outcome.error_line
    assert train(cli, policy, "template.enable_thinking=false").code == 0


def test_an_argument_that_the_template_does_not_know_is_refused_before_any_work(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path
) -> None:
    play(tiny_model_dir, Path("log"))
    for dry in ((), ("--dry-run",)):
        outcome = train(cli, tiny_model_dir, "template.enable_thinking=false", *dry)
        assert outcome.code == 2
        assert "has no argument 'enable_thinking': it would do nothing" in outcome.error_line
    assert not Path("run").exists()


def test_a_log_of_a_template_that_prints_the_date_is_checked_as_of_its_own_day(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_with(DATED, tiny_model_dir, tmp_path / "dated")
    text = Renderer.text
    with monkeypatch.context() as then:
        then.setattr(Renderer, "text", lambda self, messages, when=None: text(self, messages, datetime(2024, 2, 29)))
        play(policy, Path("log"))
    as_logged_in(Path("log"), "2024-02-29T12:00:00+00:00")
    outcome = train(cli, policy)
    assert outcome.code == 0, outcome.err
    as_logged_in(Path("log"), "2024-04-01T12:00:00+00:00")
    outcome = train(cli, policy, "--out", "other")
    assert outcome.code == 2
    assert "whose chat template prints the date or time: as of 2024-04-01" in outcome.error_line


def test_a_log_of_before_whose_template_left_the_systems_words_out_still_trains(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path
) -> None:
    policy = policy_with(WITHOUT_SYSTEM, tiny_model_dir, tmp_path / "without")
    play(policy, Path("log"), fold_system=False)
    about = json.loads(Path("log/run.json").read_text())
    assert about.pop("rendered") == {"template": {}, "folded": False}
    Path("log/run.json").write_text(json.dumps(about))
    outcome = train(cli, policy)
    assert outcome.code == 0, outcome.err


# -- what this process cannot play ------------------------------------------------------------------------------------


@pytest.fixture
def hybrid(tiny_model_dir: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "hybrid")
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 48}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 256}
    AutoConfig.for_model("qwen3_5_text", **sizes, **heads).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["train", "dry run"])
def test_a_model_that_cannot_be_sampled_here_is_refused_before_there_is_a_folder(
    cli: Cli, hybrid: Path, dry: tuple[str, ...]
) -> None:
    arguments = ("train", "--preset", "minesweeper-cpu", f"policy={hybrid}", "--out", "run")
    outcome = cli(*arguments, *dry)
    assert outcome.code == 2
    assert "qwen3_5_text has linear_attention: serve it with vLLM" in outcome.error_line
    assert not Path("run").exists()


def test_such_a_model_may_be_trained_where_a_server_samples(cli: Cli, hybrid: Path) -> None:
    served = ("lora.rank=4", "server.dtype=float32", "validation=null", "optimise.old_logprobs=recomputed")
    outcome = cli("train", "--preset", "minesweeper-cpu", f"policy={hybrid}", *served, "--dry-run")
    assert outcome.code == 0, outcome.err


def test_such_a_model_is_refused_where_it_would_play(cli: Cli, hybrid: Path) -> None:
    outcome = cli("eval", "--policy", hybrid, "--env", "minesweeper:4x4-3", "--tasks", "1", "--out", "e")
    assert outcome.code == 2
    assert "qwen3_5_text has linear_attention: serve it with vLLM" in outcome.error_line
    assert not Path("e").exists()


@pytest.mark.parametrize("broken", [True, False], ids=["vLLM cannot load it", "it can"])
def test_what_this_vllm_cannot_load_is_known_before_there_is_a_folder(
    cli: Cli, hybrid: Path, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether vLLM has all that such a model needs is its own business; what it answers is heeded."""
    config = json.loads((hybrid / "config.json").read_text())
    (hybrid / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen3_5ForCausalLM"]}))
    asked: list[str] = []

    def check(name: str) -> None:
        asked.append(name)
        if broken:
            raise ConfigError(f"this vLLM cannot serve {name}: ModuleNotFoundError: No module named 'torchvision'")

    monkeypatch.setattr("lamer_graph.serving.needs.check_architecture", check)
    served = ("lora.rank=4", "server.dtype=float32", "validation=null", "optimise.old_logprobs=recomputed")
    run = load_run(preset="minesweeper-cpu", changes=[f"policy={hybrid}", *served])
    if broken:
        outcome = cli("train", "--preset", "minesweeper-cpu", f"policy={hybrid}", *served, "--out", "run")
        assert outcome.code == 2
        assert "this vLLM cannot serve Qwen3_5ForCausalLM" in outcome.error_line
    else:
        train_module.check(run, Path("run"), resume=False)
    assert not Path("run").exists()
    assert asked[0] == "Qwen3_5ForCausalLM"
