"""An adapter that has moved, a small collection for it to play, and which versions played one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from lamer_graph.collection.config import CollectConfig
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.runlog import read_trials

COLLECT = CollectConfig(
    env="minesweeper:4x4-3", tasks=2, trials=2, max_episodes=2, max_turns=2, prompt_style="compact", max_tokens=4
)


def adapted(folder: Path) -> LocalPolicy:
    """A policy whose model has an adapter far from zero."""
    policy = LocalPolicy(folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        settings = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        return LocalPolicy(get_peft_model(policy.model, settings), policy.tokenizer)


def move(model: Any, by: float = 0.02) -> None:
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value += by


def versions(folder: Path) -> Counter[str]:
    """How many calls each version made in a run folder."""
    made: Counter[str] = Counter()
    for trial in read_trials(folder):
        assert trial["error"] is None
        entries = [turn for episode in trial["episodes"] for turn in episode["turns"]] + trial["reflections"]
        made.update(entry["call"]["policy_version"] for entry in entries if entry["call"])
    return made
