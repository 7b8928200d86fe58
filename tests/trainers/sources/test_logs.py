"""Where trials come from: logged runs."""

from __future__ import annotations

import pytest

from lamer_graph.runlog import RunLog
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.sources.logs import LoggedRuns
from log_samples import a_trial


def write(folder, trials, name="run"):
    with RunLog.create(folder / name, {"name": name}) as log:
        for trial in trials:
            log.append(trial)
    return folder / name


def tasks(batch):
    return [trial["task"]["id"] for trial in batch]


@pytest.fixture
def run(tmp_path):
    """Five tasks of three trials each, logged in mixed order, and one that failed before it was played again."""
    trials = [a_trial(f"task-{n}", i) for i in range(3) for n in range(5)]
    failed = {**trials[0], "error": {"type": "PolicyError", "message": "", "episode": 0, "turn": 0}}
    return write(tmp_path, [failed, *trials])


def test_a_batch_is_whole_groups_of_finished_trials(run):
    batch = LoggedRuns(run, groups=2).next_batch(0)
    assert len(batch) == 6
    assert len(set(tasks(batch))) == 2
    assert [trial["trial"] for trial in batch] == [0, 1, 2, 0, 1, 2]
    assert all(trial["error"] is None for trial in batch)


def test_every_pass_sees_every_group_once(run):
    source = LoggedRuns(run, groups=1)
    assert len(source) == 5
    for turn in range(3):
        seen = [tasks(source.next_batch(turn * 5 + n))[0] for n in range(5)]
        assert sorted(seen) == [f"task-{n}" for n in range(5)]


def test_no_batch_holds_a_group_twice_where_two_passes_meet(run):
    source = LoggedRuns(run, groups=3)
    for step in range(20):
        assert len(set(tasks(source.next_batch(step)))) == 3


def test_the_same_step_gives_the_same_trials(run):
    first, second = LoggedRuns(run, groups=3, seed=4), LoggedRuns(run, groups=3, seed=4)
    second.next_batch(0)
    assert first.next_batch(7) == second.next_batch(7)
    others = [tasks(LoggedRuns(run, groups=3, seed=seed).next_batch(0)) for seed in range(6)]
    assert len(set(map(tuple, others))) > 1


def test_several_runs_are_one_source(tmp_path, run):
    other = write(tmp_path, [a_trial("task-9", 0)], "other")
    assert len(LoggedRuns([run, other], groups=6)) == 6


def test_runs_that_hold_the_same_trial_are_refused(tmp_path, run):
    other = write(tmp_path, [a_trial("task-1", 0)], "other")
    with pytest.raises(TrainingDataError, match="trial task-1/0 is in"):
        LoggedRuns([run, other])


def test_two_users_trials_of_one_task_are_one_group(tmp_path, run):
    def whose(user):
        return {**a_trial("task-1", 0), "trial_id": f"task-1#0@{user}"}

    once = write(tmp_path, [whose("ann"), whose("bob")], "users")
    again = write(tmp_path, [whose("cid")], "more")
    batch = LoggedRuns([once, again], groups=1).next_batch(0)
    assert [trial["trial_id"] for trial in batch] == ["task-1#0@ann", "task-1#0@bob", "task-1#0@cid"]
    assert len(LoggedRuns([run, once, again], groups=5)) == 5


def test_more_groups_than_there_are_is_refused(run):
    with pytest.raises(TrainingDataError, match="6 groups cannot come from 5 tasks"):
        LoggedRuns(run, groups=6)


def test_a_log_without_a_finished_trial_is_refused(tmp_path):
    failed = {**a_trial(), "error": {"type": "PolicyError", "message": "", "episode": 0, "turn": 0}}
    with pytest.raises(TrainingDataError, match="no finished trial"):
        LoggedRuns(write(tmp_path, [failed]))
