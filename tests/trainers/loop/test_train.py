"""The whole loop on the random tiny policy: what it leaves in its folder, and how it goes on."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import time

import orjson
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import loop_run
from lamer_graph.errors import ConfigError, PolicyError
from lamer_graph.evaluation.evaluate import evaluate
from lamer_graph.policies.fingerprint import BASE_FILE
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.shipped import card
from lamer_graph.runlog import read_trials
from lamer_memory import ChromaMemory, MemoryConfigError, MemoryServerError
from lamer_memory.hygiene import all_namespaces, read_all
from lamer_trainers.errors import CheckpointError, TrainingConfigError
from lamer_trainers.loop.run_folder import last_checkpoint
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run
from loop_run import SMALL, run_in

pytestmark = pytest.mark.usefixtures("one_thread")


def small(model_dir, *changes):
    base = (f"policy={model_dir}", *SMALL, "validation=null", "optimise.updates=2", "save_every=1")
    return load_run(preset="minesweeper-cpu", changes=[*base, *changes])


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_policy_metrics_and_every_trial(tiny_model_dir, tmp_path):
    seen = []
    run = small(tiny_model_dir, "validation.tasks=2", "validation.every=1")
    done = train(run, tmp_path / "run", progress=seen.append)
    assert done.updates == 2
    lines = metrics(tmp_path / "run")
    assert [line["update"] for line in lines] == [1, 2]
    assert [line["update"] for line in seen] == [1, 2]
    for line in lines:
        assert line["batch/trials"] == 4
        assert line["time/collect"] > 0
        assert line["time/collect"] <= line["time/wait"]
        assert line["time/train"] == pytest.approx(line["time/update"] - line["time/wait"])
        assert line["policy/kl"] >= 0
        assert len(line["validation/pass@k"]) == 2
    assert done.best == max(line["validation/pass@k"][-1] for line in lines)
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()
    trials = list(read_trials(tmp_path / "run" / "collected" / "update-00001"))
    assert len(trials) == 4
    trained = AutoModelForCausalLM.from_pretrained(done.folder)
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    same = [torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert not all(same)
    assert LocalPolicy(done.folder).version == "policy"


def test_what_is_noted_of_an_update_is_reported(tiny_model_dir, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(small(tiny_model_dir, "report_to=tensorboard", "validation.tasks=2", "validation.every=1"), tmp_path / "run")
    (written,) = {path.parent for path in (tmp_path / "run").rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(written)).Reload()
    reported = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    lines = metrics(tmp_path / "run")
    for line in lines:
        line |= {f"validation/pass@{k}": value for k, value in enumerate(line.pop("validation/pass@k"), start=1)}
    assert {f"train/{name}" for name in lines[0]} <= set(reported)
    for name in ("loss", "time/collect", "batch/pass@1", "validation/pass@2"):
        assert reported[f"train/{name}"] == pytest.approx([line[name] for line in lines], rel=1e-5)


def test_a_report_that_cannot_be_made_is_refused_before_any_work(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("lamer_trainers.loop.train.find_spec", lambda name: None)
    with pytest.raises(TrainingConfigError, match="needs the package trackio, which is not installed: pip install"):
        train(small(tiny_model_dir, "report_to=trackio"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validations_without_progress_end_the_run_and_best_and_last_are_kept(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lamer_trainers.loop.watch.Watch._validate", lambda self, update: [0.1, 0.5 if update == 1 else 0.4]
    )
    run = small(
        tiny_model_dir, "validation.tasks=2", "validation.every=1", "validation.patience=2", "optimise.updates=9"
    )
    done = train(run, tmp_path / "run")
    assert (done.updates, done.best, done.best_update) == (3, 0.5, 1)
    best, last = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (tmp_path / "run" / "best", done.folder)
    )
    assert any(not torch.equal(best[name], last[name]) for name in best)


def test_a_run_that_stopped_early_does_not_go_on_when_it_is_resumed(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("lamer_trainers.loop.watch.Watch._validate", lambda self, update: [0.5 if update == 1 else 0.4])
    run = small(
        tiny_model_dir, "validation.tasks=2", "validation.every=1", "validation.patience=1", "optimise.updates=9"
    )
    first = train(run, tmp_path / "run")
    shutil.rmtree(first.folder)  # killed before its last weights were saved
    resumed = train(run, tmp_path / "run", resume=True)
    assert (first.updates, resumed.updates) == (2, 2)
    assert (resumed.best, resumed.best_update) == (0.5, 1)
    assert [line["update"] for line in metrics(tmp_path / "run")] == [1, 2]
    assert AutoModelForCausalLM.from_pretrained(resumed.folder)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "best")


@pytest.mark.parametrize(
    ("change", "error"),
    [({"interrupted": True, "finished": 1}, KeyboardInterrupt), ({"finished": 1, "failed": 1}, PolicyError)],
    ids=["interrupted", "failed"],
)
def test_part_of_a_validation_is_not_taken_for_one(tiny_model_dir, tmp_path, monkeypatch, change, error):
    async def partly(*args, **options):
        reading, summary = await evaluate(*args, **options)
        return reading, summary._replace(**change)

    monkeypatch.setattr("lamer_trainers.loop.watch.evaluate", partly)
    with pytest.raises(error):
        train(small(tiny_model_dir, "validation.tasks=2", "validation.every=1"), tmp_path / "run")
    assert not (tmp_path / "run" / "best").exists()
    assert metrics(tmp_path / "run") == []


def test_last_weights_are_whole_or_not_there(tiny_model_dir, tmp_path, monkeypatch):
    def full(folder, run, tokenizer):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lamer_trainers.loop.train.finish", full)
    run = small(tiny_model_dir)
    with pytest.raises(CheckpointError, match=r"cannot save to .* go on with --resume"):
        train(run, tmp_path / "run")
    assert not list((tmp_path / "run").glob("policy*"))
    monkeypatch.undo()
    assert train(run, tmp_path / "run", resume=True).folder.is_dir()


def test_a_fresh_adapter_is_drawn_by_the_runs_seed(tiny_model_dir, tmp_path):
    def drawn(name, seed):
        torch.rand(7)  # whatever was drawn before in the process
        options = ("lora.rank=4", "lora.alpha=8", "optimise.updates=1", "optimise.learning_rate=0")
        done = train(small(tiny_model_dir, *options, f"optimise.seed={seed}"), tmp_path / name)
        return load_file(done.folder / "adapter_model.safetensors")

    first, again, other = drawn("first", 1), drawn("again", 1), drawn("other", 2)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_an_adapter_is_trained_and_loads_with_plain_peft(tiny_model_dir, tmp_path):
    from peft import PeftModel

    done = train(small(tiny_model_dir, "lora.rank=4", "lora.alpha=8"), tmp_path / "run")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    adapted = PeftModel.from_pretrained(base, done.folder)
    moved = [value.abs().max() for name, value in adapted.named_parameters() if "lora_B" in name]
    assert moved
    assert all(value > 0 for value in moved)


@pytest.mark.slow
def test_a_resumed_run_ends_like_an_uninterrupted_one_and_notes_each_update_once(tiny_model_dir, tmp_path):
    run = small(tiny_model_dir, "optimise.updates=3", "deterministic=true")
    whole = train(run, tmp_path / "whole")

    class Cut(Exception):
        pass

    def cut(line):
        if line["update"] == 2:
            raise Cut

    with pytest.raises(Cut):  # after the line was noted, before the checkpoint of update 2
        train(run, tmp_path / "cut", progress=cut)
    assert last_checkpoint(tmp_path / "cut" / "checkpoints").name == "checkpoint-2"
    resumed = train(run, tmp_path / "cut", resume=True)
    assert [line["update"] for line in metrics(tmp_path / "cut")] == [1, 2, 3]
    first = AutoModelForCausalLM.from_pretrained(whole.folder).state_dict()
    second = AutoModelForCausalLM.from_pretrained(resumed.folder).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


KILLS = {
    "collecting": lambda run: lines_in(run / "collected" / "update-00000" / "trials.jsonl") > 0,
    "a validation": lambda run: lines_in(run / "validation" / "update-00001" / "trials.jsonl") > 0,
    "a checkpoint": lambda run: (run / "checkpoints" / "checkpoint-4").exists(),
    "the result": lambda run: (run / "policy.new").exists() or (run / "policy").exists(),
}


@pytest.mark.slow  # two and a half minutes; one kill, in a collection, is tried by default (sources/test_online.py)
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_left_alone(tiny_model_dir, tmp_path):
    """kill -9 while each of these is being written, one after the other in one run, which is resumed every time."""
    expected = run_in(tmp_path / "whole", tiny_model_dir)
    folder, script = tmp_path / "killed", [sys.executable, loop_run.__file__, tiny_model_dir, tmp_path / "killed"]
    for name, reached in KILLS.items():
        process = subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not reached(folder) and process.poll() is None:
            assert time.monotonic() < deadline, name
            time.sleep(0.001)
        process.kill()
        assert process.wait() in (-9, 0), f"the run failed before it was killed at: {name}"
    got = run_in(folder, tiny_model_dir)
    assert got._replace(folder=expected.folder) == expected
    for place in ("policy", "best"):
        one, other = (load_file(run / place / "model.safetensors") for run in (tmp_path / "whole", folder))
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    ours, theirs = metrics(folder), metrics(tmp_path / "whole")
    same = ("update", "loss", "validation/pass@k", "batch/reward")
    assert [[line[key] for key in same] for line in ours] == [[line[key] for key in same] for line in theirs]
    assert not [path for path in folder.iterdir() if path.suffix in (".new", ".old", ".former")]


TASKS = ("collect.scope=tasks", "collect.backend=chroma")


def foreign(folder):
    """What the trials of a run saw of others."""
    return {
        key
        for trial in read_trials(folder)
        for read in trial["memory_reads"]
        for key in read["keys"]
        if not key.startswith(f"{trial['trial_id']}/")
    }


def written(folder):
    return {key for trial in read_trials(folder) for write in trial["memory_writes"] for key in write["keys"]}


def held(folder):
    """What the memory of a run was filled with."""
    memory = ChromaMemory(folder / "memory")
    found = {record.key for record in read_all(memory, ("lamer", "before"))}
    memory.close()
    return found


@pytest.mark.parametrize("pipeline", [0, 1])
def test_a_memory_of_other_tasks_goes_on_from_update_to_update_within_its_budget(tiny_model_dir, tmp_path, pipeline):
    changes = ["remember.budget=5", "optimise.updates=4", f"pipeline={pipeline}", "save_every=4"]
    changes += ["validation.tasks=2", "validation.every=4", "optimise.old_logprobs=recomputed"]
    train(small(tiny_model_dir, *TASKS, *changes), tmp_path / "run")
    updates = [tmp_path / "run" / "collected" / f"update-{update:05d}" for update in range(4)]
    for update, folder in enumerate(updates[3:], start=3):  # the memories before that are dropped with the checkpoint
        assert held(folder) <= set().union(*map(written, updates[:update]))
        assert len(held(folder)) == 5
    assert not any((folder / "memory").exists() for folder in updates[:2])
    for update, folder in enumerate(updates):
        assert foreign(folder) <= set().union(*map(written, updates[:update]))
        assert bool(foreign(folder)) == (update > 0)
    read = tmp_path / "run" / "validation" / "update-00004"
    assert set() != foreign(read) <= set().union(*map(written, updates))
    assert not (read / "memory").exists()


def test_what_trials_left_in_a_place_that_others_have_is_forgotten_when_no_resume_needs_it(tiny_model_dir, tmp_path):
    changes = [f"collect.backend=chroma:{tmp_path / 'shared'}", "optimise.updates=4", "validation.tasks=2"]
    train(small(tiny_model_dir, *changes, "validation.every=2"), tmp_path / "run")
    needed = [tmp_path / "run" / "collected" / f"update-{update:05d}" for update in (2, 3)]  # checkpoints: 3 and 4
    notes = [json.loads((folder / "memory.json").read_bytes())["namespace"] for folder in needed]
    memory = ChromaMemory(tmp_path / "shared", embedder=None, read_only=True)
    assert {name[:2] for name in all_namespaces(memory)} == set(map(tuple, notes))
    memory.close()


def test_a_checkpoint_says_how_its_weights_are_asked(tiny_model_dir, tmp_path):
    done = train(small(tiny_model_dir, "lora.rank=4", "optimise.updates=1"), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    assert card(checkpoint) == card(done.folder) != {}
    assert (checkpoint / BASE_FILE).read_bytes() == (done.folder / BASE_FILE).read_bytes()


def test_a_run_may_begin_with_the_memory_of_another(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(small(tiny_model_dir, *TASKS, "optimise.updates=1"), tmp_path / "first")
    first = tmp_path / "first" / "collected" / "update-00000"
    changes = ["collect.store=first/collected/update-00000", "collect.split=val", "optimise.updates=1"]
    train(small(tiny_model_dir, *TASKS, *changes), tmp_path / "second")
    assert set() != foreign(tmp_path / "second" / "collected" / "update-00000") <= written(first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["collect.scope=tasks"], "backend 'in-context' and scope 'tasks' exclude each other"),
        ([*TASKS, "collect.store=nowhere"], "nowhere is not a folder"),
        ([*TASKS, "collect.backend=chroma:http://127.0.0.1:9"], "no Chroma server answers at http://127.0.0.1:9"),
        (["collect.contents=none", *TASKS], "contents 'none' and scope 'tasks' exclude each other"),
        ([*TASKS, "collect.visible=live"], "each other's answers: leave it frozen"),
        (["remember.budget=10"], "`remember` bounds a memory of other tasks, and scope 'trial' has none"),
        ([*TASKS, "remember.budget=0"], "remember.budget: .*greater than or equal to 1"),
        ([*TASKS, "remember.budgets=9"], "unknown key 'remember.budgets'; did you mean 'budget'"),
    ],
)
def test_a_memory_that_cannot_be_trained_with_is_refused_before_any_work(tiny_model_dir, tmp_path, changes, message):
    with pytest.raises((TrainingConfigError, ConfigError, MemoryConfigError, MemoryServerError), match=message):
        train(small(tiny_model_dir, *changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_holds_one_run(tiny_model_dir, tmp_path):
    (tmp_path / "run.json").write_bytes(orjson.dumps(small(tiny_model_dir).model_dump(mode="json")))
    with pytest.raises(CheckpointError, match="--resume"):
        train(small(tiny_model_dir), tmp_path)
    with pytest.raises(CheckpointError, match=r"optimise.learning_rate is 0.0005 there, 0.1 here"):
        train(small(tiny_model_dir, "optimise.learning_rate=0.1"), tmp_path, resume=True)


def test_a_finished_run_goes_on_to_more_updates_but_not_back_to_fewer(tiny_model_dir, tmp_path):
    train(small(tiny_model_dir), tmp_path)
    longer = small(tiny_model_dir, "optimise.updates=4")
    assert train(longer, tmp_path, resume=True).updates == 4
    assert [line["update"] for line in metrics(tmp_path)] == [1, 2, 3, 4]
    assert json.loads((tmp_path / "run.json").read_text())["optimise"]["updates"] == 4
    with pytest.raises(CheckpointError, match=r"optimise.updates is 4 there, 2 here"):
        train(small(tiny_model_dir), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"optimise.clip is 0.2 there, 0.1 here"):
        train(small(tiny_model_dir, "optimise.updates=9", "optimise.clip=0.1"), tmp_path, resume=True)


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2}')
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"global_st')
    assert last_checkpoint(tmp_path).name == "checkpoint-2"
    assert last_checkpoint(tmp_path / "nothing") is None


def test_a_run_with_rerolls_trains_on_them_and_validates_without(tiny_model_dir, tmp_path):
    run = small(
        tiny_model_dir,
        *("collect.rerolls=3", "optimise.collapse_probe=2", "optimise.drop_groups=0.3", "optimise.progress_weight=1"),
        *("validation.tasks=2", "validation.every=1"),
    )
    train(run, tmp_path / "run")
    for number, line in enumerate(metrics(tmp_path / "run")):
        trials = list(read_trials(tmp_path / "run" / "collected" / f"update-{number:05d}"))
        begun = [trial for trial in trials if "branch" in trial]
        assert (line["batch/trials"], line["rerolls/trials"]) == (4, len(begun))
        assert len(begun) == 3 * len({trial["task"]["id"] for trial in trials if not trial["success"]})
        calls = sum(turn["call"] is not None for t in trials for e in t["episodes"] for turn in e["turns"])
        calls += sum(made["call"] is not None for trial in trials for made in trial["reflections"])
        assert line["batch/calls"] == calls
        assert {"collapse/contrastive_mi", "collapse/answer_mi", "groups/dropped"} <= line.keys()
        played = list(read_trials(tmp_path / "run" / "validation" / f"update-{number + 1:05d}"))
        assert len(played) == 2
