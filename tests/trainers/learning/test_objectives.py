"""What counts as a reward in samples of logged trials: all episodes, the last one, progress beyond earlier attempts."""

from __future__ import annotations

import pytest

from lamer_trainers.errors import TrainingConfigError, TrainingDataError
from lamer_trainers.learning.samples import Credit, Estimator, advantages_of, samples_of
from lamer_trainers.runfile import load_run
from log_samples import a_trial, a_turn


def trial(index=0, won=True, progress=()):
    """Two episodes of two and one turns, the last one won or not."""
    made = a_trial(index=index)
    if not won:
        made["episodes"][1] = {"turns": [a_turn("(2, 2)")], "success": False, "reward": -0.1, "truncated": True}
        made["success"] = False
    if progress:
        made["progress"] = progress
    return made


def credit(**options):
    return Credit(0.5, 0.6, invalid_penalty=0.0, **options)


def test_of_the_final_objective_the_first_episodes_own_rewards_are_no_part():
    samples = samples_of([trial()], credit(objective="final"))
    assert [s.step_return for s in samples] == pytest.approx([6.0, 6.0, 10.0, 10.0])
    assert [s.reward for s in samples] == [0.0, 0.0, 0.0, 10.0]
    assert [s.episode_reward for s in samples] == [0.0, 0.0, 10.0, 10.0]


def test_progress_beyond_earlier_attempts_is_paid_at_the_last_turn():
    made = trial(progress=[0.25, 0.5, 1.0])
    samples = samples_of([made], credit(progress_weight=2.0))
    assert [s.reward for s in samples] == pytest.approx([-0.1, -0.1 + 0.5, 0.0, 10.0 + 1.0])


def test_the_final_objective_counts_the_last_episodes_progress_alone():
    made = trial(progress=[0.25, 0.5, 1.0])
    samples = samples_of([made], credit(progress_weight=2.0, objective="final"))
    assert [s.reward for s in samples] == pytest.approx([0.0, 0.0, 0.0, 11.0])


def test_progress_that_was_not_logged_cannot_count():
    with pytest.raises(TrainingDataError, match="no progress was logged: the environment 'minesweeper"):
        samples_of([trial()], credit(progress_weight=1.0))


def test_mr_search_gives_an_episodes_calls_one_advantage_and_a_reflection_that_of_the_next():
    trials = [trial(0), trial(1, won=False)]
    samples = samples_of(trials, credit())
    got = advantages_of(samples, Estimator(algorithm="mr-search", gamma_traj=0.6))
    # Both lost 0.2 in the first episode; in the second one won 10 and the other lost 0.1.
    assert got == pytest.approx([6.06, 6.06, 10.1, 10.1, -6.06, -6.06, -10.1, -10.1])


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        (["optimise.algorithm=mr-search", "optimise.normalise=mean"], ("algorithm", "mr-search")),
        (["optimise.objective=final"], ("objective", "final")),
        (["optimise.progress_weight=2"], ("progress_weight", 2.0)),
    ],
)
def test_every_objective_is_set_from_the_command_line(tmp_path, changes, read):
    run = load_run(preset="minesweeper-cpu", changes=changes)
    name, value = read
    assert getattr(run.trainer_config(tmp_path, cpu=True), name) == value


def test_a_negative_weight_of_progress_is_refused():
    with pytest.raises(TrainingConfigError, match="progress_weight is at least 0"):
        credit(progress_weight=-1.0)
