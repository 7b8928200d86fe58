"""What the trainer hands to the module that samples ahead of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lamer_graph.collection.config import CollectConfig
from lamer_graph.policies.local import LocalPolicy
from lamer_trainers.sources.batches import PlayedBatches
from lamer_trainers.sources.collector import Collector
from lamer_trainers.sources.in_process import CopyInProcess, trained_weights

COLLECT = CollectConfig(
    env="minesweeper:4x4-3", tasks=1, trials=1, max_episodes=1, max_turns=1, prompt_style="compact", max_tokens=2
)
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


pytestmark = pytest.mark.usefixtures("one_thread")


def a_policy(folder: Path, lora: bool) -> LocalPolicy:
    policy = LocalPolicy(folder)
    if not lora:
        return policy
    return LocalPolicy(get_peft_model(policy.model, LORA), policy.tokenizer)


def trained(policy: LocalPolicy) -> None:
    """As by an update: what has a gradient is another."""
    generator = torch.Generator().manual_seed(3)
    with policy.paused() as model, torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.03 * torch.randn(value.shape, generator=generator)


@pytest.mark.parametrize("lora", [False, True])
def test_the_sampler_is_handed_what_is_trained_and_computes_what_the_trainer_does(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    handed: list[dict[str, torch.Tensor]] = []
    set_weights = LocalPolicy.set_weights

    def noted(self: LocalPolicy, state_dict: Mapping[str, torch.Tensor], version: str) -> None:
        handed.append(dict(state_dict))
        set_weights(self, state_dict, version)

    monkeypatch.setattr(LocalPolicy, "set_weights", noted)
    policy = a_policy(tiny_model_dir, lora)
    prompt, answer = policy.encode([{"role": "user", "content": "Act"}]), [5, 9, 17]
    sampler = CopyInProcess(policy)
    collector = Collector(sampler, PlayedBatches(COLLECT, tmp_path, concurrency=2, pipeline=1), updates=1)
    if lora:  # with `kl`, TRL's reference: an adapter that is not trained, and that the sampler has not
        policy.model.add_adapter("ref", LORA)
    before = sampler._copy.score(prompt, answer)
    trained(policy)
    after = policy.score(prompt, answer)
    assert before != after
    collector.next_batch(0)
    assert sampler._copy.score(prompt, answer) == after
    trained(policy)  # the trainer goes on, the sampler does not
    assert sampler._copy.score(prompt, answer) == after
    collector.release()
    policy.close()
    (weights,) = handed
    parameters = dict(policy.model.named_parameters())
    assert set(weights) == {name for name, value in parameters.items() if value.requires_grad}
    assert all("lora_" in name for name in weights) is lora


def test_buffers_that_are_saved_are_handed_over_and_tied_weights_once() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    found = trained_weights(model)
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert set(found) == {"0.weight", "1.weight", "1.bias", "2.bias"} | statistics
    assert all(value.data_ptr() != model.state_dict()[name].data_ptr() for name, value in found.items())
