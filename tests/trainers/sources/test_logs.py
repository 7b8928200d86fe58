"""Where trials come from: logged runs, and packing them into micro-batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_graph.runlog import RunLog
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.packing import blocks, distinct, pack, split
from lamer_trainers.learning.samples import Credit, samples_of
from lamer_trainers.sources.logs import LoggedRuns
from log_samples import a_trial
from training import make_trials


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


# -- packing ----------------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 60), parts=st.integers(1, 7), seed=st.integers(0, 3))
def test_mini_batches_share_out_every_sample_evenly(count, parts, seed):
    cut = split(count, parts, (seed, 0))
    assert sorted(i for part in cut for i in part) == list(range(count))
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 300), st.integers(1, 4))
def test_blocks_keep_to_the_budget_and_lose_nothing(lengths, budget, processes):
    cut = blocks(lengths, range(len(lengths)), budget, processes)
    assert sorted(i for block in cut for i in block) == list(range(len(lengths)))
    for block in cut:
        rows = -(-len(block) // processes)
        assert rows == 1 or rows * max(lengths[i] for i in block) <= budget


@settings(max_examples=30)
@given(
    calls=st.integers(1, 40),
    different=st.integers(1, 40),
    budget=st.integers(1, 400),
    processes=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_every_answer_token_is_trained_exactly_once_by_one_process(calls, different, budget, processes, seed):
    samples = samples_of(make_trials(calls, seed=seed, different=different), Credit())
    advantages = [float(i + 1) for i in range(len(samples))]
    found, shapes = [], []
    for process in range(processes):
        packed = pack(
            samples,
            advantages,
            range(len(samples)),
            budget=budget,
            pad=0,
            process=process,
            processes=processes,
        )
        shapes.append([tuple(micro.tensors["prompt_ids"].shape) for micro in packed])
        for micro in packed:
            data = micro.tensors
            assert micro.tokens == int(data["tool_mask"].sum())
            ids = torch.cat([data["prompt_ids"], data["completion_ids"]], dim=1)
            mask = torch.cat([data["prompt_mask"], data["completion_mask"]], dim=1)
            numbers, places = distinct(ids, mask)
            assert torch.equal(ids[numbers][places], ids)
            assert torch.equal(mask[numbers][places], mask)
            rows = {tuple(row) for row in torch.cat([ids, mask], dim=1).tolist()}
            assert len(numbers) == len(rows) <= different
            assert len(rows) == 1 or len(rows) * ids.shape[1] <= budget
            for row in range(len(data["advantages"])):
                answer = data["completion_ids"][row][data["tool_mask"][row].bool()].tolist()
                if not answer:
                    continue
                sample = samples[int(data["advantages"][row]) - 1]
                assert answer == list(sample.token_ids)
                whole = [*data["prompt_ids"][row].tolist(), *data["completion_ids"][row].tolist()]
                seen = [*data["prompt_mask"][row].tolist(), *data["completion_mask"][row].tolist()]
                kept = [token for token, mask in zip(whole, seen, strict=True) if mask]
                assert kept == [*sample.prompt_token_ids, *sample.token_ids]
                logged = data["logged_logps"][row][data["tool_mask"][row].bool()].tolist()
                assert logged == pytest.approx(list(sample.logprobs))
                found.append(int(data["advantages"][row]))
    assert sorted(found) == list(range(1, len(samples) + 1))
    assert all(shape == shapes[0] for shape in shapes)


def test_rows_that_will_all_be_computed_all_count():
    samples = samples_of(make_trials(40, seed=1, different=3), Credit())
    options = {"budget": 120, "pad": 0}
    every = pack(samples, [0.0] * len(samples), range(len(samples)), once=False, **options)
    sizes = [(len(micro.tensors["advantages"]), micro.tensors["prompt_ids"].shape[1]) for micro in every]
    assert sum(rows for rows, _ in sizes) == len(samples)
    assert all(rows == 1 or rows * width <= 120 for rows, width in sizes)
    assert len(pack(samples, [0.0] * len(samples), range(len(samples)), **options)) < len(every)
