"""PPO's critic: against values and advantages computed by hand, and across a resume."""

from __future__ import annotations

import shutil

import pytest
import torch

from lamer_trainers.advantages import gae, whiten
from lamer_trainers.errors import CheckpointError, TrainingConfigError
from lamer_trainers.learning.critic import Critic, explained_variance
from lamer_trainers.learning.samples import samples_of
from training import Trials, config, load, make_trials, train

OPTIONS = {"algorithm": "ppo", "critic_learning_rate": 1e-2, "max_logprob_gap": None}


pytestmark = pytest.mark.usefixtures("one_thread")


def a_critic(folder, *, lora=False, **options):
    model, _ = load(folder, lora)
    return Critic(model, **{"learning_rate": 1e-2, "budget": 200, **options}), model


@pytest.fixture
def samples(tiny_model_dir):
    return samples_of(make_trials(41, model=load(tiny_model_dir)[0]))


def by_hand(critic, model, sample):
    """The value of one prompt alone, without padding."""
    ids = torch.tensor([list(sample.prompt_token_ids)])
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state[0, -1]
    mean, deviation = critic._scale
    return mean + deviation * critic._head(hidden).item()


def test_a_new_critic_expects_the_mean_return_everywhere(tiny_model_dir, samples):
    critic, _ = a_critic(tiny_model_dir, learning_rate=0.0)
    judged = critic.judge(samples, 0)
    mean = sum(sample.step_return for sample in samples) / len(samples)
    assert critic.values(samples) == pytest.approx([mean] * len(samples))
    made = gae(
        trials=[s.trial for s in samples],
        rewards=[s.reward for s in samples],
        values=[mean] * len(samples),
        discounts=[s.discount for s in samples],
        lam=0.95,
    )
    assert judged.advantages == pytest.approx(whiten(made.advantages))


def test_values_do_not_depend_on_padding_or_order(tiny_model_dir, samples):
    critic, model = a_critic(tiny_model_dir, learning_rate=0.0)
    critic.judge(samples, 0)
    torch.nn.init.normal_(critic._head.weight, generator=torch.Generator().manual_seed(0))
    expected = [by_hand(critic, model, sample) for sample in samples]
    assert critic.values(samples) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert critic.values(samples[::-1]) == pytest.approx(expected[::-1], rel=1e-4, abs=1e-4)


def test_what_prompts_have_in_common_is_read_once_and_counts_as_often_in_the_fit(tiny_model_dir):
    samples = samples_of(make_trials(41, model=load(tiny_model_dir)[0], depth=3))
    many = [sample for sample in samples for _ in range(3)]
    critic, model = a_critic(tiny_model_dir, learning_rate=0.0, mini_batches=1)
    read = []
    critic._body.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    torch.nn.init.normal_(critic._head.weight, generator=torch.Generator().manual_seed(0))
    critic._scale = (0.5, 2.0)
    targets = [float(number % 7) for number in range(len(many))]
    assert critic.values(many)[::3] == pytest.approx(
        [by_hand(critic, model, sample) for sample in samples], rel=1e-4, abs=1e-4
    )
    prompts = {tuple(sample.prompt_token_ids) for sample in samples}
    different = len({prompt[:end] for prompt in prompts for end in range(1, len(prompt) + 1)})
    assert different <= sum(read) < 1.2 * different  # some come again in a second pass: the budget is 200
    critic._fit(many, targets, 0)
    fitted = critic._head.weight.grad.clone(), critic._body.get_input_embeddings().weight.grad.clone()

    critic._optimiser.zero_grad()
    for sample, target in zip(many, targets, strict=True):
        hidden = critic._body(input_ids=torch.tensor([list(sample.prompt_token_ids)])).last_hidden_state[0, -1]
        ((critic._head(hidden)[0] - (target - 0.5) / 2.0).square() / len(many)).backward()
    torch.nn.utils.clip_grad_norm_(critic._parameters, 1.0)
    torch.testing.assert_close(critic._head.weight.grad, fitted[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(critic._body.get_input_embeddings().weight.grad, fitted[1], rtol=1e-4, atol=1e-6)


def test_advantages_are_of_the_values_before_the_fit_and_the_fit_learns(tiny_model_dir, samples):
    critic, _ = a_critic(tiny_model_dir)
    first = critic.judge(samples, 0)
    assert first.metrics["critic/explained"] == pytest.approx(0.0, abs=1e-6)
    readings = [critic.judge(samples, update).metrics["critic/explained"] for update in range(1, 40)]
    assert readings[-1] > 0.5


def test_the_critic_leaves_the_policy_and_its_adapters_alone(tiny_model_dir, samples):
    critic, model = a_critic(tiny_model_dir, lora=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    critic.judge(samples, 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("lora" in name for name in critic._state())


def test_the_critic_of_a_policy_in_16_bits_learns_in_32(tiny_model_dir):
    model, _ = load(tiny_model_dir)
    critic = Critic(model.to(torch.bfloat16), learning_rate=1e-5)
    assert {parameter.dtype for parameter in critic._parameters} == {torch.float32}
    assert model.dtype == torch.bfloat16


def test_a_critic_that_was_saved_goes_on_bit_for_bit(tiny_model_dir, samples, tmp_path):
    whole, _ = a_critic(tiny_model_dir)
    whole.judge(samples, 0)
    whole.save(tmp_path / "critic")
    resumed, _ = a_critic(tiny_model_dir)
    resumed.load(tmp_path / "critic")
    assert whole.judge(samples, 1) == resumed.judge(samples, 1)
    assert whole.values(samples) == resumed.values(samples)


def test_a_folder_without_a_critic_is_refused(tiny_model_dir, tmp_path):
    critic, _ = a_critic(tiny_model_dir)
    with pytest.raises(CheckpointError, match="holds no critic"):
        critic.load(tmp_path)


def test_explained_variance():
    assert explained_variance([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1.0
    assert explained_variance([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == 0.0
    assert explained_variance([0.0, 1.0], [5.0, 5.0]) == 0.0


@pytest.mark.parametrize("place", ["text", "path", "newest"])
def test_a_resumed_ppo_run_equals_an_uninterrupted_one_bit_for_bit(tiny_model_dir, tmp_path, place):
    options = {**OPTIONS, "updates": 4, "mini_batches": 2, "save_updates": 2, "max_grad_norm": 1.0}
    start, _ = load(tiny_model_dir)
    batches = [make_trials(11 + n, seed=n, model=start) for n in range(4)]

    def run(folder, resume=None):
        model, tokenizer = load(tiny_model_dir)
        return train(folder, model, tokenizer, Trials(*batches), resume=resume, **options)[0]

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut")
    checkpoint = tmp_path / "cut" / "checkpoint-4"
    shutil.rmtree(tmp_path / "cut" / "checkpoint-8")
    resumed = run(tmp_path / "cut", resume={"text": str(checkpoint), "path": checkpoint, "newest": True}[place])
    assert resumed.source.asked == [2, 3]
    first, second = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    samples = samples_of(batches[0])
    assert whole.critic.values(samples) == resumed.critic.values(samples)


@pytest.mark.parametrize("wrong", [{"gae_lambda": 1.5}, {"critic_learning_rate": -1.0}])
def test_settings_that_make_no_sense_are_refused(tmp_path, wrong):
    with pytest.raises(TrainingConfigError, match="gae_lambda lies in"):
        config(tmp_path, **wrong)
