"""The trainer against losses written by hand, and what it refuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback

from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.trainer import LamerTrainer
from places import SUPPORT
from training import (
    Trials,
    batch_of,
    computing,
    config,
    every_call,
    gradient_of,
    load,
    load_model,
    loss_by_hand,
    make_trials,
    prefixes,
    relative_error,
    token_logprobs,
    train,
)

TOLERANCE = 1e-5


pytestmark = pytest.mark.usefixtures("one_thread")


def expected_gradient(folder, trials, args, *, lora=False, **options):
    model, _ = load(folder, lora)
    batch = batch_of(trials, args)
    loss_by_hand(model, batch.samples, batch.advantages, **options).backward()
    return gradient_of(model)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("shared", [True, False], ids=["forest", "rows"])
@pytest.mark.parametrize("calls", [3, 29, 32, 37, 101])
def test_the_gradient_is_exact_for_any_number_of_samples(tiny_model_dir, tmp_path, calls, lora, shared):
    model, tokenizer = load(tiny_model_dir, lora)
    trials = make_trials(calls, model=model)
    trainer, gradients = train(tmp_path, model, tokenizer, Trials(trials), share_prefixes=shared)
    batch = batch_of(trials, trainer.args)
    assert len(batch.samples) == calls
    expected = expected_gradient(tiny_model_dir, trials, trainer.args, lora=lora)
    assert relative_error(gradients[0], expected) < TOLERANCE


@pytest.fixture(scope="module")
def learned_positions(tmp_path_factory):
    """A tiny GPT-2: its positions are learned, so a padded row is another text to it unless it is told positions."""
    torch.manual_seed(3)
    shape = {"vocab_size": 320, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0}
    options = {"eos_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(**shape, **options))
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(50)  # as far apart as in a trained model
    model.save_pretrained(folder := tmp_path_factory.mktemp("gpt2"))
    return folder


@pytest.mark.parametrize("shared", [True, False], ids=["forest", "rows"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_samples_of_unequal_length_have_their_own_positions(learned_positions, tiny_model_dir, tmp_path, shared, lora):
    tokenizer = load(tiny_model_dir)[1]
    model = load_model(learned_positions, lora)
    trials = make_trials(29, model=model, noise=0.0)
    options = {"micro_batch_tokens": 10**6, "max_logprob_gap": 1e-4, "share_prefixes": shared}
    trainer, gradients = train(tmp_path, model, tokenizer, Trials(trials), **options)
    own = load_model(learned_positions, lora)
    batch = batch_of(trials, trainer.args)
    loss_by_hand(own, batch.samples, batch.advantages).backward()
    assert relative_error(gradients[0], gradient_of(own)) < TOLERANCE


def test_a_model_whose_numbers_are_off_in_a_few_rows_only_is_refused(tiny_model_dir, tmp_path):
    """Logged numbers that are taken as they are must be the trainer's, in every row and to a tenth of a nat."""
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(29, model=model, noise=0.0)
    for call in list(every_call(trials))[20:]:
        call["logprobs"] = [value - 0.5 for value in call["logprobs"]]
    with pytest.raises(TrainingDataError, match=r"limit 0\.1\): the log is of another model.*old_logprobs=recomputed"):
        train(tmp_path, model, tokenizer, Trials(trials), max_logprob_gap=1.0, micro_batch_tokens=50)


@pytest.mark.parametrize("options", [{"micro_batch_tokens": 1}, {"micro_batch_tokens": 10**6}], ids=["tiny", "huge"])
def test_the_size_of_micro_batches_does_not_change_the_gradient(tiny_model_dir, tmp_path, options):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(23, model=model)
    trainer, gradients = train(tmp_path, model, tokenizer, Trials(trials), **options)
    assert relative_error(gradients[0], expected_gradient(tiny_model_dir, trials, trainer.args)) < TOLERANCE


@pytest.mark.parametrize(
    "options", [{}, {"old_logprobs": "recomputed"}, {"micro_batch_tokens": 200}], ids=["logged", "recomputed", "small"]
)
def test_samples_of_the_same_tokens_are_computed_once_and_count_each(tiny_model_dir, tmp_path, options):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(61, model=model, different=7)
    with computing(model) as sizes:
        trainer, gradients = train(tmp_path, model, tokenizer, Trials(trials), entropy_coef=0.05, **options)
    batch = batch_of(trials, trainer.args)
    own, _ = load(tiny_model_dir)
    cap = {"cap": 2.0} if "old_logprobs" in options else {}
    loss_by_hand(own, batch.samples, batch.advantages, entropy=0.05, **cap).backward()
    assert relative_error(gradients[0], gradient_of(own)) < TOLERANCE
    assert sum(sizes) == prefixes(batch.samples)
    assert len(batch.samples) == 61


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_logged_policy_loss_is_the_token_mean_of_a_step(tiny_model_dir, tmp_path, accumulation):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(29, model=model)
    options = {"gradient_accumulation_steps": accumulation, "micro_batch_tokens": 100, "entropy_coef": 0.05}
    trainer, _ = train(tmp_path, model, tokenizer, Trials(trials), **options)
    own, _ = load(tiny_model_dir)
    batch = batch_of(trials, trainer.args)
    expected = float(loss_by_hand(own, batch.samples, batch.advantages).detach())
    assert abs(expected) > 1e-3
    assert trainer.state.log_history[0]["policy_loss"] == pytest.approx(expected, abs=1e-5)


def test_entropy_and_reference_kl_are_token_means_too(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(29, model=model)
    with torch.no_grad():  # the reference is read from disk, so the policy moves away from it
        for parameter in model.parameters():
            parameter.mul_(1.05)
    moved = {name: value.clone() for name, value in model.state_dict().items()}
    trainer, gradients = train(tmp_path, model, tokenizer, Trials(trials), entropy_coef=0.05, beta=0.1)
    own, _ = load(tiny_model_dir)
    own.load_state_dict(moved)
    batch = batch_of(trials, trainer.args)
    reference, _ = load(tiny_model_dir)
    loss = loss_by_hand(own, batch.samples, batch.advantages, entropy=0.05, beta=0.1, reference=reference)
    loss.backward()
    assert relative_error(gradients[0], gradient_of(own)) < TOLERANCE


def test_the_gradient_of_cispo_is_exact_too(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(23, model=model, noise=1.0)
    options = {"loss_type": "cispo", "epsilon_high": 1.5, "micro_batch_tokens": 120}
    trainer, gradients = train(tmp_path, model, tokenizer, Trials(trials), **options)
    own, _ = load(tiny_model_dir)
    batch = batch_of(trials, trainer.args)
    tokens = sum(len(sample.token_ids) for sample in batch.samples)
    for sample, advantage in zip(batch.samples, batch.advantages, strict=True):
        new = token_logprobs(own, sample.prompt_token_ids, sample.token_ids)[0]
        weight = (new.detach() - torch.tensor(sample.logprobs)).exp().clamp(max=1.5)
        (-(weight * advantage * new).sum() / tokens).backward()
    assert relative_error(gradients[0], gradient_of(own)) < TOLERANCE


@pytest.mark.parametrize("old", ["logged", "recomputed"])
def test_how_far_an_update_moved_the_policy_is_noted(tiny_model_dir, tmp_path, old):
    """The estimate is of the old policy's own answers: 0 as long as nothing was updated, whoever sampled."""
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(29, model=model, noise=0.5)
    options = {"old_logprobs": old, "micro_batch_tokens": 100}
    trainer, _ = train(tmp_path, model, tokenizer, Trials(trials), **options)
    own, _ = load(tiny_model_dir)
    gaps = []
    for sample in batch_of(trials, trainer.args).samples:
        new = token_logprobs(own, sample.prompt_token_ids, sample.token_ids)[0].detach()
        gaps.append(new - (new if old == "recomputed" else torch.tensor(sample.logprobs)))
    gap = torch.cat(gaps)
    noted = trainer.state.log_history[0]["policy/kl"]
    assert noted == pytest.approx(float((gap.exp() - 1 - gap).mean()), abs=1e-5)
    if old == "logged":
        assert noted > 0.01


def test_importance_weights_are_truncated_and_token_wise(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(29, model=model, noise=1.0)
    options = {"old_logprobs": "recomputed", "importance_cap": 1.5}
    trainer, gradients = train(tmp_path, model, tokenizer, Trials(trials), **options)
    expected = expected_gradient(tiny_model_dir, trials, trainer.args, cap=1.5)
    assert relative_error(gradients[0], expected) < TOLERANCE
    logged = trainer.state.log_history[0]
    assert 0.1 < logged["sampling/importance_capped"] < 0.9
    assert 0.3 < logged["sampling/logprob_gap_mean"] < 0.7


@pytest.mark.parametrize("accumulation", [1, 2])
def test_mini_batches_share_out_the_samples_and_each_is_a_token_mean(tiny_model_dir, tmp_path, accumulation):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(30, model=model)
    trainer, gradients = train(
        tmp_path,
        model,
        tokenizer,
        Trials(trials),
        mini_batches=3,
        learning_rate=0.0,
        gradient_accumulation_steps=accumulation,
    )
    assert len(gradients) == 3
    assert trainer.source.asked == [0]
    # Without movement the mini-batches' gradients are means over their own tokens, so they add up to the whole.
    batch = batch_of(trials, trainer.args)
    tokens = [sum(len(batch.samples[i].token_ids) for i in part) for part in parts_of(trainer, 30, 3, accumulation)]
    whole = sum(g * t for g, t in zip(gradients, tokens, strict=True)) / sum(tokens)
    assert relative_error(whole, expected_gradient(tiny_model_dir, trials, trainer.args)) < TOLERANCE


def parts_of(trainer, count, steps, accumulation):
    from lamer_trainers.learning.packing import split

    cut = split(count, steps * accumulation, (trainer.args.seed, 0))
    return [[i for part in cut[at : at + accumulation] for i in part] for at in range(0, len(cut), accumulation)]


@pytest.mark.slow
def test_two_processes_make_the_gradient_of_one(tiny_model_dir, tmp_path):
    calls = 37
    run_processes(2, tiny_model_dir, calls, tmp_path)
    for kind, lora in (("full", False), ("lora", True)):
        model, _ = load(tiny_model_dir, lora)
        trials = make_trials(calls, model=model, different=23, depth=3)
        expected = expected_gradient(tiny_model_dir, trials, config(tmp_path), lora=lora, entropy=0.01)
        assert relative_error(torch.load(tmp_path / f"{kind}.pt"), expected) < TOLERANCE


def run_processes(count, folder, calls, out):
    """Through `accelerate launch`, as a user starts a trainer on several devices."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = SUPPORT / "training.py"
    # Its --cpu means one process; several on the CPU are asked for in the environment.
    options = {"num_processes": count, "num_machines": 1, "main_process_port": port, "mixed_precision": "no"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--dynamo_backend", "no"]
    launch += [f"--{name}={value}" for name, value in options.items()]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, script, folder, str(calls), out], env=env, capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("error", [TrainingDataError("a broken log"), KeyboardInterrupt()], ids=["data", "ctrl-c"])
def test_what_stops_the_main_process_stops_the_others(monkeypatch, error):
    said = []
    monkeypatch.setattr("lamer_trainers.learning.trainer.broadcast_object_list", said.append)

    class Broken:
        def next_batch(self, step):
            raise error

    main = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=True, num_processes=2), source=Broken())
    with pytest.raises(type(error)):
        LamerTrainer._next_batch(main, 3)
    assert said == [[f"{type(error).__name__}: {error}"]]

    def hear(result):
        result[0] = said[0][0]

    monkeypatch.setattr("lamer_trainers.learning.trainer.broadcast_object_list", hear)
    other = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=False, num_processes=2))
    with pytest.raises(TrainingDataError, match=f"the main process could not read update 3: {type(error).__name__}"):
        LamerTrainer._next_batch(other, 3)


# -- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tiny_model_dir, tmp_path, lora):
    options = {"updates": 4, "mini_batches": 2, "save_updates": 2, "max_grad_norm": 1.0, "warmup_steps": 3}
    start, _ = load(tiny_model_dir, lora)
    batches = [make_trials(11 + n, seed=n, model=start) for n in range(4)]

    def run(folder, resume=None):
        model, tokenizer = load(tiny_model_dir, lora)
        trainer, _ = train(folder, model, tokenizer, Trials(*batches), resume=resume, max_logprob_gap=None, **options)
        return trainer

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut")
    resumed = run(tmp_path / "cut", resume=str(tmp_path / "cut" / "checkpoint-4"))
    assert resumed.source.asked == [2, 3]
    first, second = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    changed = load(tiny_model_dir, lora)[0].state_dict()
    assert any(not torch.equal(first[name], changed[name]) for name in first)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_log_of_another_model_is_refused_before_any_update(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(9, model=model, noise=6.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = LamerTrainer(model, Trials(trials), config(tmp_path, max_logprob_gap=1.0), processing_class=tokenizer)
    with pytest.raises(Exception, match=r"nats a token .* another model"):
        trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_token_ids_beyond_the_vocabulary_are_another_tokenizers(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(9, vocabulary=1000)
    with pytest.raises(Exception, match=r"turn 0 of episode 0 of trial .* another tokenizer"):
        LamerTrainer(model, Trials(trials), config(tmp_path), processing_class=tokenizer).train()


def test_a_batch_without_a_trainable_sample_is_refused(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    failure = {"type": "PolicyError", "message": "gone", "episode": 0, "turn": 0}
    trials = [{**trial, "error": failure} for trial in make_trials(9)]
    with pytest.raises(TrainingDataError, match=r"no trainable sample \(\d trials, 0 of them finished;"):
        LamerTrainer(model, Trials(trials), config(tmp_path), processing_class=tokenizer).train()


def test_more_mini_batches_than_samples_is_refused(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(3, model=model)
    with pytest.raises(Exception, match="3 samples for 4 mini-batches"):
        LamerTrainer(model, Trials(trials), config(tmp_path, mini_batches=4), processing_class=tokenizer).train()


def test_a_loss_that_is_not_finite_stops_the_run_before_the_optimiser(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(9, model=model)
    trainer = LamerTrainer(model, Trials(trials), config(tmp_path, max_logprob_gap=None), processing_class=tokenizer)
    trainer._checked_gap = True
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    with pytest.raises(Exception, match="nothing was updated"):
        trainer.train()
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, before)


def test_nothing_is_reported_or_pushed_unasked_and_asked_for_reports_get_every_update(tiny_model_dir, tmp_path):
    plain = config(tmp_path)
    assert (plain.push_to_hub, plain.report_to) == (False, [])
    model, tokenizer = load(tiny_model_dir)
    reported = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            reported.append(logs)

    trials = Trials(make_trials(6, model=model))
    train(tmp_path, model, tokenizer, trials, callbacks=[Reporter()], beta=0.1, logging_steps=1)
    for name in ("loss", "kl", "entropy", "clip_ratio/region_mean", "batch/reward", "batch/pass@1", "batch/invalid"):
        assert name in reported[0]


def test_waiting_for_trials_is_noted_apart_from_training(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)

    class Slow(Trials):
        def next_batch(self, step):
            time.sleep(0.3)
            return super().next_batch(step)

    trainer, _ = train(tmp_path, model, tokenizer, Slow(make_trials(6, model=model)))
    assert 0.3 <= trainer.state.log_history[0]["time/wait"] < trainer.state.log_history[0]["time/batch"]


def test_equal_rewards_are_warned_of(tiny_model_dir, tmp_path, caplog):
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(6, model=model)
    for trial in trials:
        for episode in trial["episodes"]:
            for turn in episode["turns"]:
                turn["reward"], turn["valid"] = 0.0, True
    train(tmp_path, model, tokenizer, Trials(trials))
    assert "no signal" in caplog.text
