"""Collecting with the policy that is trained: versions, pauses, resuming, and a run that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from online_run import make_run

from lamer_graph.collect import CollectConfig
from lamer_graph.errors import PolicyError
from lamer_graph.runlog import read_trials
from lamer_graph.types import Sampling
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.online import OnlineCollector

SCRIPT = Path(__file__).parent / "online_run.py"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tiny_model_dir, tmp_path_factory):
    """A run of three updates that nobody disturbed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_run(tiny_model_dir, folder)
    trainer.train()
    trainer.source.release()
    return folder, trainer


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_every_update_is_sampled_by_its_own_version_on_tasks_of_its_own(whole):
    folder, _ = whole
    tasks = []
    for update in range(3):
        trials = list(read_trials(folder / "collected" / f"update-{update:05d}"))
        assert len(trials) == 4
        versions = {turn["call"]["policy_version"] for t in trials for e in t["episodes"] for turn in e["turns"]}
        assert versions == {f"policy-v{update:04d}"}
        tasks.append({trial["task"]["id"] for trial in trials})
    assert not tasks[0] & tasks[1]
    assert not tasks[1] & tasks[2]


def test_what_is_trained_is_what_samples(whole):
    _, trainer = whole
    first = trainer.state.log_history[0]
    assert first["sampling/logprob_gap_max"] < 1e-4
    assert trainer.source.policy.model is trainer.model
    staleness = [line["sampling/staleness_max"] for line in trainer.state.log_history if "loss" in line]
    assert staleness == [0.0, 0.0, 0.0]


def test_the_policy_waits_while_the_trainer_may_write(tiny_model_dir, tmp_path):
    source = make_run(tiny_model_dir, tmp_path).source
    source.next_batch(0)
    answered = threading.Event()

    def ask():
        source.policy.generate_sync([{"role": "user", "content": "Act"}], Sampling(max_tokens=4))
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    assert not answered.wait(0.3)
    source.release()
    assert answered.wait(10)


def test_a_killed_run_that_is_resumed_equals_an_uninterrupted_one_bit_for_bit(tiny_model_dir, tmp_path, whole):
    """kill -9 in the middle of the third collection, after the checkpoint of the second update."""
    process = subprocess.Popen([sys.executable, SCRIPT, tiny_model_dir, tmp_path], stderr=subprocess.DEVNULL)
    partly = tmp_path / "collected" / "update-00002" / "trials.jsonl"
    deadline = time.monotonic() + 120
    while not (partly.exists() and partly.read_bytes().count(b"\n")):
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partly.read_bytes().count(b"\n") < 4
    trainer = make_run(tiny_model_dir, tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    trainer.source.release()
    assert partly.read_bytes().count(b"\n") == 4
    expected = whole[1].model.state_dict()
    got = trainer.model.state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_what_was_collected_after_the_checkpoint_is_put_aside(tiny_model_dir, tmp_path):
    later = tmp_path / "collected" / "update-00005"
    later.mkdir(parents=True)
    (later / "trials.jsonl").write_text("")
    source = make_run(tiny_model_dir, tmp_path).source
    source.next_batch(2)
    source.release()
    assert not later.exists()
    assert [folder.name.partition("update")[2] for folder in later.parent.glob("abandoned-*")] == ["-00005"]


def test_a_policy_that_fails_stops_the_run(tiny_model_dir, tmp_path):
    source = make_run(tiny_model_dir, tmp_path).source
    with torch.no_grad():
        source.policy.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(PolicyError, match=r"4 of 4 trials of update 0 failed.* not finite"):
        source.next_batch(0)


@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"top_k": 5}, {"temperature": 0.0}, {"skip": 3}])
def test_sampling_that_cannot_be_trained_on_is_refused(tiny_model_dir, tmp_path, options):
    config = CollectConfig(env="minesweeper:4x4-3", tasks=2, **options)
    with pytest.raises(TrainingConfigError):
        OnlineCollector(make_run(tiny_model_dir, tmp_path).source.policy, config, tmp_path)
