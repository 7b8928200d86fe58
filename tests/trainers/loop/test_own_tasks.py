"""Training on the tasks of an application: its calls, across its attempts, with its grades."""

from __future__ import annotations

from typing import Any

import pytest

from agents import search
from lamer_graph import Grade, task_agent
from lamer_graph.errors import ConfigError
from lamer_graph.runlog import read_trials
from lamer_trainers.learning.samples import Credit, samples_of
from lamer_trainers.loop.plan import plan
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run
from loop_run import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


def length(task: Any, result: Any) -> Grade:
    """How short the answer is: something that a random policy differs in."""
    said = result["messages"][-1].text
    return Grade(1 / (1 + len(said)), f"{len(said)} characters", success=False)


APP = task_agent(
    tools=[search],
    tasks=[{"input": f"Say {n}.", "split": "train" if n % 3 else "val"} for n in range(12)],
    grade=length,
    name="brief",
    recursion_limit=6,
)


def run_of(model_dir: Any, *changes: str) -> Any:
    base = (f"policy={model_dir}", *SMALL, f"collect.env={APP.spec}", "collect.max_turns=null", "save_every=1")
    kept = ("collect.prompt_style=standard", "optimise.updates=2", "validation.tasks=2", "validation.every=2")
    return load_run(preset="minesweeper-cpu", changes=[*base, *kept, "optimise.learning_rate=0.01", *changes])


def test_a_run_trains_validates_and_goes_on(tiny_model_dir: Any, tmp_path: Any) -> None:
    done = train(run_of(tiny_model_dir), tmp_path / "run")
    assert done.updates == 2
    assert done.best == 0.0  # it never succeeds, but what earns more is learnt
    trials = [*read_trials(tmp_path / "run" / "collected" / "update-00001")]
    versions = {turn["call"]["policy_version"] for trial in trials for ep in trial["episodes"] for turn in ep["turns"]}
    assert versions == {"policy-v0001"}
    longer = train(run_of(tiny_model_dir, "optimise.updates=3"), tmp_path / "run", resume=True)
    assert longer.updates == 3


def test_later_grades_are_credited_to_earlier_calls_and_to_the_reflection(tiny_model_dir: Any, tmp_path: Any) -> None:
    train(run_of(tiny_model_dir, "optimise.updates=1"), tmp_path / "run")
    trials = [*read_trials(tmp_path / "run" / "collected" / "update-00000")]
    samples = samples_of(trials, Credit(gamma_step=0.95, gamma_traj=0.6))
    for trial in trials:
        own = [s for s in samples if s.trial == f"{trial['task']['id']}#{trial['trial']}"]
        first, second = (episode["turns"][-1]["reward"] for episode in trial["episodes"])
        (reflection,) = [s for s in own if s.kind == "reflection"]
        last = [s for s in own if s.kind == "turn" and s.episode == 0][-1]
        assert reflection.step_return == pytest.approx(second)  # one call an attempt, so nothing is discounted
        assert last.step_return == pytest.approx(first + 0.6 * second)


def test_logs_of_tasks_are_trained_on_too(tiny_model_dir: Any, tmp_path: Any) -> None:
    train(run_of(tiny_model_dir, "optimise.updates=1"), tmp_path / "run")
    logs = tmp_path / "run" / "collected" / "update-00000"
    changes = (f'logs=["{logs}"]', "optimise.old_logprobs=recomputed", "optimise.updates=1", "validation=null")
    assert train(run_of(tiny_model_dir, *changes), tmp_path / "off").updates == 1


def test_no_plan_is_made_of_what_nobody_knows(tiny_model_dir: Any) -> None:
    with pytest.raises(ConfigError, match="'task:brief' is an application's"):
        plan(run_of(tiny_model_dir), "cpu")
