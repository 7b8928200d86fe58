"""What samples have in common is computed once: the gradient is that of a loss by hand, and what cannot, says so."""

from __future__ import annotations

import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BloomConfig, BloomForCausalLM, MixtralConfig, MixtralForCausalLM

from forests import SHAPE, a_model
from lamer_trainers.learning import sharing
from lamer_trainers.learning.critic import Critic
from lamer_trainers.learning.samples import samples_of
from lamer_trainers.learning.sharing import cannot_share
from training import (
    Trials,
    batch_of,
    computing,
    gradient_of,
    load,
    loss_by_hand,
    make_trials,
    prefixes,
    relative_error,
    token_logprobs,
    train,
)

TOLERANCE = 1e-5
SAYS = "samples are computed whole"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return load(tiny_model_dir)[1]


def made(kind, lora=False, **options):
    model = a_model(kind, **options)
    if not lora:
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))


def check(folder, tokenizer, build, trials, **options):
    """Train a step, and compare its gradient; the samples, and what was computed on the way back."""
    model = build()
    with computing(model) as sizes:
        trainer, gradients = train(folder, model, tokenizer, Trials(trials), entropy_coef=0.05, **options)
    batch = batch_of(trials, trainer.args)
    own = build()
    loss_by_hand(own, batch.samples, batch.advantages, entropy=0.05).backward()
    assert relative_error(gradients[0], gradient_of(own)) < TOLERANCE
    return batch.samples, sizes


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "gpt2"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_every_distinct_token_is_computed_once_and_the_gradient_is_exact(tokenizer, tmp_path, kind, depth, lora):
    trials = make_trials(37, seed=depth, model=made(kind, lora), depth=depth)
    options = {"micro_batch_tokens": 10**6, "max_logprob_gap": None}
    samples, sizes = check(tmp_path, tokenizer, lambda: made(kind, lora), trials, **options)
    assert sizes == [prefixes(samples)]
    assert sizes[0] < 0.75 * sum(sample.length - 1 for sample in samples)


@pytest.mark.parametrize(
    "options",
    [
        {"micro_batch_tokens": 150},
        {"micro_batch_tokens": 1},
        {"gradient_checkpointing": True},
        {"gradient_accumulation_steps": 2},
        {"num_iterations": 1, "beta": 0.0, "temperature": 1.0, "mini_batches": 1},
    ],
    ids=["several passes", "one by one", "checkpointing", "accumulation", "plain"],
)
def test_how_a_batch_is_cut_and_computed_does_not_change_the_gradient(tokenizer, tmp_path, options):
    trials = make_trials(37, model=made("llama"), depth=3)
    samples, sizes = check(tmp_path, tokenizer, lambda: made("llama"), trials, **options)
    assert prefixes(samples) <= sum(sizes)
    if options.get("micro_batch_tokens") == 150:
        assert len(sizes) > 1
        assert max(sizes) <= 150


def test_models_in_16_bits_share_too(tokenizer, tmp_path):
    trials = make_trials(37, model=made("llama"), depth=3, noise=0.0)
    found = []
    for shared in (True, False):
        model = made("llama").to(torch.bfloat16)
        options = {"share_prefixes": shared, "bf16": False, "micro_batch_tokens": 10**6}
        found.append(train(tmp_path / str(shared), model, tokenizer, Trials(trials), **options)[1][0].float())
    assert relative_error(*found) < 0.1


def test_old_and_reference_logprobs_are_of_the_samples_alone(tokenizer, tmp_path):
    """Recomputed from a forest they are the model's own, so that nothing has moved and nothing is weighed."""
    trials = make_trials(37, model=made("qwen3"), depth=4, noise=0.0)
    options = {"old_logprobs": "recomputed", "max_logprob_gap": 1e-5}
    trainer, _ = train(tmp_path, made("qwen3"), tokenizer, Trials(trials), **options)
    logged = trainer.state.log_history[0]
    assert logged["sampling/logprob_gap_max"] < 1e-4
    assert logged["policy/kl"] < 1e-7
    lora = made("qwen3", lora=True)
    trainer, _ = train(tmp_path, lora, tokenizer, Trials(make_trials(37, model=lora, depth=4)), beta=0.1)
    start = made("qwen3", lora=True)  # the reference of an adapter is the adapter that training began with
    micro = trainer._buffered_inputs[0].micro[0]
    for row, ids in enumerate(micro.tensors["completion_ids"]):
        used = micro.tensors["completion_mask"][row].bool()
        path = micro.reading.heads[micro.reading.head[micro.reading.at[row][used]]]
        assert len(path) == int(used.sum())
        with torch.no_grad():
            prompt = ancestors(micro.computed, int(path[0]))
            expected = token_logprobs(start, prompt, ids[used].tolist())[0]
        assert torch.allclose(micro.tensors["ref_per_token_logps"][row][used], expected, atol=1e-4)


def ancestors(computed, node):
    from forests import dense

    (nodes,) = torch.nonzero(dense(computed.tree)[node], as_tuple=True)
    return computed.ids[0, nodes].tolist()


# -- models and samples that cannot -----------------------------------------------------------------------------------


def test_samples_beyond_an_attention_window_are_computed_whole_and_that_is_said_once(tokenizer, tmp_path, caplog):
    def build():
        return made("gemma3", sliding_window=8)

    trials = make_trials(23, model=build(), depth=3)
    with caplog.at_level(logging.WARNING):
        samples, sizes = check(tmp_path, tokenizer, build, trials, updates=2, learning_rate=0.0)
    assert sum(sizes) > 2 * prefixes(samples)
    said = [line for line in caplog.messages if SAYS in line]
    assert len(said) == 1
    assert "a window of 8 tokens, and a sample has" in said[0]


def test_a_window_that_holds_every_sample_is_none(tokenizer, tmp_path):
    trials = make_trials(23, model=made("gemma3", sliding_window=100), depth=3)
    options = {"micro_batch_tokens": 10**6}
    samples, sizes = check(tmp_path, tokenizer, lambda: made("gemma3", sliding_window=100), trials, **options)
    assert sizes == [prefixes(samples)]


def alibi():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        shape = {"vocab_size": 320, "hidden_size": 48, "n_layer": 2, "n_head": 4}
        dropped = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
        return BloomForCausalLM(BloomConfig(**shape, **dropped, initializer_range=0.2, pad_token_id=0))


def experts(auxiliary):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        options = {"num_local_experts": 4, "sliding_window": None, "output_router_logits": auxiliary}
        return MixtralForCausalLM(MixtralConfig(**SHAPE, **options, router_aux_loss_coef=0.0 if not auxiliary else 0.5))


def test_a_model_without_positions_is_computed_whole(tokenizer, tmp_path, caplog):
    trials = make_trials(23, model=alibi(), depth=3)
    with caplog.at_level(logging.WARNING):
        check(tmp_path, tokenizer, alibi, trials)
    assert any(SAYS in line and "cannot be told positions" in line for line in caplog.messages)


def test_experts_share_unless_their_auxiliary_loss_is_over_all_rows(tokenizer, tmp_path, caplog):
    trials = make_trials(23, model=experts(False), depth=3)
    with caplog.at_level(logging.WARNING):
        samples, sizes = check(tmp_path, tokenizer, lambda: experts(False), trials, micro_batch_tokens=10**6)
        assert sizes == [prefixes(samples)]
        assert not any(SAYS in line for line in caplog.messages)
        model = experts(True)
        with computing(model) as sizes:
            trainer, _ = train(tmp_path, model, tokenizer, Trials(trials), micro_batch_tokens=10**6)
    assert any(SAYS in line and "auxiliary loss" in line for line in caplog.messages)
    assert sum(sizes) >= sum(sample.length - 1 for sample in samples)
    assert trainer.state.log_history[0]["aux_loss"] > 0


class Mixing(torch.nn.Module):
    """Adds what the token before has to each, as a convolution over the sequence would."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden):
        return self.inner(hidden + hidden.roll(1, dims=1))


def test_a_model_is_tried_and_not_believed():
    model = made("llama")
    assert cannot_share(model) is None
    assert cannot_share(made("llama", lora=True)) is None
    model.model.layers[1].mlp = Mixing(model.model.layers[1].mlp)
    assert "its numbers are then off by" in cannot_share(model)
    capped = made("llama")
    forward = capped.model.layers[0].self_attn.forward
    capped.model.layers[0].self_attn.forward = lambda *given, **named: forward(*given, **{**named, "softcap": 50.0})
    assert "it takes no such input (attention with softcap)" in cannot_share(capped)
    assert capped.config._attn_implementation == "sdpa"


def test_layers_that_are_no_attention_are_named():
    model = made("qwen3")
    model.config.layer_types = ["full_attention", "linear_attention", "conv"]
    assert cannot_share(model) == "it has layers of conv, linear_attention"


def test_rows_are_one_setting_away_and_not_spoken_of(tokenizer, tmp_path, caplog):
    trials = make_trials(23, model=made("llama"), depth=3)
    with caplog.at_level(logging.WARNING):
        samples, sizes = check(tmp_path, tokenizer, lambda: made("llama"), trials, share_prefixes=False)
    assert sum(sizes) > prefixes(samples)
    assert not any(SAYS in line for line in caplog.messages)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "gpt2"])
def test_the_critic_reads_forests_as_their_prompts_alone(kind):
    samples = samples_of(make_trials(37, depth=3))
    critic = Critic(made(kind), learning_rate=0.0, budget=150)
    critic._scale = (0.5, 2.0)
    torch.nn.init.normal_(critic._head.weight, generator=torch.Generator().manual_seed(0))
    expected = []
    for sample in samples:
        with torch.no_grad():
            hidden = critic._body(input_ids=torch.tensor([list(sample.prompt_token_ids)])).last_hidden_state[0, -1]
            expected.append(0.5 + 2.0 * critic._head(hidden).item())
    assert critic._sharing.able
    assert critic.values(samples) == pytest.approx(expected, abs=1e-4)


def test_trying_a_model_leaves_it_as_it_was():
    model = made("llama").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert sharing.cannot_share(model) is None
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"
