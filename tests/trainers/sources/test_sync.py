"""Adapters brought to a real vLLM: swaps under load, proofs, what is refused, and training from what it plays."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from adapters import COLLECT, adapted, move, versions
from lamer_graph.policies.base import run_sync
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.serving.vllm import VllmServer
from lamer_graph.types import Sampling
from lamer_trainers.errors import CheckpointError, WeightSyncError
from lamer_trainers.learning.trainer import LamerTrainer
from lamer_trainers.sources.batches import PlayedBatches
from lamer_trainers.sources.collector import Collector
from lamer_trainers.sources.served import Served
from lamer_trainers.sources.sync import AdapterSync
from tiny_random import build_tiny_random
from training import config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def server(vllm_server: VllmServer):
    """The suite's server, left without adapters."""
    yield vllm_server
    for name in list(vllm_server.adapters):
        vllm_server.unload_adapter(name)


def test_swaps_under_load_fail_no_request_and_old_adapters_leave(
    server: VllmServer, tiny_model_dir: Path, tmp_path: Path
) -> None:
    policy = adapted(tiny_model_dir)
    sync = AdapterSync(server, policy.model, tmp_path)
    sync.push(0)
    stop, answered, failed = threading.Event(), Counter[str](), []

    async def ask(number: int) -> None:
        while not stop.is_set():
            with sync.using() as lent:
                try:
                    for seed in range(3):  # a trial, which keeps its version over several calls
                        done = await lent.generate(
                            [{"role": "user", "content": f"Act {number}"}], Sampling(max_tokens=8, seed=seed)
                        )
                        answered[done.policy_version] += 1
                except Exception as error:
                    failed.append(error)
                finally:
                    await lent.aclose()

    async def load() -> None:
        await asyncio.gather(*(ask(number) for number in range(8)))

    thread = threading.Thread(target=asyncio.run, args=(load(),))
    thread.start()
    try:
        for update in range(1, 5):
            move(policy.model)
            before = sum(answered.values())
            swap = sync.push(update)
            assert swap is not None
            assert swap.error < 0.02
            deadline = time.monotonic() + 30
            while not answered[f"policy-v{update:04d}"] and not failed:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert sum(answered.values()) > before
    finally:
        stop.set()
        thread.join()
    assert failed == []
    assert set(answered) == {f"policy-v{update:04d}" for update in range(5)}
    assert list(server.adapters) == ["policy-v0004"]
    assert [path.name for path in tmp_path.iterdir()] == ["policy-v0004"]
    assert sync.push(4) is None


def test_a_version_in_use_stays_until_it_is_given_back(
    server: VllmServer, tiny_model_dir: Path, tmp_path: Path
) -> None:
    policy = adapted(tiny_model_dir)
    sync = AdapterSync(server, policy.model, tmp_path)
    with pytest.raises(WeightSyncError, match="push one first"), sync.using():
        pass
    sync.push(0)
    with sync.using() as old:
        sync.push(1)
        assert list(server.adapters) == ["policy-v0000", "policy-v0001"]
        done = run_sync(old.generate([{"role": "user", "content": "Act"}], Sampling(max_tokens=2)))
        assert done.policy_version == "policy-v0000"
    assert list(server.adapters) == ["policy-v0001"]


def test_a_server_with_other_numbers_than_the_trainer_stops_the_run(
    server: VllmServer, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = adapted(tiny_model_dir)
    sync = AdapterSync(server, policy.model, tmp_path)
    saved = sync._save

    def late(update: int) -> Path:
        path = saved(update)
        move(policy.model, 0.3)  # what is served is then not what the trainer has
        return path

    monkeypatch.setattr(sync, "_save", late)
    with pytest.raises(WeightSyncError, match=r"policy-v0003 differs from the trained weights by .* nats") as caught:
        sync.push(3)
    assert "\n" not in str(caught.value)
    assert sync.newest is None
    assert not server.adapters


def test_an_adapter_that_the_server_refuses_or_a_full_disk_is_one_clear_line(
    server: VllmServer, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = LocalPolicy(tiny_model_dir)
    model = get_peft_model(policy.model, LoraConfig(r=80, target_modules="all-linear"))
    with pytest.raises(WeightSyncError, match=r"did not take policy-v0000: .*rank") as caught:
        AdapterSync(server, model, tmp_path).push(0)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(type(model), "save_pretrained", _full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        AdapterSync(server, model, tmp_path).push(1)


def _full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_another_base_than_the_servers_is_refused(server: VllmServer, tiny_model_dir: Path, tmp_path: Path) -> None:
    other = build_tiny_random(tmp_path / "other", seed=1)
    with pytest.raises(WeightSyncError, match="has another weights than the served model"):
        AdapterSync(server, adapted(other).model, tmp_path)
    with pytest.raises(WeightSyncError, match="the model has no adapter"):
        AdapterSync(server, LocalPolicy(tiny_model_dir).model, tmp_path)


@pytest.mark.parametrize("pipeline", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_updates_are_made_from_served_trials_of_the_allowed_age(
    server: VllmServer, tiny_model_dir: Path, tmp_path: Path, pipeline: int
) -> None:
    policy = adapted(tiny_model_dir)
    sync = AdapterSync(server, policy.model, tmp_path / "adapters", keep=pipeline + 1)
    batches = PlayedBatches(COLLECT, tmp_path / "collected", pipeline=pipeline, concurrency=4)
    source = Collector(Served(sync), batches, updates=3)
    args = config(
        tmp_path,
        updates=3,
        learning_rate=1e-3,
        old_logprobs="recomputed",
        normalise="batch",
        max_staleness=pipeline,
        logging_steps=1,
    )
    trainer = LamerTrainer(policy.model, source, args, processing_class=policy.tokenizer)
    try:
        trainer.train()
        with source.sampling(3) as validating:
            assert validating.model == "policy-v0003"
    finally:
        source.release()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    ages = [0, 0, 0] if pipeline == 0 else [0, 1, 1]
    assert [line["sampling/staleness_max"] for line in logs] == ages
    assert all(
        line["sampling/logprob_gap_mean"] < (0.02 if age == 0 else 0.5) for line, age in zip(logs, ages, strict=True)
    )
    for step, age in enumerate(ages):
        assert set(versions(tmp_path / "collected" / f"update-{step:05d}")) == {f"policy-v{step - age:04d}"}
    assert not (tmp_path / "collected" / "update-00003").exists()
    assert source.metrics["swap/probe_error"] < 0.02
    assert list(server.adapters) == [f"policy-v{version:04d}" for version in range(3 - pipeline, 4)]
