"""A run in several processes, as `accelerate launch` starts them: what one process would train, collected once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from command_line import Cli
from lamer_graph.runlog import read_trials
from lamer_trainers.errors import StoppedElsewhereError, TrainingConfigError
from lamer_trainers.learning.launch import is_main, launched
from lamer_trainers.loop import processes
from lamer_trainers.loop.processes import Agree, Group, Unasked

SMALL = (
    *("collect.tasks=2", "collect.trials=2", "collect.max_turns=3", "collect.max_tokens=8", "optimise.updates=2"),
    *("optimise.mini_batches=2", "optimise.warmup_updates=0", "deterministic=true", "save_every=1"),
    *("validation.tasks=2", "validation.every=1"),
)


def run(folder: Path, model: Path, *changes: str, count: int = 2) -> subprocess.CompletedProcess[str]:
    """`lamer-graph train`, as one process or as several on the CPU."""
    train = ["train", "--preset", "minesweeper-cpu", "--out", str(folder), f"policy={model}", *SMALL, *changes]
    command = [sys.executable, "-m", "lamer_graph", *train]
    if count > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # Its --cpu means one process; several on the CPU are asked for in the environment.
        options = {"num_processes": count, "num_machines": 1, "main_process_port": port, "mixed_precision": "no"}
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--dynamo_backend", "no"]
        command = [*launch, *(f"--{name}={value}" for name, value in options.items()), *command[1:]]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def played(log: Path) -> tuple[dict[str, list[Any]], list[float]]:
    """Every trial's turns and reflections, without how long their calls took, and all logprobs as one list."""
    found: dict[str, list[Any]] = {}
    logprobs: dict[str, list[float]] = {}
    for trial in read_trials(log):
        turns = [turn for episode in trial["episodes"] for turn in episode["turns"]]
        for one in (*turns, *trial["reflections"]):
            one["call"].pop("seconds")
            logprobs.setdefault(trial["trial_id"], []).extend(one["call"].pop("logprobs"))
        found[trial["trial_id"]] = [trial["episodes"], trial["reflections"]]
    assert len(found) == 4
    return found, [one for _, trial in sorted(logprobs.items()) for one in trial]


def weights(folder: Path) -> torch.Tensor:
    (file,) = [*folder.glob("policy/model.safetensors"), *folder.glob("adapter/adapter_model.safetensors")]
    return torch.cat([value.flatten() for _, value in sorted(load_file(file).items())])


@pytest.mark.parametrize(
    "changes",
    [pytest.param((), id="all weights"), pytest.param(("lora.rank=4",), id="an adapter")],
)
@pytest.mark.slow  # five trainings, some of them of two processes
@pytest.mark.timeout(900)
def test_two_processes_train_what_one_trains_and_one_of_them_speaks(
    tiny_model_dir: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    folders = {count: tmp_path / str(count) for count in (1, 2)}
    done = {count: run(folder, tiny_model_dir, *changes, count=count) for count, folder in folders.items()}
    for count, folder in folders.items():
        assert done[count].returncode == 0, done[count].stderr[-3000:]
        noted = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["update"] for line in noted] == [1, 2]
        assert all("validation/pass@k" in line for line in noted)
        assert done[count].stdout.count(" learns ") == done[count].stdout.count("done: ") == 1
        for step in range(2):
            trials = list(read_trials(folder / "collected" / f"update-{step:05d}"))
            assert len(trials) == 4
    (one_played, one_logprobs), (two_played, two_logprobs) = (
        played(folder / "collected" / "update-00000") for folder in folders.values()
    )
    assert one_played == two_played
    assert one_logprobs == pytest.approx(two_logprobs, abs=1e-5)  # an adapter's differ in the last bit of a float
    one, two = (weights(folder) for folder in folders.values())
    assert float((one - two).norm() / one.norm()) < 1e-3
    longer = run(folders[2], tiny_model_dir, *changes, "optimise.updates=3", "--resume")
    assert longer.returncode == 0, longer.stderr[-3000:]
    assert len((folders[2] / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow  # two processes are begun
def test_what_the_main_process_refuses_stops_all_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path / "run", tmp_path / "nowhere")
    assert done.returncode != 0
    assert done.stderr.count("is not a folder with a model in Hugging Face format") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK: start it with `accelerate launch`"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE=many is no number of processes"),
        ({"WORLD_SIZE": "2", "RANK": "0", "ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP spreads the weights"),
        ({"WORLD_SIZE": "2", "RANK": "0", "ACCELERATE_USE_DEEPSPEED": "true"}, "launch with --multi_gpu"),
    ],
)
def test_a_launch_that_cannot_be_trained_in_is_refused(
    cli: Cli, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], says: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingConfigError, match=says):
        launched()
    outcome = cli("train", "--preset", "minesweeper-cpu", f"policy={tiny_model_dir}", "--out", "run")
    assert outcome.code == 2
    assert says in outcome.error_line
    assert not Path("run").exists()


def test_several_processes_need_one_folder_and_only_train(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert not is_main()
    outcome = cli("train", "--preset", "minesweeper-cpu")
    assert outcome.code == 2
    assert "2 processes train in one folder: name it with --out DIR" in outcome.error_line
    outcome = cli("eval", "--tasks", "1")
    assert outcome.code == 2
    assert "only `train` runs as several processes" in outcome.error_line


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[Group, Group]:
    """The main process and another; what the first has said the second hears."""
    said: list[list[Any]] = []

    def broadcast(box: list[Any]) -> None:
        if box[0] is None:
            box[0] = said[-1][0]
        else:
            said.append(box)

    monkeypatch.setattr(processes, "broadcast_object_list", broadcast)
    main, other = Group(), Group()
    main.count = other.count = 2
    other.main = False
    return main, other


def test_the_others_do_what_the_main_process_decides(pair: tuple[Group, Group]) -> None:
    main, other = pair
    assert main.first(lambda: 7) == other.first(lambda: 8) == 7
    stop, unaware = SimpleNamespace(should_training_stop=True), SimpleNamespace(should_training_stop=False)
    Agree(main).on_log(None, None, stop)
    Agree(other).on_log(None, None, unaware)
    assert unaware.should_training_stop is True


@pytest.mark.parametrize("error", [TrainingConfigError("no policy"), KeyboardInterrupt()], ids=["config", "ctrl-c"])
def test_what_stops_the_main_process_stops_the_others(pair: tuple[Group, Group], error: BaseException) -> None:
    main, other = pair

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        main.first(fail)
    with pytest.raises(StoppedElsewhereError, match=r"the main process stopped: (no policy|KeyboardInterrupt)"):
        other.first(lambda: None)


def test_a_process_alone_asks_nobody() -> None:
    assert Group().first(lambda: 3) == 3
    with pytest.raises(AssertionError):
        Unasked().next_batch(0)
