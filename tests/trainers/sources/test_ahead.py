"""Collecting ahead of the trainer: by weights that are not too old, handed over whole, and kept by a resume."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from adapters import COLLECT, versions
from lamer_graph.policies.local import LocalPolicy
from lamer_trainers.errors import WeightSyncError
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run
from lamer_trainers.sources.ahead import Ahead
from lamer_trainers.sources.batches import Collected, PlayedBatches
from lamer_trainers.sources.collector import Collector
from lamer_trainers.sources.in_process import CopyInProcess, trained_weights

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


def test_nothing_is_collected_with_weights_that_will_be_too_old() -> None:
    begun: list[tuple[int, int]] = []
    newest = 0

    async def collect(step: int) -> Collected:
        begun.append((step, newest))
        return Collected([{"step": step}], None)  # type: ignore[arg-type]

    ahead = Ahead(collect, most=2, end=8)
    for newest in range(8):
        ahead.advance(newest)
        assert ahead.take(newest).trials == [{"step": newest}]
        time.sleep(0.01)
    ahead.close()
    assert [step for step, _ in begun] == list(range(8))
    assert all(0 <= step - version <= 2 for step, version in begun)
    assert any(step - version == 2 for step, version in begun)


def test_an_error_ahead_is_raised_where_its_batch_is_asked_for_and_close_ends_a_batch() -> None:
    started = threading.Event()

    async def collect(step: int) -> Collected:
        if step == 1:
            raise WeightSyncError("as provoked")
        return Collected([], None)  # type: ignore[arg-type]

    ahead = Ahead(collect, most=3)
    ahead.advance(0)
    ahead.take(0)
    with pytest.raises(WeightSyncError, match="as provoked"):
        ahead.take(1)
    ahead.close()

    async def endless(step: int) -> Collected:
        started.set()
        await asyncio.sleep(600)
        raise AssertionError

    ahead = Ahead(endless, most=1)
    ahead.advance(0)
    assert started.wait(10)
    ahead.close()
    with pytest.raises(asyncio.CancelledError):
        ahead.take(0)


def test_a_resume_keeps_what_was_collected_ahead_by_weights_that_are_left(tiny_model_dir: Path, tmp_path: Path) -> None:
    policy = LocalPolicy(tiny_model_dir)
    batches = PlayedBatches(COLLECT, tmp_path, pipeline=2)
    for step, version in ((3, 2), (4, 3), (5, 4), (6, 4)):
        policy.version = f"policy-v{version:04d}"
        asyncio.run(batches.collect(step, policy))
    policy.close()
    batches.resume_at(3)
    assert sorted(path.name for path in tmp_path.glob("update-*")) == ["update-00003", "update-00004"]
    assert len(list(tmp_path.glob("abandoned-*"))) == 2


def test_pipelining_in_process_samples_from_the_version_before(tiny_model_dir: Path, tmp_path: Path) -> None:
    changes = ["collect.tasks=2", "collect.trials=2", "collect.max_turns=2", "collect.max_tokens=4", "concurrency=4"]
    changes += ["optimise.updates=3", "optimise.old_logprobs=recomputed", "optimise.mini_batches=1", "pipeline=1"]
    changes += ["validation.tasks=2", "validation.every=2", f"policy={tiny_model_dir}", "optimise.warmup_updates=0"]
    seen: list[dict[str, Any]] = []
    train(load_run(preset="minesweeper-cpu", changes=changes), tmp_path / "run", progress=seen.append)
    assert [line["sampling/staleness_max"] for line in seen] == [0, 1, 1]
    assert seen[0]["sampling/logprob_gap_mean"] < 1e-3 < seen[1]["sampling/logprob_gap_mean"]
    assert all(line["idle/trainer"] >= 0 and line["idle/sampler"] >= 0 for line in seen)
    folders = [tmp_path / "run" / "collected" / f"update-{step:05d}" for step in range(3)]
    assert [set(versions(folder)) for folder in folders] == [{"policy-v0000"}, {"policy-v0000"}, {"policy-v0001"}]
    assert set(versions(tmp_path / "run" / "validation" / "update-00002")) == {"policy-v0002"}
