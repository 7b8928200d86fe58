"""Models unlike ours, through the whole loop: sliding windows, templates without a system role, long prompts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from adapters import adapted
from lamer_graph.errors import PromptTooLongError
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.runnable import attention_for
from lamer_graph.runlog import read_trials
from lamer_graph.types import Message, Sampling
from lamer_trainers.loop.curves import read_metrics
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run

WINDOW = 16
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW},
    "gemma3_text": ALTERNATING,
    "qwen3": {"use_sliding_window": True, **ALTERNATING},
}
SMALL = (
    *("collect.tasks=2", "collect.trials=2", "collect.max_turns=3", "collect.max_tokens=8", "optimise.updates=2"),
    *("optimise.mini_batches=1", "optimise.warmup_updates=0", "validation=null"),
)

pytestmark = pytest.mark.usefixtures("one_thread")


def model_folder(tokenizers: Path, folder: Path, family: str) -> Path:
    """A small model of the family with random weights, and the tokenizer of another folder."""
    shutil.copytree(tokenizers, folder)
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096}
    tokenizer = AutoTokenizer.from_pretrained(tokenizers)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(family, **sizes, **heads, **ends, initializer_range=0.3, **FAMILIES[family])
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, attn_implementation=attention_for(config)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_sliding_windows_is_trained_on_what_it_sampled(
    family: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Prompts are many windows long; the trainer's numbers are those that were logged, at the start of each update."""
    folder = model_folder(tiny_model_dir, tmp_path / family, family)
    run = load_run(preset="minesweeper-cpu", changes=[f"policy={folder}", "optimise.old_logprobs=recomputed", *SMALL])
    done = train(run, tmp_path / "run")
    noted = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["sampling/logprob_gap_max"] < 1e-3 for line in noted] == [True, True]
    lengths = [len(call["prompt_token_ids"]) for call in _calls(tmp_path / "run" / "collected" / "update-00000")]
    assert min(lengths) > 2 * WINDOW
    before, after = (LocalPolicy(place).model.state_dict() for place in (folder, done.folder))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def _calls(folder: Path) -> list[dict[str, Any]]:
    episodes = [episode for trial in read_trials(folder) for episode in trial["episodes"]]
    return [turn["call"] for episode in episodes for turn in episode["turns"]]


def test_a_template_without_a_system_role_is_trained_with_the_rules_in_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    template = (folder / "chat_template.jinja").read_text()
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refusing + template)
    changes = [f"policy={folder}", *SMALL, "collect.prompt_style=standard", "optimise.updates=1"]
    run = load_run(preset="minesweeper-cpu", changes=changes)
    done = train(run, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "collected" / "update-00000" / "run.json").read_text())["rendered"] == {
        "template": {},
        "folded": True,
    }
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    text = tokenizer.decode(_calls(tmp_path / "run" / "collected" / "update-00000")[0]["prompt_token_ids"])
    assert "mine" in text


async def test_a_prompt_beyond_the_window_says_so_with_an_adapter_too(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    adapted(tiny_model_dir).model.save_pretrained(folder)
    policy = LocalPolicy(tiny_model_dir, adapter=folder)
    asked: list[Message] = [{"role": "user", "content": "Open (1, 2). " * 2000}]
    with pytest.raises(PromptTooLongError, match=r"exceeds the context of 4096 of 'adapter' by \d+"):
        await policy.generate(asked, Sampling(max_tokens=4))


def test_trials_that_outgrow_the_window_in_process_are_trimmed_and_train(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "narrow")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1300}))
    changes = [
        f"policy={folder}",
        *SMALL,
        "collect.prompt_style=standard",
        "collect.max_turns=10",
        "collect.max_episodes=1",
    ]
    train(load_run(preset="minesweeper-cpu", changes=[*changes, "optimise.updates=1"]), tmp_path / "run")
    calls = _calls(tmp_path / "run" / "collected" / "update-00000")
    assert max(call["dropped"] for call in calls) > 0
    assert max(len(call["prompt_token_ids"]) + len(call["token_ids"]) for call in calls) <= 1300
