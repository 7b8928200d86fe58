"""How much texts say of their tasks, against channels whose mutual information is known; and which groups are kept."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch

from lamer_trainers.errors import TrainingConfigError, TrainingDataError
from lamer_trainers.learning.batch import read_batch
from lamer_trainers.learning.collapse import (
    collapse_metrics,
    contrastive,
    entropy,
    information,
    probe,
    telling_groups,
)
from lamer_trainers.learning.probing import scorer
from lamer_trainers.learning.samples import Credit, Limits, samples_of
from lamer_trainers.learning.sharing import Sharing
from log_samples import a_trial
from training import config, load_model, make_trials, token_logprobs


def through_a_channel(count, right, seed=0, alphabet=4):
    """Tasks and texts of a symmetric channel: the task's own text with probability `right`, else one of the others."""
    rng = random.Random(seed)
    tasks = [rng.randrange(alphabet) for _ in range(count)]
    texts = [task if rng.random() < right else rng.choice([t for t in range(alphabet) if t != task]) for task in tasks]
    return tasks, texts


def capacity(right, alphabet=4):
    """I(T; R) of that channel, in nats."""
    wrong = (1 - right) / (alphabet - 1)
    noise = -sum(p * math.log(p) for p in [right, *[wrong] * (alphabet - 1)] if p)
    return math.log(alphabet) - noise


@pytest.mark.parametrize("right", [0.25, 0.5, 0.8, 1.0])
def test_of_many_texts_the_counts_give_the_channels_information(right):
    told = information(*through_a_channel(20_000, right))
    assert told.plug_in == pytest.approx(capacity(right), abs=0.01)
    assert told.excess == pytest.approx(capacity(right), abs=0.01)
    assert told.within == pytest.approx(math.log(4) - capacity(right), abs=0.01)


def test_of_few_texts_that_say_nothing_the_counts_see_information_and_the_excess_does_not():
    found = [information(*through_a_channel(48, 0.25, seed)) for seed in range(40)]
    plain = np.mean([one.plug_in for one in found])
    assert plain > 0.08  # (4 - 1)(4 - 1) / (2 * 48) = 0.094 nats of bias
    assert np.mean([one.excess for one in found]) == pytest.approx(0.0, abs=0.01)


def test_where_every_text_is_different_nothing_can_be_said():
    told = information([0, 0, 1, 1, 2, 2], range(6))
    assert told.plug_in == pytest.approx(math.log(3))
    assert told.excess == pytest.approx(0.0)


def test_entropy_is_that_of_the_counts():
    assert entropy("aabb") == pytest.approx(math.log(2))
    assert entropy("aaaa") == 0.0
    with pytest.raises(ValueError, match="information needs pairs"):
        information([], [])


@pytest.mark.parametrize("right", [0.25, 0.6, 0.97])
def test_the_contrastive_estimate_of_a_known_channel_is_its_information(right):
    """With one text of each of the tasks, drawn again and again, and the true conditionals for scores."""
    wrong, rng, found = (1 - right) / 3, random.Random(1), []
    for _ in range(4_000):
        texts = [task if rng.random() < right else rng.choice([t for t in range(4) if t != task]) for task in range(4)]
        found.append(
            contrastive([[math.log(right if text == task else wrong) for task in range(4)] for text in texts])[0]
        )
    assert np.mean(found) == pytest.approx(capacity(right), abs=0.02)


def test_a_policy_that_ignores_its_task_recognises_none_and_one_that_copies_it_all():
    assert contrastive([[-3.0] * 8] * 8) == (pytest.approx(0.0), 0.0)
    apart = [[0.0 if i == j else -500.0 for j in range(8)] for i in range(8)]
    assert contrastive(apart) == (pytest.approx(math.log(8)), 1.0)


def trials_of(tasks, texts):
    trials = []
    for index, (task, text) in enumerate(zip(tasks, texts, strict=True)):
        made = a_trial(task=f"minesweeper:6x6-3/{task}", index=index)
        made["reflections"][0]["text"] = str(text)
        trials.append(made)
    return trials


def test_a_batchs_reflections_are_measured_and_those_of_rerolls_are_not():
    trials = trials_of([0] * 8 + [1] * 8, ["same"] * 16)
    template = collapse_metrics(samples_of(trials, Credit()))
    assert template["collapse/reflection_mi"] == pytest.approx(0.0)
    assert template["collapse/reflection_entropy"] == 0.0
    told = collapse_metrics(samples_of(trials_of([0] * 8 + [1] * 8, ["one"] * 8 + ["two"] * 8), Credit()))
    assert told["collapse/reflection_mi"] > 0.55  # ln 2 = 0.69, less what chance does with 16
    again = copy.deepcopy(trials)
    for number, made in enumerate(again):
        made["trial_id"] += "again"
        made["reflections"][0]["text"] = str(number)
        made["branch"] = {"trial_id": trials[number]["trial_id"], "episode": 0, "turn": 1}
    assert collapse_metrics(samples_of([*trials, *again], Credit())) == template


def test_one_task_alone_has_no_information():
    assert collapse_metrics(samples_of(trials_of([0] * 4, "abcd"), Credit())) == {}


def test_the_probe_scores_every_text_after_every_prompt(tiny_model_dir, tmp_path):
    model = load_model(tiny_model_dir)
    samples, before = samples_of(make_trials(40), Credit()), model.training

    class Here:
        device = torch.device("cpu")
        autocast = staticmethod(lambda: torch.autocast("cpu", enabled=False))

    asked = []
    scored = scorer(model, Here(), Sharing(model, wanted=True), temperature=1.0, budget=200, pad=0)

    def noted(crossed):
        asked.extend(crossed)
        return scored(crossed)

    got = probe(samples, 3, 0, noted)
    assert got["collapse/probed"] == 3.0
    assert len(asked) == 9
    assert len({one.group for one in asked[:3]}) == 3
    with torch.no_grad():
        table = [float(token_logprobs(model, one.prompt_token_ids, one.token_ids)[0].sum()) for one in asked]
    expected = contrastive([table[0:3], table[3:6], table[6:9]])
    assert (got["collapse/contrastive_mi"], got["collapse/recognised"]) == pytest.approx(expected, abs=1e-4)
    assert model.training == before


def test_groups_that_vary_less_than_the_quantile_are_left_out():
    """Four tasks of two trials each, whose returns are 0, 1, 2 and 3 apart."""
    trials = []
    for task in range(4):
        for index in range(2):
            made = a_trial(task=f"minesweeper:6x6-3/{task}", index=index)
            made["episodes"] = [{**made["episodes"][0], "turns": made["episodes"][0]["turns"][:1]}]
            made["episodes"][0]["turns"][0]["reward"] = float(index * task)
            trials.append({**made, "reflections": []})
    samples = samples_of(trials, Credit())
    kept, noted = telling_groups(samples, 0.5)
    assert {one.group for one in kept} == {"minesweeper:6x6-3/2", "minesweeper:6x6-3/3"}
    assert noted == {"groups/variance": pytest.approx((0 + 0.25 + 1 + 2.25) / 4), "groups/dropped": 2.0}
    assert telling_groups(samples, 0.0)[0] == samples
    assert {one.group for one in telling_groups(samples, 0.99)[0]} == {"minesweeper:6x6-3/3"}


def test_what_is_left_out_of_a_batch_is_counted_and_not_trained(tmp_path):
    trials = trials_of([0, 0, 1, 1], "abcd")
    trials[3]["episodes"][1]["turns"][0]["reward"] = 0.5  # of task 0 both trials earned the same
    groups = {"minesweeper:6x6-3/0", "minesweeper:6x6-3/1"}
    assert {one.group for one in read_batch(trials, config(tmp_path), Limits(), 0).samples} == groups
    batch = read_batch(trials, config(tmp_path, drop_groups=0.5), Limits(), 0)
    assert {one.group for one in batch.samples} == {"minesweeper:6x6-3/1"}
    assert batch.metrics["groups/dropped"] == 1.0
    assert batch.metrics["batch/calls"] == 16.0
    assert len(batch.samples) == len(batch.advantages) == 8


@pytest.mark.parametrize(("option", "says"), [({"drop_groups": 1.0}, "below 1"), ({"collapse_probe": 1}, "at least 2")])
def test_what_cannot_be_is_refused(tmp_path, option, says):
    with pytest.raises(TrainingConfigError, match=says):
        config(tmp_path, **option)


def test_an_unknown_environment_is_named(tmp_path):
    made = trials_of([0], "a")
    made[0]["task"]["env"] = "nowhere:3"
    with pytest.raises(TrainingDataError, match="'nowhere:3', which is not installed here"):
        samples_of(made, Credit())
