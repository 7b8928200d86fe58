"""DPO on logged tokens: the loss and its gradient by hand, for turns and for whole trials, full and with an adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid
from trl.trainer.dpo_config import DPOConfig

from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.preferences import Pair, PairRules, pairs_of
from lamer_trainers.learning.preferring import PairCollator, PreferenceTrainer, at_a_time, dataset_of, longest
from lamer_trainers.learning.samples import samples_of
from training import KeepGradients, gradient_of, load, load_model, make_trials, relative_error, token_logprobs

pytestmark = pytest.mark.usefixtures("one_thread")
BETA = 0.3


def logged(which: str, **more: Any) -> list[Pair]:
    """Pairs of trials whose prompts coincide."""
    trials = make_trials(40, seed=2, different=30, depth=1, **more)
    return pairs_of(samples_of(trials), PairRules(which, 0.0, 8))  # type: ignore[arg-type]


def side(model: Any, calls: Any) -> torch.Tensor:
    return torch.stack([token_logprobs(model, one.prompt_token_ids, one.token_ids)[0].sum() for one in calls]).sum()


def loss_by_hand(model: Any, reference: Any, pairs: list[Pair]) -> torch.Tensor:
    """-log sigmoid(beta * (policy's difference - reference's difference)), one call at a time, without TRL."""
    losses = []
    for pair in pairs:
        with torch.no_grad():
            before = side(reference, pair.chosen) - side(reference, pair.rejected)
        losses.append(-logsigmoid(BETA * (side(model, pair.chosen) - side(model, pair.rejected) - before)))
    return torch.stack(losses).mean()


def trainer(
    folder: Any, model: Any, tokenizer: Any, pairs: list[Pair], size: int = 2, **more: Any
) -> PreferenceTrainer:
    args = DPOConfig(
        output_dir=str(folder), beta=BETA, precompute_ref_log_probs=True, max_length=None, use_cpu=True, bf16=False,
        per_device_train_batch_size=size, gradient_accumulation_steps=len(pairs) // size, max_steps=1,
        learning_rate=0.0, max_grad_norm=0.0, gradient_checkpointing=False, remove_unused_columns=False,
        report_to="none", logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    return PreferenceTrainer(model, dataset_of(pairs), args, processing_class=tokenizer, **more)


def moved(model: Any) -> None:
    """Take the policy away from its reference."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)


@pytest.mark.parametrize("which", ["turn", "trial", "both"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_loss_and_gradient_are_those_of_dpo_computed_by_hand(tiny_model_dir, tmp_path, which, lora):
    pairs = logged(which)
    pairs = pairs[: len(pairs) // 2 * 2]
    assert pairs
    assert {pair.kind for pair in pairs} >= ({"turn"} if which == "turn" else {"trial"})
    model, tokenizer = load(tiny_model_dir, lora)
    made = trainer(tmp_path, model, tokenizer, pairs)
    moved(made.model)
    kept = KeepGradients()
    made.add_callback(kept)
    made.train()

    own = load_model(tiny_model_dir, lora)
    moved(own)
    loss = loss_by_hand(own, load_model(tiny_model_dir, lora), pairs)
    loss.backward()
    reported = [line["loss"] for line in made.state.log_history if "loss" in line]
    assert reported == pytest.approx([float(loss.detach())], rel=1e-4)
    assert relative_error(kept.gradients[0], gradient_of(own)) < 1e-4


def test_the_logged_logprobs_can_stand_for_the_reference(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir)
    sampler = load_model(tiny_model_dir)
    pairs = logged("both", model=sampler, noise=0.0)
    taken = trainer(tmp_path / "a", model, tokenizer, pairs, reference="logged").train_dataset
    scored = trainer(tmp_path / "b", load_model(tiny_model_dir), tokenizer, pairs).train_dataset
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        assert taken[name][:] == pytest.approx(scored[name][:], abs=1e-3)
    assert taken["ref_chosen_logps"][0] == pytest.approx(sum(sum(one.logprobs) for one in pairs[0].chosen))


def test_a_row_of_several_calls_shows_every_token_its_own_call_alone():
    row = {
        "chosen": [{"prompt_ids": [1, 2], "token_ids": [3]}, {"prompt_ids": [4], "token_ids": [5, 6]}],
        "rejected": [{"prompt_ids": [7], "token_ids": [8]}],
    }
    batch = PairCollator(pad=0)([row])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 0, 0, 0, 0]]
    assert batch["completion_mask"].tolist() == [[0, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0]]
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 0, 1, 2]
    one = [[True, False, False], [True, True, False], [True, True, True]]
    seen = batch["attention_mask"][0, 0]
    assert seen[:3, :3].tolist() == one == seen[3:, 3:].tolist()
    assert not seen[3:, :3].any()
    assert not seen[:3, 3:].any()
    added = PairCollator(pad=0, additive=True)([row])["attention_mask"]
    assert ((added == 0) == batch["attention_mask"]).all()
    assert added.min() == torch.finfo(torch.float32).min


def test_an_adapters_copy_is_no_part_of_the_result(tiny_model_dir, tmp_path):
    model, tokenizer = load(tiny_model_dir, lora=True)
    pairs = logged("turn")
    made = trainer(tmp_path, model, tokenizer, pairs[: len(pairs) // 2 * 2])
    assert list(made.model.peft_config) == ["default"]


def test_as_many_pairs_at_a_time_as_the_budget_takes_and_divide_a_batch():
    assert at_a_time(32, tokens=60, budget=4096) == 32
    assert at_a_time(32, tokens=100, budget=4096) == 16
    assert at_a_time(12, tokens=100, budget=1000) == 4
    assert at_a_time(12, tokens=9999, budget=1000) == 1


def test_the_longest_side_is_counted_in_all_its_calls():
    pairs = logged("both")
    sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    assert longest(dataset_of(pairs)) == max(sum(call.length for call in side) for side in sides)


def test_logs_without_pairs_are_refused_with_what_would_help():
    with pytest.raises(TrainingDataError, match=r"no pair.*collect more trials a task, lower the gap"):
        dataset_of([])
