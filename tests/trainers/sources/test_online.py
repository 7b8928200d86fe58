"""Collecting with the policy that is trained: versions, pauses, resuming, and a run that is killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from lamer_graph.errors import PolicyError
from lamer_graph.runlog import read_trials
from lamer_graph.types import Sampling
from online_run import make_run
from places import SUPPORT

SCRIPT = SUPPORT / "online_run.py"


pytestmark = pytest.mark.usefixtures("one_thread")


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
    assert trainer.source.sampler.policy.model is trainer.model
    staleness = [line["sampling/staleness_max"] for line in trainer.state.log_history if "loss" in line]
    assert staleness == [0.0, 0.0, 0.0]


def test_the_policy_waits_while_the_trainer_may_write(tiny_model_dir, tmp_path):
    source = make_run(tiny_model_dir, tmp_path).source
    source.next_batch(0)
    answered = threading.Event()

    def ask():
        source.sampler.policy.generate_sync([{"role": "user", "content": "Act"}], Sampling(max_tokens=4))
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    assert not answered.wait(0.3)
    source.release()
    assert answered.wait(10)


def seen(folder):
    """Per update and trial, the records that each episode saw."""
    return [
        {trial["trial_id"]: [read["keys"] for read in trial["memory_reads"]] for trial in read_trials(update)}
        for update in sorted((folder / "collected").glob("update-*"))
    ]


@pytest.mark.parametrize("scope", ["trial", pytest.param("tasks", marks=pytest.mark.slow)])
def test_a_killed_run_that_is_resumed_equals_an_uninterrupted_one_bit_for_bit(tiny_model_dir, tmp_path, request, scope):
    """kill -9 in the middle of the third collection, after the checkpoint of the second update."""
    uninterrupted, expected = request.getfixturevalue("whole" if scope == "trial" else "whole_tasks")
    process = subprocess.Popen([sys.executable, SCRIPT, tiny_model_dir, tmp_path, scope], stderr=subprocess.DEVNULL)
    partly = tmp_path / "collected" / "update-00002" / "trials.jsonl"
    deadline = time.monotonic() + 300
    try:
        while not (partly.exists() and partly.read_bytes().count(b"\n")):
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert partly.read_bytes().count(b"\n") < 4
    trainer = make_run(tiny_model_dir, tmp_path, scope=scope)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    trainer.source.release()
    assert partly.read_bytes().count(b"\n") == 4
    assert seen(tmp_path) == seen(uninterrupted)
    got, expected = trainer.model.state_dict(), expected.model.state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_a_run_killed_while_trials_are_begun_again_and_resumed_equals_an_uninterrupted_one_bit_for_bit(
    tiny_model_dir, tmp_path
):
    """kill -9 among the re-rolls of the second collection, after the checkpoint of the first update."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = make_run(tiny_model_dir, whole, scope="rerolls")
    expected.train()
    expected.source.release()
    process = subprocess.Popen([sys.executable, SCRIPT, tiny_model_dir, cut, "rerolls"], stderr=subprocess.DEVNULL)
    partly = cut / "collected" / "update-00001" / "trials.jsonl"
    deadline = time.monotonic() + 300
    try:
        while not (partly.exists() and b'"branch"' in partly.read_bytes()):
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = partly.read_bytes().count(b"\n")
    trainer = make_run(tiny_model_dir, cut, scope="rerolls")
    trainer.train(resume_from_checkpoint=str(cut / "checkpoint-2"))
    trainer.source.release()
    assert partly.read_bytes().count(b"\n") == 4 + 2 * 3 > left
    assert seen(cut) == seen(whole)
    got, wanted = trainer.model.state_dict(), expected.model.state_dict()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.fixture(scope="module")
def whole_tasks(tiny_model_dir, tmp_path_factory):
    """The same with a memory of other tasks."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole-tasks")
    trainer = make_run(tiny_model_dir, folder, scope="tasks")
    trainer.train()
    trainer.source.release()
    return folder, trainer


def written(folder):
    """What the finished trials of an update wrote."""
    return {key for trial in read_trials(folder) for write in trial["memory_writes"] for key in write["keys"]}


def test_an_update_sees_what_the_updates_before_it_left_and_a_group_nothing_of_each_other(whole_tasks):
    folder, _ = whole_tasks
    wrote = [written(folder / "collected" / f"update-{update:05d}") for update in range(3)]
    for update, trials in enumerate(seen(folder)):
        before = set().union(*wrote[:update])
        others = {
            key for name, reads in trials.items() for keys in reads for key in keys if not key.startswith(f"{name}/")
        }
        assert others <= before
        assert bool(others) == (update > 0)


def test_records_of_updates_that_were_lost_are_lost_with_them(tiny_model_dir, tmp_path, whole_tasks):
    """A run that goes back to its first checkpoint sees what it saw then, though later updates had written."""
    folder = tmp_path / "run"
    shutil.copytree(whole_tasks[0], folder)
    trainer = make_run(tiny_model_dir, folder, scope="tasks")
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    trainer.source.release()
    assert len(list((folder / "collected").glob("abandoned-*-update-00002"))) == 1
    assert seen(folder) == seen(whole_tasks[0])
    got, expected = trainer.model.state_dict(), whole_tasks[1].model.state_dict()
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
        source.sampler.policy.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(PolicyError, match=r"4 of 4 trials of update 0 failed.* not finite"):
        source.next_batch(0)
