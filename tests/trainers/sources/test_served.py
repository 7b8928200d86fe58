"""Training with a policy that vLLM serves: swaps under load, proofs, pipelining, deaths, and resuming."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from fake_server import FakeServer, fake_server
from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import ConfigError, PolicyError, ServeError
from lamer_graph.policies.base import run_sync
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.shipped import shipped_policy
from lamer_graph.runlog import read_trials
from lamer_graph.serving import vllm as serve
from lamer_graph.serving.vllm import INSTALL_HINT, VllmServer, vllm_flavour
from lamer_graph.types import Sampling
from lamer_trainers import runfile
from lamer_trainers.errors import CheckpointError, TrainingConfigError, WeightSyncError
from lamer_trainers.learning.trainer import LamerTrainer
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import RunFile, Server, load_run
from lamer_trainers.sources import served
from lamer_trainers.sources.ahead import Ahead
from lamer_trainers.sources.batches import Collected, PlayedBatches
from lamer_trainers.sources.collector import Collector
from lamer_trainers.sources.served import Served, check_placement, make_server
from lamer_trainers.sources.sync import AdapterSync
from places import SUPPORT
from tiny_random import build_tiny_random
from training import config

SCRIPT = SUPPORT / "served_run.py"
COLLECT = CollectConfig(
    env="minesweeper:4x4-3", tasks=2, trials=2, max_episodes=2, max_turns=2, prompt_style="compact", max_tokens=4
)


pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.fixture
def server(vllm_server: VllmServer):
    """The suite's server, left without adapters."""
    yield vllm_server
    for name in list(vllm_server.adapters):
        vllm_server.unload_adapter(name)


def versions(folder: Path) -> Counter[str]:
    """How many calls each version made in a run folder."""
    made: Counter[str] = Counter()
    for trial in read_trials(folder):
        assert trial["error"] is None
        entries = [turn for episode in trial["episodes"] for turn in episode["turns"]] + trial["reflections"]
        made.update(entry["call"]["policy_version"] for entry in entries if entry["call"])
    return made


# -- swaps ------------------------------------------------------------------------------------------------------------


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


# -- training from the server -----------------------------------------------------------------------------------------


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


# -- in turns on one device, and on two -------------------------------------------------------------------------------


@pytest.fixture
def pretended(server_of_the_fake: FakeServer, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """A VllmServer of a GPU machine, whose process does nothing and whose port is the fake's."""
    monkeypatch.setattr(serve, "claim_port", lambda host, port: server_of_the_fake.server_port)
    monkeypatch.setattr(serve, "vllm_flavour", lambda: "gpu")
    monkeypatch.setattr(VllmServer, "_argv", lambda self: ["/bin/sleep", "600"])
    with VllmServer(tiny_model_dir, can_sleep=True) as server:
        yield server


@pytest.fixture
def server_of_the_fake():
    with fake_server() as running:
        running.answer = "a"
        yield running


def test_a_colocated_server_is_awake_to_play_and_to_take_adapters_and_asleep_while_the_trainer_updates(
    server_of_the_fake: FakeServer, pretended: VllmServer, tiny_model_dir: Path, tmp_path: Path
) -> None:
    fake = server_of_the_fake
    sync = AdapterSync(pretended, adapted(tiny_model_dir).model, tmp_path / "adapters", tolerance=1e9)
    source = Collector(Served(sync, colocated=True), PlayedBatches(COLLECT, tmp_path / "collected"))
    for step in range(2):
        assert len(source.next_batch(step)) == 4
        assert fake.asleep
    with source.sampling(2) as validating:
        assert not fake.asleep
        assert validating.model == "policy-v0002"
    load, unload, sleep = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep?level=1&mode=wait"
    later = ["/wake_up", load, "chat", unload]
    assert fake.events == ["/wake_up", load, "chat", sleep, *later, "chat", sleep, *later, sleep]


def test_trials_that_outgrow_the_servers_window_are_trimmed_and_none_is_lost(
    server_of_the_fake: FakeServer, pretended: VllmServer, tiny_model_dir: Path, tmp_path: Path
) -> None:
    server_of_the_fake.context = 400  # and the adapter's card does not say so
    sync = AdapterSync(pretended, adapted(tiny_model_dir).model, tmp_path / "adapters", tolerance=1e9)
    run = COLLECT.model_copy(update={"prompt_style": "standard", "max_turns": 10, "max_episodes": 1})
    source = Collector(Served(sync), PlayedBatches(run, tmp_path / "collected"))
    trials = source.next_batch(0)
    with source.sampling(1) as validating:
        assert run_sync(validating.window()) == 400
    assert len(trials) == 4
    dropped = [turn["call"]["dropped"] for trial in trials for turn in trial["episodes"][0]["turns"]]
    assert len(dropped) == 40
    assert dropped[0] == 0 < dropped[-1]


def test_a_call_without_exact_tokens_never_becomes_a_sample(
    server_of_the_fake: FakeServer, pretended: VllmServer, tiny_model_dir: Path, tmp_path: Path
) -> None:
    sync = AdapterSync(pretended, adapted(tiny_model_dir).model, tmp_path / "adapters", tolerance=1e9)
    sync.push(0)
    server_of_the_fake.fault = "no token ids"
    with pytest.raises(PolicyError, match=r"4 of 4 trials of update 0 failed, .*training needs vLLM"):
        Collector(Served(sync), PlayedBatches(COLLECT, tmp_path / "collected")).next_batch(0)


def test_a_server_that_does_not_wake_or_was_not_made_to_sleep_is_one_clear_line(
    server_of_the_fake: FakeServer, pretended: VllmServer, tiny_model_dir: Path
) -> None:
    server_of_the_fake.fault = "insomnia"
    with pytest.raises(ServeError, match=r"vLLM is not awake after /wake_up: .*sleeping"):
        pretended.wake()
    server_of_the_fake.fault = "500"
    with pytest.raises(ServeError, match=r"vLLM refused /sleep.* \(500\)"):
        pretended.sleep()
    with pytest.raises(ServeError, match="started without can_sleep"):
        VllmServer(tiny_model_dir).sleep()
    with pytest.raises(ConfigError, match=r"unguarded routes: serve it on 127\.0\.0\.1"):
        VllmServer(tiny_model_dir, can_sleep=True, host="0.0.0.0", api_key="sk-1")


def test_placement_reaches_the_servers_command_and_environment(tiny_model_dir: Path, tmp_path: Path) -> None:
    def made(*changes: str) -> tuple[list[str], dict[str, str]]:
        run = load_run(
            preset="minesweeper-qwen3-4b", changes=[f"policy={tiny_model_dir}", "template=null", "pipeline=0", *changes]
        )
        server = make_server(run, tmp_path)
        return server._argv(), server._environment()

    argv, environment = made("server.devices=1", "server.gpu_memory=0.4")
    assert argv[argv.index("--gpu-memory-utilization") + 1] == "0.4"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "--enable-sleep-mode" not in argv
    assert "VLLM_SERVER_DEV_MODE" not in environment
    argv, environment = made("server.placement=colocated")
    assert "--enable-sleep-mode" in argv
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"


@pytest.mark.parametrize(
    ("changes", "cuda", "share"),
    [
        ((), True, "0.5"),
        (("server.placement=colocated",), True, "0.5"),
        (("server.gpu_memory=0.4",), True, "0.4"),
        (("server.devices=1",), True, None),
        ((), False, None),
    ],
)
def test_a_server_beside_the_trainer_takes_half_of_the_device_unless_it_is_told(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: tuple[str, ...],
    cuda: bool,
    share: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(served, "vllm_flavour", lambda: "gpu" if cuda else "cpu")
    base = [f"policy={tiny_model_dir}", "template=null", "server.gpu_memory=null"]
    argv = make_server(load_run(preset="minesweeper-qwen3-4b", changes=[*base, *changes]), tmp_path)._argv()
    told = [argv[at + 1] for at, word in enumerate(argv) if word == "--gpu-memory-utilization"]
    assert told == ([] if share is None else [share])


@pytest.mark.parametrize(
    ("server", "cuda", "visible", "message"),
    [
        ({"placement": "colocated"}, False, None, "server.placement=colocated need a CUDA device"),
        ({"devices": "1", "gpu_memory": 0.5}, False, "0", "server.devices and server.gpu_memory need a CUDA device"),
        ({"devices": "1"}, True, None, "the trainer sees all devices: start it with CUDA_VISIBLE_DEVICES"),
        ({"devices": "0,1"}, True, "1", "alone on server.devices=0,1, but the trainer sees 1"),
        ({"devices": "1"}, True, "0", None),
        ({"placement": "colocated", "gpu_memory": 0.5}, True, None, None),
        ({}, False, None, None),
    ],
)
def test_a_placement_that_this_machine_cannot_have_is_refused(
    server: dict[str, Any], cuda: bool, visible: str | None, message: str | None
) -> None:
    if message is None:
        check_placement(Server(**server), cuda=cuda, visible=visible)
        return
    with pytest.raises(TrainingConfigError, match=message) as caught:
        check_placement(Server(**server), cuda=cuda, visible=visible)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_colocated_run_on_a_machine_without_cuda_stops_before_any_work(tiny_model_dir: Path, tmp_path: Path) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    changes = [f"policy={tiny_model_dir}", "template=null", "pipeline=0", "server.placement=colocated"]
    with pytest.raises(TrainingConfigError, match="need a CUDA device"):
        train(load_run(preset="minesweeper-qwen3-4b", changes=changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- collecting ahead -------------------------------------------------------------------------------------------------


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


# -- run files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["server.dtype=auto"], r"takes adapters, not weights .*: train an adapter with lora\.rank"),
        (["server.placement=colocated", "lora.rank=8", "pipeline=1"], r"take turns, .*: set pipeline=0"),
        (["server={placement: colocated, devices: '1'}", "lora.rank=8"], "drop server.devices"),
        (["server.devices=gpu1", "lora.rank=8"], r"server\.devices: "),
        (["server.gpu_memory=1.5", "lora.rank=8"], r"server\.gpu_memory: .*less than or equal to 1"),
        (["server.dtype=auto", "lora.rank=8"], r"with `server` .* set optimise\.old_logprobs=recomputed"),
        (["pipeline=1"], r"with `pipeline` .* set optimise\.old_logprobs=recomputed"),
        (["pipeline=-1"], "pipeline: .*greater than or equal to 0"),
        (["pipeline=1", "deterministic=true", "optimise.old_logprobs=recomputed"], "drop it or `pipeline`"),
        (["server.dtyp=auto", "lora.rank=8"], "unknown key 'server.dtyp'; did you mean 'dtype'"),
    ],
)
def test_what_cannot_be_served_or_pipelined_is_refused_before_any_work(changes: list[str], message: str) -> None:
    with pytest.raises(TrainingConfigError, match=message) as caught:
        load_run(preset="minesweeper-cpu", changes=changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flavour", "reason"),
    [("cpu", "on the CPU it reloads weights wrongly"), ("gpu", "its answers do not say which weights made them")],
)
def test_full_weights_with_a_server_are_refused_with_the_machines_own_reason(
    monkeypatch: pytest.MonkeyPatch, flavour: str, reason: str
) -> None:
    monkeypatch.setattr(runfile, "vllm_flavour", lambda: flavour)
    with pytest.raises(TrainingConfigError, match=f"{reason}.*drop `server` to train all weights"):
        load_run(preset="minesweeper-cpu", changes=["server.dtype=auto"])


# -- the whole loop, with a server of its own -------------------------------------------------------------------------


def whole_run(pipeline: int = 1) -> RunFile:
    base = shipped_policy("minesweeper:4x4-3")
    if base is None or vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    changes = ["collect.tasks=2", "collect.trials=2", "optimise.updates=3", "optimise.mini_batches=1", "lora.rank=8"]
    changes += ["optimise.old_logprobs=recomputed", "server.dtype=auto", f"pipeline={pipeline}", "save_every=1"]
    changes += ["validation=null"]
    return load_run(preset="minesweeper-cpu", changes=[*changes, f"policy={base}", "optimise.warmup_updates=0"])


def check_whole(folder: Path) -> None:
    """Every update noted once, every trial there once, and the result an adapter that moved."""
    noted = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in noted] == [1, 2, 3]
    for step in range(3):
        trials = list(read_trials(folder / "collected" / f"update-{step:05d}"))
        assert all(trial["error"] is None for trial in trials)
        assert Counter((trial["task"]["id"], trial["trial"]) for trial in trials).most_common(1)[0][1] == 1
        assert len(trials) == 4
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    assert (folder / "adapter" / "lamer_base.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", [0, 1])
def test_a_killed_engine_comes_back_with_the_adapter_and_the_run_goes_on(tmp_path: Path, pipeline: int) -> None:
    folder, seen = tmp_path / "run", []

    def kill_engine(line: dict[str, Any]) -> None:
        seen.append(line)
        if line["update"] == 1:
            engines = [p for p in psutil.Process().children(recursive=True) if "EngineCore" in " ".join(p.cmdline())]
            assert engines
            engines[0].kill()

    train(whole_run(pipeline), folder, progress=kill_engine)
    assert [line["server/restarts"] for line in seen][-1] == 1
    assert all(line["sampling/logprob_gap_mean"] < 0.1 for line in seen)
    check_whole(folder)
    log = (folder / "server" / "server.log").read_text()
    assert log.count("Application startup complete") == 2


@pytest.mark.slow
def test_turns_are_taken_through_the_routes_of_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU vLLM frees nothing, but pauses its scheduler: without waking, nothing would be answered."""
    run = whole_run(pipeline=0)
    assert run.server is not None
    run = run.model_copy(update={"server": run.server.model_copy(update={"placement": "colocated"})})
    argv = VllmServer._argv
    monkeypatch.setattr(
        VllmServer, "_argv", lambda self: [word for word in argv(self) if word != "--enable-sleep-mode"]
    )
    monkeypatch.setattr("lamer_trainers.loop.train.check_placement", lambda *_, **__: None)
    turns: list[str] = []
    reach = VllmServer._sleeping

    def noted(self: VllmServer, path: str, wanted: str) -> None:
        reach(self, path, wanted)  # raises unless the server says that it is so
        turns.append(wanted)

    monkeypatch.setattr(VllmServer, "_sleeping", noted)
    train(run, tmp_path / "run")
    check_whole(tmp_path / "run")
    assert min(turns.count("sleeping"), turns.count("awake")) >= run.optimise.updates


@pytest.mark.gpu
def test_a_colocated_run_on_a_gpu_frees_the_device_and_samples_what_was_trained(tmp_path: Path) -> None:
    run = whole_run(pipeline=0)
    assert run.server is not None
    placed = run.server.model_copy(update={"placement": "colocated", "gpu_memory": 0.3})
    free: list[int] = []
    folder = tmp_path / "run"
    train(
        run.model_copy(update={"server": placed}),
        folder,
        progress=lambda line: free.append(torch.cuda.mem_get_info()[0]),
    )
    check_whole(folder)
    assert min(free) > 0.8 * torch.cuda.mem_get_info()[1]  # the server's 0.3 of the device were given away
    assert all(line["swap/probe_error"] < 0.3 for line in map(json.loads, (folder / "metrics.jsonl").open()))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["collecting", "saved"])
def test_a_killed_run_resumes_without_loss_or_doubling(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "run"
    (tmp_path / "run.json").write_text(whole_run().model_dump_json())
    command = [sys.executable, str(SCRIPT), str(tmp_path / "run.json"), str(folder)]
    process = subprocess.Popen([*command, moment])
    try:
        assert process.wait(250) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
    assert (folder / "checkpoints" / "checkpoint-2").exists() == (moment == "saved")
    assert (folder / "adapters" / "policy-v0002").exists() == (moment == "saved")
    subprocess.run([*command, "resume"], check=True, timeout=250)
    check_whole(folder)
