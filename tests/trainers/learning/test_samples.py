"""From log lines to samples: what each call earned, what is left out, and what stops a run."""

from __future__ import annotations

import copy
import math

import pytest

from lamer_trainers.advantages import anchored, gigpo, grpo, rloo
from lamer_trainers.credit import cross_episode_returns
from lamer_trainers.errors import TrainingConfigError, TrainingDataError
from lamer_trainers.learning.batch import read_batch
from lamer_trainers.learning.samples import (
    REFLECTION_ANCHOR,
    Credit,
    Estimator,
    Limits,
    advantages_of,
    samples_of,
    staleness,
    version_number,
)
from log_samples import a_trial
from training import config, make_trials


def trial(**changes):
    made = a_trial()
    made["task"]["env"] = "webshop"
    made.update(changes)
    made["trial_id"] = f"{made['task']['id']}#{made['trial']}"
    return made


PLAIN = Credit(gamma_step=0.5, gamma_traj=0.6, invalid_penalty=0.0)


def test_one_sample_per_call_in_time_order():
    samples = samples_of([trial()], PLAIN)
    assert [(s.kind, s.episode, s.turn) for s in samples] == [
        ("turn", 0, 0),
        ("turn", 0, 1),
        ("reflection", 0, 2),
        ("turn", 1, 0),
    ]
    assert [list(s.token_ids) for s in samples] == [[5, 6, 2], [5, 6, 2], [7, 2], [5, 6, 2]]
    assert [s.anchor for s in samples] == ["? ?\n? ?", "? ?\n? ?", REFLECTION_ANCHOR, "? ?\n? ?"]
    assert {s.group for s in samples} == {"minesweeper:6x6-3#7"}


def test_every_call_has_the_return_of_its_place():
    samples = samples_of([trial()], PLAIN)
    expected = cross_episode_returns([[-0.1, -0.1], [10.0]], gamma_step=0.5, gamma_traj=0.6)
    assert [s.step_return for s in samples] == [*expected.turns[0], expected.reflections[0], *expected.turns[1]]
    assert [s.episode_return for s in samples] == [expected.turns[0][0]] * 2 + [expected.turns[1][0]] * 2
    assert [s.discount for s in samples] == [0.5, 0.6, 1.0, 0.0]


def test_the_reference_level_is_the_episodes_own_reward_and_nothing_for_a_reflection():
    samples = samples_of([trial()], Credit(level="reference", invalid_penalty=0.0))
    assert [s.episode_return for s in samples] == [-0.2, -0.2, 0.0, 10.0]


def test_the_invalid_penalty_touches_the_invalid_turn_alone():
    with_penalty, without = samples_of([trial()], Credit(0.5, 0.6)), samples_of([trial()], PLAIN)
    lost = [a.step_return - b.step_return for a, b in zip(with_penalty, without, strict=True)]
    assert lost == pytest.approx([0.0, -0.5, 0.0, 0.0])
    lost = [a.episode_return - b.episode_return for a, b in zip(with_penalty, without, strict=True)]
    assert lost == pytest.approx([0.0, -0.5, 0.0, 0.0])


def test_an_environment_that_charges_for_invalid_actions_is_not_charged_for_twice():
    charging = trial()
    charging["task"]["env"] = "minesweeper:6x6-3"
    returns = [s.step_return for s in samples_of([charging], Credit(0.5, 0.6))]
    assert returns == [s.step_return for s in samples_of([charging], PLAIN)]


def test_a_reflection_that_a_person_edited_is_not_trained_but_credit_crosses_it():
    edited = trial()
    edited["reflections"][0]["call"] = None
    samples = samples_of([edited], PLAIN)
    assert [s.kind for s in samples] == ["turn"] * 3
    assert [s.discount for s in samples] == [0.5, 0.6, 0.0]
    assert samples[0].step_return == samples_of([trial()], PLAIN)[0].step_return


def test_a_trial_that_ended_in_an_error_is_left_out():
    failed = trial(error={"type": "PolicyError", "message": "gone", "episode": 0, "turn": 1})
    assert samples_of([failed], PLAIN) == []


def broken(change):
    made = copy.deepcopy(trial())
    change(made["episodes"][1]["turns"][0])
    return made


def set_call(**fields):
    def change(turn):
        turn["call"].update(fields)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda turn: turn.update(call=None), "no token ids"),
        (set_call(prompt_token_ids=[], token_ids=[], logprobs=[]), "no token ids"),
        (set_call(token_ids=[], logprobs=[]), "completion is empty"),
        (set_call(prompt_token_ids=[]), "its prompt has none"),
        (set_call(logprobs=[-0.5]), "3 tokens but 1 logprobs"),
        (set_call(logprobs=[-0.5, None, -0.5]), "missing or not finite"),
        (set_call(logprobs=[-0.5, math.nan, -0.5]), "missing or not finite"),
        (set_call(logprobs=[-0.5, -math.inf, -0.5]), "missing or not finite"),
        (set_call(token_ids=[1] * 9, logprobs=[-1.0] * 9), "max_completion_length 8"),
        (set_call(prompt_token_ids=[1] * 30), "context of 32"),
        (set_call(token_ids=[5, 99, 2]), "another tokenizer"),
        (set_call(prompt_token_ids=[64]), "another tokenizer"),
    ],
)
def test_a_call_that_cannot_be_trained_on_names_its_trial_and_place(change, message):
    limits = Limits(tokens=32, completion=8, vocabulary=64)
    with pytest.raises(TrainingDataError, match=message) as caught:
        samples_of([trial(), {**broken(change), "trial_id": "minesweeper:6x6-3#7#1"}], PLAIN, limits)
    assert "turn 0 of episode 1 of trial minesweeper:6x6-3#7#1" in str(caught.value)


def test_a_trial_that_comes_twice_is_refused():
    with pytest.raises(TrainingDataError, match="comes twice"):
        samples_of([trial(), trial()], PLAIN)


def test_an_episode_without_turns_is_refused():
    empty = trial()
    empty["episodes"][0]["turns"] = []
    with pytest.raises(TrainingDataError, match="at least one turn"):
        samples_of([empty], PLAIN)


def test_a_log_of_an_environment_that_is_not_installed_is_refused():
    foreign = trial()
    foreign["task"]["env"] = "chess:8x8"
    with pytest.raises(TrainingDataError, match=r"'chess:8x8'.* not installed"):
        samples_of([foreign], Credit())


# -- advantages of samples --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples():
    return samples_of(make_trials(60, seed=3), Credit())


def column(samples, name):
    return [getattr(sample, name) for sample in samples]


def test_gigpo_gets_the_observation_as_anchor(samples):
    expected = gigpo(
        groups=column(samples, "group"),
        trials=column(samples, "trial"),
        anchors=column(samples, "anchor"),
        episode_rewards=column(samples, "episode_return"),
        step_returns=column(samples, "step_return"),
        step_weight=0.7,
        normalise="std",
    )
    assert advantages_of(samples, Estimator(normalise="std", step_weight=0.7)) == expected


def test_an_anchor_with_its_episode_compares_within_the_episode_only(samples):
    plain = advantages_of(samples, Estimator())
    split = advantages_of(samples, Estimator(anchor="episode+observation"))
    expected = gigpo(
        groups=column(samples, "group"),
        trials=column(samples, "trial"),
        anchors=[(s.episode, s.anchor) for s in samples],
        episode_rewards=column(samples, "episode_return"),
        step_returns=column(samples, "step_return"),
    )
    assert split == expected
    assert split != plain


def test_batch_normalisation_is_the_anchored_estimator(samples):
    got = advantages_of(samples, Estimator(normalise="batch", anchor="episode+observation", clamp=1.0))
    expected = anchored(
        groups=column(samples, "group"),
        anchors=[(s.episode, s.anchor) for s in samples],
        fallbacks=[(s.episode, s.turn, s.kind) for s in samples],
        step_returns=column(samples, "step_return"),
        clamp=1.0,
    )
    assert got == expected
    assert max(map(abs, got)) == 1.0


def test_grpo_and_rloo_compare_episode_returns(samples):
    rewards = column(samples, "episode_return")
    groups, trials = column(samples, "group"), column(samples, "trial")
    assert advantages_of(samples, Estimator("grpo", "std")) == grpo(groups=groups, episode_rewards=rewards)
    assert advantages_of(samples, Estimator("rloo")) == rloo(groups=groups, trials=trials, episode_rewards=rewards)


@pytest.mark.parametrize("algorithm", ["gigpo", "grpo", "rloo"])
def test_a_baseline_per_episode_keeps_calls_of_other_episodes_out(samples, algorithm):
    estimator = Estimator(algorithm, baseline="task+episode", step_weight=0.0)
    whole = advantages_of(samples, estimator)
    first = [i for i, s in enumerate(samples) if s.episode == 0 and s.kind == "turn"]
    alone = advantages_of([samples[i] for i in first], estimator)
    assert [whole[i] for i in first] == pytest.approx(alone)


@pytest.mark.parametrize("field", ["algorithm", "normalise", "anchor", "baseline"])
def test_an_unknown_choice_names_what_there_is(field):
    with pytest.raises(TrainingConfigError, match=f"{field} is one of .* not 'median'"):
        Estimator(**{field: "median"})


def test_batch_normalisation_belongs_to_gigpo():
    with pytest.raises(TrainingConfigError, match="gigpo"):
        Estimator("grpo", "batch")


# -- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), [("policy-v0007", 7), ("policy-v12345", 12345), ("warm", None)])
def test_a_version_says_its_number(name, number):
    assert version_number(name) == number


def test_samples_that_are_too_old_or_from_the_future_are_refused_by_name(tmp_path):
    trials = make_trials(4, version="policy-v0003")
    options = config(tmp_path, max_staleness=1)
    assert read_batch(trials, options, Limits(), 4).metrics["sampling/staleness_max"] == 1
    with pytest.raises(TrainingDataError, match=r"trial .* was drawn by policy-v0003, 2 versions before update 5"):
        read_batch(trials, options, Limits(), 5)
    with pytest.raises(TrainingDataError, match="-1 versions before update 2; max_staleness is 1"):
        read_batch(trials, options, Limits(), 2)


def test_staleness_counts_versions():
    made = samples_of(make_trials(4, version="policy-v0003"), Credit())
    assert staleness(made, 5) == [2, 2, 2, 2]
    with pytest.raises(TrainingDataError, match="has no number"):
        staleness(samples_of(make_trials(4, version="warm"), Credit()), 5)


# -- what a batch says of itself --------------------------------------------------------------------------------------


def equal_trials(reward, count=8):
    """Trials of one task, one call each, that all earned the same."""
    trials = []
    for number in range(count):
        made = a_trial(index=number)
        made["episodes"] = [{**made["episodes"][0], "turns": made["episodes"][0]["turns"][:1]}]
        made["episodes"][0]["turns"][0]["reward"] = reward
        trials.append({**made, "reflections": []})
    return trials


ESTIMATORS = [
    {"algorithm": "gigpo"},
    {"algorithm": "gigpo", "normalise": "std"},
    {"algorithm": "gigpo", "normalise": "batch"},
    {"algorithm": "grpo", "normalise": "std"},
    {"algorithm": "rloo"},
    {"algorithm": "reinforce++"},
    {"algorithm": "mr-search"},
]


@pytest.mark.parametrize("reward", [0.0, -0.1, 0.475, 0.7, -0.2])
@pytest.mark.parametrize("options", ESTIMATORS, ids=lambda options: "-".join(options.values()))
def test_equal_rewards_are_no_signal_whatever_they_round_to(tmp_path, options, reward):
    batch = read_batch(equal_trials(reward), config(tmp_path, **options), Limits(), 3)
    assert batch.metrics["advantage/zero"] == 1.0
    assert batch.warnings == [
        "update 3 has no signal: within every group all 8 calls earned the same; use harder or easier tasks, or more "
        "trials per task"
    ]


@pytest.mark.parametrize("options", ESTIMATORS, ids=lambda options: "-".join(options.values()))
def test_one_better_trial_of_a_group_is_a_signal(tmp_path, options):
    trials = equal_trials(-0.1)
    trials[5]["episodes"][0]["turns"][0]["reward"] = -0.099
    batch = read_batch(trials, config(tmp_path, **options), Limits(), 3)
    assert batch.warnings == []
    assert batch.metrics["advantage/zero"] < 1.0


def test_a_critic_that_judges_equal_rewards_does_not_hide_that_there_is_no_signal(tmp_path):
    options = config(tmp_path, algorithm="ppo")
    batch = read_batch(equal_trials(-0.1), options, Limits(), 0, lambda samples, update: ([1.0, -1.0] * 4, {}))
    assert batch.metrics["advantage/zero"] == 1.0
    assert "no signal" in batch.warnings[0]


def test_step_level_groups_are_counted_as_the_estimator_makes_them(tmp_path):
    trials = [a_trial(index=number) for number in range(2)]  # the same observation in 2 + 1 turns of 2 episodes

    def groups(anchor):
        metrics = read_batch(trials, config(tmp_path, anchor=anchor), Limits(), 0).metrics
        return metrics["batch/anchor_group"], metrics["batch/anchor_alone"]

    assert groups("observation") == (6.0, 0.0)
    assert groups("episode+observation") == (3.0, 0.0)
    trials[0]["episodes"][1]["turns"][0]["observation"] = "seen once"
    assert groups("observation") == (3.0, 1 / 6)


def test_what_invalid_actions_were_charged_is_noted(tmp_path):
    def noted(env, penalty=0.5):
        made = trial()
        made["task"]["env"] = env
        metrics = read_batch([made], config(tmp_path, invalid_penalty=penalty), Limits(), 0).metrics
        return metrics["credit/invalid_penalty"], metrics["credit/penalised_calls"]

    assert noted("webshop") == (0.5, 1.0)
    assert noted("webshop", 0.0) == (0.0, 0.0)
    assert noted("minesweeper:6x6-3") == (0.0, 0.0)  # it charges for them itself
    assert noted("sokoban:6x6-2") == (0.5, 1.0)  # so does it, but less than for three moves


@pytest.mark.parametrize("gap", [0, 1])
def test_of_an_application_calls_without_tokens_are_left_out_and_what_they_earned_is_not(gap):
    whole = trial()
    whole["task"]["env"] = "app:helper"
    gappy = copy.deepcopy(whole)
    gappy["episodes"][0]["turns"][gap]["call"].update(token_ids=[], logprobs=[])
    gappy["reflections"][0]["call"].update(token_ids=[], logprobs=[])
    before, after = samples_of([whole], PLAIN), samples_of([gappy], PLAIN)
    kept = [before[1 - gap], before[3]]
    assert [(s.episode, s.turn, s.step_return) for s in after] == [(s.episode, s.turn, s.step_return) for s in kept]
    # What a value of the first kept call would be estimated from is the same sum: its reward and, discounted, the rest.
    rewards, discounts = [s.reward for s in before], [s.discount for s in before]
    start = 1 - gap
    total = sum(rewards[n] * math.prod(discounts[start:n]) for n in range(start, 4))
    assert after[0].reward + after[0].discount * after[1].reward == pytest.approx(total)


def test_elsewhere_a_call_without_tokens_stops_the_run():
    gappy = trial()
    gappy["episodes"][0]["turns"][0]["call"].update(token_ids=[], logprobs=[], prompt_token_ids=[])
    with pytest.raises(TrainingDataError, match="no token ids were logged"):
        samples_of([gappy], PLAIN)
