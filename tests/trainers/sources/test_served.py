"""Training with a policy that vLLM serves: in turns on one device, on two, through deaths and kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from adapters import COLLECT, adapted
from fake_server import FakeServer, fake_server
from lamer_graph.errors import ConfigError, PolicyError, ServeError
from lamer_graph.policies.base import run_sync
from lamer_graph.policies.shipped import card, shipped_policy
from lamer_graph.runlog import read_trials
from lamer_graph.serving import arguments, needs
from lamer_graph.serving import vllm as serve
from lamer_graph.serving.vllm import INSTALL_HINT, VllmServer, vllm_flavour
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import RunFile, Server, load_run
from lamer_trainers.sources import served
from lamer_trainers.sources.batches import PlayedBatches
from lamer_trainers.sources.collector import Collector
from lamer_trainers.sources.served import Served, check_placement, make_server
from lamer_trainers.sources.sync import AdapterSync
from places import SUPPORT

SCRIPT = SUPPORT / "served_run.py"

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_an_adapter_of_a_run_under_way_says_how_it_is_asked(
    pretended: VllmServer, tiny_model_dir: Path, tmp_path: Path
) -> None:
    about = {"env": "minesweeper:4x4-3", "prompt_style": "compact", "template": {}}
    AdapterSync(pretended, adapted(tiny_model_dir).model, tmp_path, tolerance=1e9, card=about).push(0)
    assert card(tmp_path / "policy-v0000") == about


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


def test_placement_reaches_the_servers_command_and_environment(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "_parsed", lambda given: set())  # vLLM itself takes a while to answer

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
    extra = "server.extra_args=[--max-num-seqs, 64, --block-size=16]"
    assert made(extra)[0][-3:] == ["--max-num-seqs", "64", "--block-size=16"]
    argv, environment = made("server.placement=colocated")
    assert "--enable-sleep-mode" in argv
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"


def test_devices_of_a_run_and_its_parallelism_are_as_many(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (arguments, needs):
        monkeypatch.setattr(module, "vllm_flavour", lambda: "gpu")
    base = [f"policy={tiny_model_dir}", "template=null", "pipeline=0", "server.devices='1,2,3,4'"]

    def made(*changes: str) -> list[str]:
        return make_server(load_run(preset="minesweeper-qwen3-4b", changes=[*base, *changes]), tmp_path)._argv()

    argv = made("server.tensor_parallel=2", "server.data_parallel=2")
    assert argv[argv.index("--tensor-parallel-size") + 1] == argv[argv.index("--data-parallel-size") + 1] == "2"
    with pytest.raises(ConfigError, match=r"devices 1,2,3,4 are 4, and .* uses 2: the others would do nothing"):
        made("server.tensor_parallel=2")


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
        ({"tensor_parallel": 2}, False, None, "server.tensor_parallel need a CUDA device"),
        ({"data_parallel": 2}, True, "0", "uses 2 devices: name them in server.devices, apart from the trainer's"),
        ({"devices": "1,2", "tensor_parallel": 2}, True, "0", None),
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
    assert all(card(version) == card(folder / "adapter") for version in (folder / "adapters").iterdir())


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
