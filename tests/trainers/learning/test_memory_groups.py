"""Trials that saw other tasks' records, and those that they were held back from: told apart, and compared alike."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from lamer_trainers.learning.batch import batch_metrics
from lamer_trainers.learning.samples import Estimator, Sample, advantages_of, samples_of
from training import make_trials


def with_arms(calls: int = 60) -> list[Any]:
    """Trials of which every other one had a record of another task held back, and the others saw it; those that saw it
    earn 5 more at every turn."""
    trials = make_trials(calls, seed=3)
    for number, trial in enumerate(trials):
        held = bool(number // 3 % 2)
        trial["memory_reads"] = [{"episode": 0, "keys": [] if held else ["other#0/0/reflection"], "seconds": 0.0}]
        if held:
            trial["memory_reads"][0]["held"] = ["other#0/0/reflection"]
        for episode in trial["episodes"]:
            episode["turns"] = [{**turn, "reward": turn["reward"] + 5 * (not held)} for turn in episode["turns"]]
    return trials


def mean(samples: list[Sample], advantages: list[float], held: bool) -> float:
    chosen = [value for sample, value in zip(samples, advantages, strict=True) if sample.held is held]
    return sum(chosen) / len(chosen)


def test_a_sample_says_whether_records_were_held_back_from_its_trial() -> None:
    trials = with_arms()
    held = {trial["trial_id"]: bool(trial["memory_reads"][0].get("held")) for trial in trials}
    samples = samples_of(trials)
    assert {sample.trial: sample.held for sample in samples} == held
    assert set(held.values()) == {True, False}


@pytest.mark.parametrize(
    "estimator",
    [
        Estimator(),
        Estimator(normalise="std"),
        Estimator(normalise="batch", anchor="episode+observation"),
        Estimator(baseline="task+episode"),
        Estimator("grpo"),
        Estimator("rloo"),
    ],
    ids=lambda one: f"{one.algorithm}-{one.normalise}-{one.baseline}",
)
def test_what_the_memory_brought_is_nobodys_advantage_where_like_is_compared_with_like(estimator: Estimator) -> None:
    """The same as if each side's trials were of tasks of their own."""
    trials = with_arms()
    samples = samples_of(trials)
    together = advantages_of(samples, estimator)
    apart = advantages_of(samples, _by_memory(estimator))
    assert mean(samples, together, False) > mean(samples, together, True) + 0.3
    renamed = [
        {**trial, "task": {**trial["task"], "id": f"{trial['task']['id']}/{held}"}}
        for trial, held in ((trial, bool(trial["memory_reads"][0].get("held"))) for trial in trials)
    ]
    assert apart == pytest.approx(advantages_of(samples_of(renamed), estimator))
    sums: dict[Any, float] = defaultdict(float)
    for sample, value in zip(samples, apart, strict=True):
        sums[sample.held] += value
    assert abs(mean(samples, apart, False) - mean(samples, apart, True)) < 0.5 * (
        mean(samples, together, False) - mean(samples, together, True)
    )


def _by_memory(one: Estimator) -> Estimator:
    return Estimator(one.algorithm, one.normalise, one.anchor, one.baseline, one.step_weight, one.clamp, by_memory=True)


def test_a_batch_says_what_other_tasks_records_did_for_it() -> None:
    trials = with_arms()
    for number, trial in enumerate(trials):
        held = bool(trial["memory_reads"][0].get("held"))
        trial["success"] = not held or number % 2 == 0
        trial["episodes"][-1]["success"] = trial["success"]
    metrics = batch_metrics(trials, samples_of(trials), Estimator())
    won: dict[bool, list[tuple[bool, bool]]] = {True: [], False: []}
    for trial in trials:
        at_once = trial["episodes"][0]["success"]
        won[bool(trial["memory_reads"][0].get("held"))].append((at_once, trial["success"]))
    for name, place in (("memory/effect@1", 0), ("memory/effect", 1)):
        shares = [sum(one[place] for one in won[held]) / len(won[held]) for held in (False, True)]
        assert metrics[name] == pytest.approx(shares[0] - shares[1])
    plain = make_trials(20, seed=1)
    assert not any(name.startswith("memory/") for name in batch_metrics(plain, samples_of(plain), Estimator()))
