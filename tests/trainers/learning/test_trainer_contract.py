"""What LamerTrainer needs of TRL's private parts: one test for each, so that a new release says which one moved."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
import trl
from transformers import Trainer
from trl import GRPOTrainer

from lamer_trainers.learning.packing import pack
from lamer_trainers.learning.samples import Sample
from lamer_trainers.learning.trainer import LamerTrainer
from training import (
    Trials,
    batch_of,
    config,
    gradient_of,
    load,
    loss_by_hand,
    make_trials,
    relative_error,
    token_logprobs,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def trainer(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    return LamerTrainer(model, Trials(make_trials(7, model=model)), config(tmp_path), processing_class=tokenizer)


def test_the_release_is_the_one_that_was_read():
    assert re.match(r"1\.16\.", trl.__version__), "read the new release, then move this pin"


def test_only_the_named_methods_are_overridden():
    own = {name for name, value in vars(LamerTrainer).items() if callable(value)}
    inherited = {name for base in GRPOTrainer.__mro__ for name in vars(base)}
    assert own & inherited == {
        "__init__",
        "_get_per_token_logps_and_entropies",
        "_prepare_inputs",
        "_save_checkpoint",
        "get_train_dataloader",
        "save_model",
        "train",
        "training_step",
    }


def test_prepare_inputs_takes_one_argument_and_is_what_training_step_calls():
    assert list(inspect.signature(GRPOTrainer._prepare_inputs).parameters)[1:] == ["generation_batch"]


def test_compute_loss_is_the_loss_of_the_inputs_alone(trainer):
    """`compute_loss(model, inputs)` reads the keys that we pack, and no other state of a generation."""
    parameters = list(inspect.signature(GRPOTrainer.compute_loss).parameters)
    assert parameters[1:3] == ["model", "inputs"]
    source = inspect.getsource(GRPOTrainer._compute_loss)
    read = set(re.findall(r'inputs\["(\w+)"\]', source))
    packed = {
        "prompt_ids",
        "prompt_mask",
        "completion_ids",
        "completion_mask",
        "advantages",
        "num_items_in_batch",
        "old_per_token_logps",
        "ref_per_token_logps",
    }
    only_if_given = {"importance_sampling_ratio", "tool_mask"}
    assert {"prompt_ids", "completion_ids", "completion_mask"} <= read <= packed | only_if_given


def test_the_two_divisors_of_the_loss_are_where_they_were():
    """Policy: `num_items_in_batch / processes * accumulation / steps_per_generation`; entropy: tokens and steps."""
    source = " ".join(inspect.getsource(GRPOTrainer._compute_loss).split())
    assert 'normalizer = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes' in source
    assert "normalizer * self.current_gradient_accumulation_steps / self.args.steps_per_generation" in source
    assert 'accumulation_factor = self.current_gradient_accumulation_steps if mode == "train" else 1.0' in source
    assert "effective_mask.sum().clamp(min=1.0) / accumulation_factor" in source


def read(trainer, calls, **options):
    """What the loss is given for these (prompt, answer)s: logprobs and entropies."""
    fields = {
        "trial": "",
        "group": "",
        "kind": "turn",
        "episode": 0,
        "turn": 0,
        "anchor": "",
        "text": "",
        "valid": True,
    }
    fields |= {"policy_version": "", "reward": 0.0, "step_return": 0.0, "episode_return": 0.0, "discount": 1.0}
    samples = [
        Sample(prompt_token_ids=prompt, token_ids=answer, logprobs=[0.0] * len(answer), **fields)
        for prompt, answer in calls
    ]
    (trainer._micro,) = pack(samples, [0.0] * len(samples), range(len(samples)), budget=10**6, pad=0, **options)
    data = trainer._micro.tensors
    ids, mask = (torch.cat([data[f"prompt_{name}"], data[f"completion_{name}"]], dim=1) for name in ("ids", "mask"))
    with torch.no_grad(), trainer._forests([trainer._micro], trainer.model):
        return trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, data["completion_ids"].shape[1], compute_entropy=True
        )


@pytest.mark.parametrize("shared", [True, False], ids=["forest", "rows"])
def test_token_logprobs_come_back_for_the_answers(trainer, shared):
    prompt, answer = [5, 9, 17, 30], [8, 4, 11]
    logps, entropies, auxiliary = read(trainer, [(prompt, answer), (prompt[2:], answer[:2])], shared=shared)
    assert auxiliary is None
    with torch.no_grad():
        whole, entropy = token_logprobs(trainer.model, prompt, answer)
        cut, _ = token_logprobs(trainer.model, prompt[2:], answer[:2])
    assert torch.allclose(logps[0], whole, atol=1e-5)
    assert torch.allclose(entropies[0], entropy, atol=1e-4)
    assert torch.allclose(logps[1, :2], cut, atol=1e-5)


@pytest.mark.parametrize("floats", [1, 320 * 7, 2**26], ids=["one by one", "by sevens", "whole"])
def test_logits_in_one_piece_and_in_many_give_the_same_gradient(tiny_model_dir, tmp_path, monkeypatch, floats):
    monkeypatch.setattr("lamer_trainers.learning.scoring.HEAD_FLOATS", floats)
    model, tokenizer = load(tiny_model_dir)
    trials = make_trials(19, model=model)
    trainer, gradients = train(tmp_path, model, tokenizer, Trials(trials), entropy_coef=0.05)
    own, _ = load(tiny_model_dir)
    batch = batch_of(trials, trainer.args)
    loss_by_hand(own, batch.samples, batch.advantages, entropy=0.05).backward()
    assert relative_error(gradients[0], gradient_of(own)) < 1e-5


def test_the_temperature_scales_the_logits_before_the_logprobs(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    args = config(tmp_path, temperature=0.7)
    trainer = LamerTrainer(model, Trials([]), args, processing_class=tokenizer)
    logps = read(trainer, [([5, 9, 17, 30], [8, 4])])[0]
    with torch.no_grad():
        expected, _ = token_logprobs(model, [5, 9, 17, 30], [8, 4], temperature=0.7)
    assert torch.allclose(logps[0], expected, atol=1e-5)


def test_the_reference_is_there_exactly_when_it_is_used(tiny_model_dir, tmp_path, trainer):
    assert trainer.ref_model is None
    assert trainer.beta == 0.0
    model, tokenizer = load(tiny_model_dir)
    with_kl = LamerTrainer(model, Trials([]), config(tmp_path, beta=0.1), processing_class=tokenizer)
    assert with_kl.ref_model is not None
    assert with_kl.beta == 0.1


def test_metrics_are_lists_by_mode_and_logged_once_per_update(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    trainer, _ = train(tmp_path, model, tokenizer, Trials(make_trials(9, model=model)), updates=2, mini_batches=2)
    updates = [line for line in trainer.state.log_history if "loss" in line]
    assert len(updates) == 2
    for line in updates:
        assert line["batch/calls"] == 9
        assert 0 < line["entropy"] < 6
        assert "clip_ratio/region_mean" in line
    assert dict(trainer._metrics["train"]) == {}


def test_a_step_counts_passes_and_the_buffer_holds_one_update(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    source = Trials(make_trials(8, model=model))
    options = {"updates": 2, "mini_batches": 2, "num_iterations": 2, "learning_rate": 0.0}
    trainer, gradients = train(tmp_path, model, tokenizer, source, **options)
    assert trainer._step == 8
    assert len(trainer._buffered_inputs) == 2
    assert source.asked == [0, 1]
    # The second pass over a batch sees the same mini-batches again.
    assert torch.equal(gradients[0], gradients[2])
    assert torch.equal(gradients[1], gradients[3])


def test_the_metrics_of_micro_batches_are_weighted_by_tokens(tiny_model_dir, tmp_path):
    trials = make_trials(17, model=load(tiny_model_dir)[0])
    entropies = []
    for budget in (1, 10**6):
        model, tokenizer = load(tiny_model_dir)
        trainer, _ = train(tmp_path / str(budget), model, tokenizer, Trials(trials), micro_batch_tokens=budget)
        entropies.append(trainer.state.log_history[0]["entropy"])
    assert entropies[0] == pytest.approx(entropies[1], rel=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "ref_model",
        "beta",
        "temperature",
        "num_iterations",
        "aux_loss_enabled",
        "_entropy_bonus_enabled",
        "_tokenizer",
        "_metrics",
        "_step",
        "_buffered_inputs",
        "current_gradient_accumulation_steps",
    ],
)
def test_what_we_read_or_set_is_what_its_own_code_uses(name):
    assert f"self.{name}" in inspect.getsource(GRPOTrainer) + inspect.getsource(Trainer)


def test_a_checkpoints_folder_is_asked_of_the_trainer(trainer):
    assert Path(trainer._get_output_dir(None)) == Path(trainer.args.output_dir)
