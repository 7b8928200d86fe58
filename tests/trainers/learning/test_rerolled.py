"""Re-rolls in training: their own calls alone, compared with those that began where they did and with nothing else."""

from __future__ import annotations

import copy

import pytest

from lamer_trainers.credit import cross_episode_returns
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.batch import read_batch
from lamer_trainers.learning.samples import Credit, Estimator, Limits, advantages_of, samples_of
from lamer_trainers.runfile import load_run
from log_samples import a_call, a_trial, a_turn
from training import config

PLAIN = Credit(gamma_step=0.5, gamma_traj=0.6, invalid_penalty=0.0)


def trial(index=0, rewards=((-0.1, 0.5), (-0.2,), (1.0, 2.0))):
    """A failed trial of three episodes."""
    made = a_trial(index=index)
    made["episodes"] = [
        {"turns": [a_turn(reward=reward) for reward in episode], "success": False, "reward": 0.0, "truncated": True}
        for episode in rewards
    ]
    made["reflections"] = [{**made["reflections"][0], "episode": n, "call": a_call((7, 2))} for n in range(2)]
    return {**made, "success": False}


def reroll(of, index, episode, turn, last=2.0):
    """`of` begun again there, with another last reward."""
    made = copy.deepcopy(of)
    made["trial_id"], made["trial"] = f"{of['task']['id']}/{index}", index
    made["branch"] = {"trial_id": of["trial_id"], "episode": episode, "turn": turn}
    made["episodes"][-1]["turns"][-1]["reward"] = last
    for number, played in enumerate(made["episodes"]):
        for position, one in enumerate(played["turns"]):
            if (number, position) < (episode, turn):
                one["call"] = None
    for written in made["reflections"]:
        if written["episode"] < episode:
            written["call"] = None
    return made


@pytest.mark.parametrize(("episode", "turn"), [(0, 1), (1, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_a_rerolls_samples_are_those_of_the_whole_trial_from_its_beginning_on(episode, turn, variant):
    credit = Credit(0.5, 0.6, variant=variant, invalid_penalty=0.0)
    whole = trial()
    own = samples_of([reroll(whole, 9, episode, turn)], credit)
    after = [s for s in samples_of([whole], credit) if (s.episode, s.turn) >= (episode, turn)]
    assert [(s.kind, s.episode, s.turn) for s in own] == [(s.kind, s.episode, s.turn) for s in after]
    for name in ("step_return", "reward", "discount"):
        assert [getattr(s, name) for s in own] == [getattr(s, name) for s in after]


def test_at_the_episode_level_a_reroll_is_worth_what_follows_its_beginning():
    own = samples_of([reroll(trial(), 9, 0, 1)], PLAIN)
    expected = cross_episode_returns([[0.5], [-0.2], [1.0, 2.0]], gamma_step=0.5, gamma_traj=0.6)
    assert own[0].episode_return == expected.turns[0][0]
    assert [s.episode_reward for s in own] == pytest.approx([0.5, -0.2, -0.2, 3.0, 3.0, 3.0])


def test_of_progress_and_the_final_objective_what_was_before_counts_as_it_was():
    whole = {**trial(), "progress": [0.0, 0.5, 0.25, 1.0]}
    credit = Credit(0.5, 0.6, invalid_penalty=0.0, progress_weight=4.0)
    own = samples_of([reroll(whole, 9, 1, 0)], credit)
    assert [s.reward for s in own] == pytest.approx([-0.2, 0.0, 1.0, 4.0])  # beyond the first attempt's half
    final = samples_of([reroll(whole, 9, 1, 0)], Credit(0.5, 0.6, invalid_penalty=0.0, objective="final"))
    assert [s.reward for s in final] == [0.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "options",
    [{}, {"normalise": "batch"}, {"algorithm": "grpo"}, {"algorithm": "rloo"}, {"algorithm": "mr-search"}],
)
def test_rerolls_are_compared_among_themselves_and_leave_the_others_advantages_alone(options):
    trials = [trial(0), trial(1, ((-0.1, 0.5), (-0.2,), (1.0, 7.0)))]
    again = [reroll(trials[0], 2 + n, 2, 0, last) for n, last in enumerate((0.0, 4.0))]
    estimator = Estimator(**options)
    samples = samples_of([*trials, *again], PLAIN)
    got = advantages_of(samples, estimator)
    own = [value for value, sample in zip(got, samples, strict=True) if not sample.rerolled]
    alone = advantages_of(samples_of(trials, PLAIN), estimator)
    if "normalise" not in options:  # there the scale is the batch's
        assert own == pytest.approx(alone)
    worse, better = ([v for v, s in zip(got, samples, strict=True) if s.trial == one["trial_id"]] for one in again)
    assert all(a < 0 < b for a, b in zip(worse, better, strict=True))
    assert sum(worse) + sum(better) == pytest.approx(0.0, abs=1e-6)


def test_rerolls_are_no_trials_of_the_batch_and_their_calls_are_counted(tmp_path):
    trials = [trial(0), trial(1)]
    won = reroll(trials[0], 3, 2, 1, 10.0)
    won["episodes"][-1]["success"] = won["success"] = True
    alone = read_batch(trials, config(tmp_path), Limits(), 0).metrics
    metrics = read_batch([*trials, reroll(trials[0], 2, 2, 1), won], config(tmp_path), Limits(), 0).metrics
    for name in ("batch/trials", "batch/reward", "batch/pass@1", "batch/pass@3"):
        assert metrics[name] == alone[name]
    assert metrics["batch/calls"] == alone["batch/calls"] + 2
    assert (metrics["rerolls/trials"], metrics["rerolls/calls"], metrics["rerolls/success"]) == (2.0, 2.0, 0.5)
    assert "rerolls/trials" not in alone


def test_a_batch_of_rerolls_alone_is_refused(tmp_path):
    with pytest.raises(TrainingDataError, match="holds re-rolls alone"):
        read_batch([reroll(trial(), 2, 2, 1), reroll(trial(), 3, 2, 1)], config(tmp_path), Limits(), 0)


def test_rerolls_are_set_from_the_command_line_and_validation_has_none():
    run = load_run(preset="minesweeper-cpu", changes=["collect.rerolls=4", "collect.reroll_trials=2"])
    assert (run.collect.rerolls, run.collect.reroll_trials) == (4, 2)
