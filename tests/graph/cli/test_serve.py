"""`lamer-graph serve` says how what it serves is played with; serving itself is tested with `VllmServer`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from command_line import Cli
from lamer_graph.cli.serve import _idle, play_lines
from lamer_graph.errors import ConfigError
from lamer_graph.serving import needs, vllm

URL = "http://127.0.0.1:8000/v1"


def taught(folder: Path, env: str, style: str) -> Path:
    folder.mkdir()
    (folder / "lamer.json").write_text(json.dumps({"env": env, "prompt_style": style}))
    return folder


def hybrid_of(model: Path, folder: Path) -> Path:
    """A folder of a model with layers of linear attention, as its configuration says."""
    shutil.copytree(model, folder)
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 48}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 256}
    config = AutoConfig.for_model("qwen3_5_text", **sizes, **heads)
    config.architectures = ["Qwen3_5ForCausalLM"]
    config.save_pretrained(folder)
    return folder


def test_each_served_model_is_played_with_the_prompts_that_it_was_taught(tmp_path: Path) -> None:
    base = taught(tmp_path / "base", "sokoban:6x6-2", "standard")
    adapter = taught(tmp_path / "adapter", "sokoban:6x6-1", "compact")
    assert list(play_lines("minesweeper", URL, base, "base", {"v7": adapter})) == [
        f"play with it: lamer-graph play --env sokoban:6x6-2 --base-url {URL} --model base",
        f"play with it: lamer-graph play --env sokoban:6x6-1 --base-url {URL} --model v7 --prompt-style compact",
    ]


def test_what_a_card_says_is_one_word_of_the_line_to_copy(tmp_path: Path) -> None:
    odd = taught(tmp_path / "odd", "sokoban; rm -rf ~ \x1b[2J", "standard")
    assert list(play_lines("minesweeper", URL, odd, "odd", {})) == [
        f"play with it: lamer-graph play --env 'sokoban; rm -rf ~ \N{REPLACEMENT CHARACTER}[2J' --base-url {URL}"
    ]


def test_a_model_without_a_card_is_played_with_as_the_command_line_says(tmp_path: Path) -> None:
    assert list(play_lines("minesweeper", URL, tmp_path, "any", {})) == [
        f"play with it: lamer-graph play --env minesweeper --base-url {URL}"
    ]


# -- what reaches the server ------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a server was to be made of, instead of one."""
    found: dict[str, Any] = {}

    class Recorded:
        def __init__(self, model: Path, **options: Any) -> None:
            found.update(options, model=model)
            raise ConfigError("recorded")

    monkeypatch.setattr(vllm, "VllmServer", Recorded)
    monkeypatch.setattr(vllm, "vllm_flavour", lambda: "gpu")
    return found


def test_parallelism_memory_and_vllms_own_arguments_reach_the_server(
    cli: Cli, tiny_model_dir: Path, asked: dict[str, Any]
) -> None:
    given = ("--tensor-parallel", "2", "--data-parallel", "3", "--gpu-memory", "0.5", "--dtype", "bfloat16")
    outcome = cli("serve", "--policy", tiny_model_dir, *given, "--", "--max-num-seqs", "64", "--block-size=32")
    assert outcome.error_line.endswith("recorded")
    assert (asked["tensor_parallel"], asked["data_parallel"]) == (2, 3)
    assert (asked["gpu_memory"], asked["dtype"]) == (0.5, "bfloat16")
    assert asked["extra_args"] == ["--max-num-seqs", "64", "--block-size=32"]
    assert asked["model_name"] is None


def test_a_model_of_the_hub_is_served_under_its_id(
    cli: Cli, tiny_model_dir: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamer_graph.policies.hub.fetched", lambda hub_id: tiny_model_dir)
    cli("serve", "--policy", "someone/their-model")
    assert (asked["model"], asked["model_name"]) == (tiny_model_dir.resolve(), "someone/their-model")
    cli("serve", "--policy", "someone/their-model", "--model", "mine")
    assert asked["model_name"] == "mine"


def test_an_adapter_is_served_on_its_base_under_its_folders_name(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    adapter = tmp_path / "warm"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_model_dir)}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    cli("serve", "--policy", adapter, "--adapter", "other=elsewhere")
    assert asked["model"] == tiny_model_dir.resolve()
    assert asked["adapters"] == {"warm": adapter, "other": Path("elsewhere")}


def test_a_model_that_this_vllm_cannot_load_is_refused_before_any_work(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if vllm.vllm_flavour() is None:
        pytest.skip(vllm.INSTALL_HINT)

    def refuse(name: str) -> None:
        raise ConfigError(f"this vLLM cannot serve {name}: it lacks parts")

    monkeypatch.setattr(needs, "check_architecture", refuse)
    folder = hybrid_of(tiny_model_dir, tmp_path / "hybrid")
    outcome = cli("serve", "--policy", folder, "--out", "made")
    assert outcome.code == 2
    assert "this vLLM cannot serve Qwen3_5ForCausalLM" in outcome.error_line
    assert not Path("made").exists()


def test_a_policy_without_a_chat_template_is_refused_and_the_option_named(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    says = "has no chat template, and a policy answers chat messages: give it one (lamer-graph import FOLDER --chat-te"
    play = ("eval", "--env", "minesweeper:4x4-3", "--tasks", "1", "--out", "made", "--policy", folder)
    train = ("train", "--preset", "minesweeper-cpu", "--out", "made", f"policy={folder}")
    for arguments in (("serve", "--policy", folder, "--out", "made"), play, train, (*train[:3], "--dry-run", train[5])):
        outcome = cli(*arguments)
        assert outcome.code == 2
        assert says in outcome.error_line
        assert not Path("made").exists()


def test_devices_that_will_be_idle_are_named() -> None:
    assert _idle(None, 1) is None
    assert _idle("0,1", 2) is None
    assert _idle("0,1,2", 1) == "2 of the 3 devices will be idle"
