"""What a memory taught, trained without it: the same episode asked again, and the loss of what was drawn otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lamer_graph.collection.config import CollectConfig
from lamer_graph.runlog import read_trials
from lamer_graph.types import Message, Sampling
from lamer_trainers.errors import TrainingConfigError, TrainingDataError
from lamer_trainers.learning.distil import Distiller, taught_episodes
from lamer_trainers.learning.samples import Sample, advantages_of, samples_of
from lamer_trainers.learning.trainer import LamerTrainer
from lamer_trainers.runfile import load_run
from memory_runs import run
from scripted import ScriptedPolicy, cautious_player
from training import (
    EPSILON,
    KeepGradients,
    Trials,
    batch_of,
    config,
    gradient_of,
    load,
    make_trials,
    relative_error,
    token_logprobs,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def letters(messages: Sequence[Any]) -> list[int]:
    """A prompt's tokens, for what needs none: its characters, roles included."""
    return [ord(letter) for message in messages for letter in f"{message['role']}\n{message['content']}\n"]


def aloud(messages: Sequence[Message], sampling: Sampling) -> str:
    """`cautious_player` that says something first, and plans where it is asked to."""
    plan = "<plan>open all</plan>" if "<plan>your plan</plan>" in messages[-1]["content"] else ""
    return f"Let me see. {plan}{cautious_player(messages, sampling)}"


@pytest.fixture(scope="module", params=["lamer", "plan"])
def played(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[CollectConfig, list[Any]]:
    """Trials of which some are won at the second or third attempt, with reflections in their prompts; with a plan their
    turns also tell what was thought."""
    thoughts: Any = "shown" if request.param == "plan" else "hidden"
    settings = CollectConfig(env="minesweeper:4x4-2", tasks=30, trials=2, strategy=request.param, thoughts=thoughts)
    folder = tmp_path_factory.mktemp("played") / "run"
    run(settings, folder, ScriptedPolicy(aloud if request.param == "plan" else cautious_player))
    return settings, sorted(read_trials(folder), key=lambda trial: trial["trial_id"])


def distilled(settings: CollectConfig, trials: list[Any], ratio: float = 1.0) -> list[Sample]:
    samples = samples_of(trials)
    return Distiller(settings.prompts(), letters, ratio).samples(trials, samples, [1.0] * len(samples), 0)[0]


def test_only_episodes_that_were_won_with_a_memory_are_taught(played: tuple[CollectConfig, list[Any]]) -> None:
    settings, trials = played
    expected = {
        trial["trial_id"]: [len(trial["episodes"]) - 1]
        for trial in trials
        if trial["success"] and len(trial["episodes"]) > 1
    }
    assert {trial["trial_id"]: taught_episodes(trial) for trial in trials if taught_episodes(trial)} == expected
    assert len(expected) >= 5
    made = distilled(settings, trials)
    assert {(sample.trial, sample.episode) for sample in made} == {(name, n) for name, (n,) in expected.items()}
    assert all(sample.remembered and sample.kind == "turn" for sample in made)


def test_an_episode_is_asked_again_as_a_first_attempt_without_memory_would_be(
    played: tuple[CollectConfig, list[Any]], tmp_path: Path
) -> None:
    """The same task is really played without memory, with the same answers: its prompts are the distilled ones."""
    settings, trials = played
    made = {(sample.trial, sample.turn): sample for sample in distilled(settings, trials)}
    trial = next(trial for trial in trials if taught_episodes(trial))
    answers = iter([turn["text"] for turn in trial["episodes"][-1]["turns"]])
    policy = ScriptedPolicy(lambda messages, sampling: next(answers))
    number = next(
        n
        for n, other in enumerate(dict.fromkeys(t["task"]["seed"] for t in read_sorted(trials)))
        if other == trial["task"]["seed"]
    )
    plain = settings.model_copy(update={"contents": "none", "tasks": 1, "trials": 1, "skip": number})
    run(plain, tmp_path / "alone", policy)
    asked = [letters(messages) for messages in policy.seen]
    assert asked == [made[trial["trial_id"], turn].prompt_token_ids for turn in range(len(asked))]
    first = made[trial["trial_id"], 0]
    assert first.token_ids == trial["episodes"][-1]["turns"][0]["call"]["token_ids"]


def read_sorted(trials: list[Any]) -> list[Any]:
    """In the order in which the split has their tasks."""
    return sorted(trials, key=lambda trial: trial["task"]["seed"])


def test_ratio_bounds_how_many_there_are_and_the_seed_draws_them(played: tuple[CollectConfig, list[Any]]) -> None:
    settings, trials = played
    every, some = distilled(settings, trials), distilled(settings, trials, 0.05)
    assert len(some) == int(0.05 * len(samples_of(trials))) < len(every)
    assert [one.place for one in distilled(settings, trials, 0.05)] == [one.place for one in some]
    samples = samples_of(trials)
    other = Distiller(settings.prompts(), letters, 0.05).samples(trials, samples, [1.0] * len(samples), 1)[0]
    assert [one.place for one in other] != [one.place for one in some]


def test_what_the_model_could_not_hold_is_left_out(played: tuple[CollectConfig, list[Any]]) -> None:
    settings, trials = played
    samples = samples_of(trials)
    every = distilled(settings, trials)
    most = sorted(one.length for one in every)[len(every) // 2]
    kept, earned = Distiller(settings.prompts(), letters, 1.0).samples(trials, samples, [1.0] * len(samples), 0, most)
    assert 0 < len(kept) == len(earned) < len(every)
    assert max(one.length for one in kept) <= most


def test_what_earned_less_than_expected_is_not_taught(played: tuple[CollectConfig, list[Any]]) -> None:
    settings, trials = played
    samples = samples_of(trials)
    from lamer_trainers.learning.samples import Estimator

    advantages = advantages_of(samples, Estimator())
    made, earned = Distiller(settings.prompts(), letters, 1.0).samples(trials, samples, advantages, 0)
    assert made
    assert min(earned) > 0
    of = {(sample.trial, sample.episode, sample.turn): a for sample, a in zip(samples, advantages, strict=True)}
    assert [of[one.trial, one.episode, one.turn] for one in made if one.turn] == [
        a for one, a in zip(made, earned, strict=True) if one.turn
    ]


def test_a_trial_that_plays_otherwise_now_is_refused_by_its_name(played: tuple[CollectConfig, list[Any]]) -> None:
    settings, trials = played
    trial = next(trial for trial in trials if taught_episodes(trial))
    turns = trial["episodes"][-1]["turns"]
    forged = {
        **trial,
        "episodes": [
            *trial["episodes"][:-1],
            {**trial["episodes"][-1], "turns": [{**turn, "reward": turn["reward"] + 1} for turn in turns]},
        ],
    }
    with pytest.raises(TrainingDataError, match=r"cannot be played again without its memory: its action .* now earns"):
        distilled(settings, [forged])


# -- the loss ---------------------------------------------------------------------------------------------------------


class Stub(Distiller):
    """Every third sample again, with another prompt."""

    def samples(self, trials: Any, samples: Any, advantages: Any, seed: int, most: Any = None) -> Any:
        again = [replace(one, prompt_token_ids=[7, *one.prompt_token_ids[1:]], remembered=True) for one in samples[::3]]
        return again, [abs(advantage) + 0.5 for advantage in advantages[::3]]


@pytest.mark.parametrize("old", ["logged", "recomputed"])
def test_the_gradient_weighs_each_token_by_its_ratio_and_leaves_out_what_nothing_would_say(
    tiny_model_dir: Path, tmp_path: Path, old: str
) -> None:
    model, tokenizer = load(tiny_model_dir)
    trials, cap = make_trials(29, model=model, noise=0.05), 1.02
    own = [token_logprobs(model, one.prompt_token_ids, one.token_ids)[0] for one in samples_of(trials)]
    floor = float(torch.cat(own).detach().quantile(0.4).exp())
    kept = KeepGradients()
    args = config(tmp_path, old_logprobs=old, importance_cap=cap, distil_floor=floor)
    stub = Stub(None, letters, 1.0)  # type: ignore[arg-type]
    trainer = LamerTrainer(model, Trials(trials), args, distiller=stub, processing_class=tokenizer, callbacks=[kept])
    trainer.train()

    by_hand, _ = load(tiny_model_dir)
    batch = batch_of(trials, args)
    more, earned = stub.samples(trials, batch.samples, batch.advantages, 0)
    every = [*zip(batch.samples, batch.advantages, strict=True), *zip(more, earned, strict=True)]
    count, total, left_out = sum(len(sample.token_ids) for sample, _ in every), torch.zeros(()), 0
    for sample, advantage in every:
        new, _ = token_logprobs(by_hand, sample.prompt_token_ids, sample.token_ids)
        logged, own_now = torch.tensor(sample.logprobs), new.detach()
        other = sample.remembered
        base = own_now if other or old == "recomputed" else logged
        weight = (own_now - logged).exp().clamp(max=cap) if other or old == "recomputed" else torch.ones_like(logged)
        known = (own_now > math.log(floor)) if other else torch.ones_like(logged, dtype=torch.bool)
        left_out += int((~known).sum())
        ratio, gain = (new - base).exp(), advantage * weight * known
        total = total - torch.minimum(ratio * gain, ratio.clamp(1 - EPSILON, 1 + EPSILON) * gain).sum() / count
    total.backward()
    assert left_out > 10
    assert relative_error(kept.gradients[0], gradient_of(by_hand)) < 1e-5
    noted = trainer.state.log_history[0]
    tokens = sum(len(sample.token_ids) for sample in more)
    assert (noted["distil/tokens"], noted["distil/calls"]) == (tokens, len(more))
    assert noted["distil/unknown"] == pytest.approx(left_out / tokens)


# -- run files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["collect.contents=none"], "collect.contents other than none"),
        (["optimise.algorithm=ppo", "optimise.normalise=mean"], "not with ppo's critic"),
        (["distil.ratio=0"], "distil.ratio"),
        (["distil.floor=1"], "distil.floor"),
        (["collect.env=task:desk"], "an environment's"),
        (["optimise.by_memory=true"], "set collect.control=0.5"),
        (
            [
                *("collect.scope=tasks", "collect.backend=chroma", "collect.control=0.5", "optimise.by_memory=true"),
                *("optimise.algorithm=reinforce++", "optimise.normalise=mean"),
            ],
            r"reinforce\+\+ compares no groups",
        ),
    ],
)
def test_what_distilling_contradicts_is_one_line(changes: list[str], says: str) -> None:
    with pytest.raises(TrainingConfigError, match=says):
        load_run(preset="minesweeper-cpu", changes=["distil.ratio=0.5", *changes])


def test_a_run_file_says_how_much_is_distilled() -> None:
    run_file = load_run(preset="minesweeper-cpu", changes=["distil.ratio=0.5", "distil.floor=0.2"])
    assert run_file.distil is not None
    assert (run_file.distil.ratio, run_file.trainer_config(Path("x"), cpu=True).distil_floor) == (0.5, 0.2)
    assert load_run(preset="minesweeper-cpu").distil is None
