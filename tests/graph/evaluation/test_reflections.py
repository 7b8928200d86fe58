"""How many reflections were true is read from a run's log, and judged by the environment."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lamer_envs import make
from lamer_graph.cli.curve import notes
from lamer_graph.cli.render import conditions, evaluations
from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import ConfigError
from lamer_graph.evaluation.curves import curves
from lamer_graph.evaluation.evaluate import report
from lamer_graph.evaluation.stats import paired_test, task_success
from lamer_graph.runlog import read_trials
from lamer_graph.types import Message, Sampling
from scripted import ScriptedPolicy, cautious_player, is_reflection

SPEC = "minesweeper:4x4-3"


def teller(share: float) -> ScriptedPolicy:
    """Plays at random, and names the mine that it hit in a share of its reflections."""

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        if not is_reflection(messages):
            return cautious_player(messages, sampling)
        text = messages[-1]["content"]
        hit = text.rpartition("You played: ")[2].partition(" -> ")[0]
        return f"<remark>mine at {hit if random.Random(sampling.seed).random() < share else '(9, 9)'}</remark>"

    return ScriptedPolicy(answer)


def play(folder: Path, policy: ScriptedPolicy, **changes: Any) -> Path:
    config = CollectConfig(env=SPEC, **{"split": "test", "tasks": 30, "policy": folder.name, **changes})
    asyncio.run(collect(config, policy, folder))
    return folder


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_true_reflections_is_what_the_mines_say(tmp_path: Path, share: float) -> None:
    folder = play(tmp_path / "run", teller(share))
    env: Any = make(SPEC)
    true = judged = 0
    for trial in read_trials(folder):
        mines = {f"({row}, {column})" for row, column in env.mine_cells(env.reset(trial["task"]["seed"]))}
        for made in trial["reflections"]:
            if trial["episodes"][made["episode"]]["turns"][-1]["action"] in mines:
                judged += 1
                true += made["text"].removeprefix("mine at ") in mines
    found = report(folder).truth
    assert found is not None
    assert found.judged == judged > 20
    assert found.value == pytest.approx(true / judged)
    assert found.low <= found.value <= found.high
    assert found.low < found.high  # where all agree, too
    assert f"reflections true {f'{found.value:.2f}'.removeprefix('0')} (" in conditions(report(folder))
    assert report(folder).to_json()["reflections_true"] == found._asdict()


def test_reflections_that_changed_hands_are_not_the_policys_and_are_not_judged(tmp_path: Path) -> None:
    assert report(play(tmp_path / "run", teller(0.5), shuffle_reflections=True)).truth is None
    assert report(play(tmp_path / "none", teller(0.5), contents="none")).truth is None


def test_more_attempts_than_a_screen_is_wide_stand_below_each_other(tmp_path: Path) -> None:
    from rich.console import Console

    found = report(play(tmp_path / "run", teller(1.0), max_episodes=8, tasks=8))
    assert len(found.summary.pass_at) == 8
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluations("run", {"reflection": found}))
    text = console.export_text()
    assert all(f"pass@{k} " in text for k in range(1, 9))
    assert "…" not in text


def test_curves_are_paired_at_every_k_that_both_runs_have_reached(tmp_path: Path) -> None:
    runs = {
        "liar": play(tmp_path / "liar", teller(0.0), max_episodes=5),
        "teller": play(tmp_path / "teller", teller(1.0), max_episodes=3, strategy="reflexion"),
    }
    found = curves(runs, trained=3)
    assert found.attempts == 5
    assert found.curves[0].differences is None
    differences = found.curves[1].differences
    assert differences is not None
    assert len(differences) == 3
    trials = {name: list(read_trials(folder)) for name, folder in runs.items()}
    for k, difference in enumerate(differences, start=1):
        successes = [task_success(trials[name], k) for name in ("teller", "liar")]
        assert difference == paired_test(*successes, report(runs["liar"]).instances)
    told = found.told()
    assert "strategy: liar lamer; teller reflexion" in told
    assert "attempts: liar 5; teller 3" in told
    assert found.shared() == {}
    with pytest.raises(ConfigError, match="--trained 6 is beyond these runs, which have at most 5 attempts"):
        curves(runs, trained=6)


def test_what_a_difference_is_over_is_told_where_runs_share_a_part_of_their_tasks(tmp_path: Path) -> None:
    runs = {
        "ours": play(tmp_path / "ours", teller(0.0), tasks=12),
        "theirs": play(tmp_path / "theirs", teller(1.0), tasks=10, skip=4, trials=2),
        "same": play(tmp_path / "same", teller(1.0), tasks=12),
    }
    found = curves(runs)
    assert found.shared() == {"theirs": 8}
    assert "trials a task: ours 1; theirs 2; same 1" in found.told()
    assert "Differences are over the tasks that ours has played, too (theirs 8), columns over all." in notes(found)


def test_runs_of_other_games_stand_on_no_common_curve(tmp_path: Path) -> None:
    runs = {"a": play(tmp_path / "a", teller(1.0), tasks=2), "b": play(tmp_path / "b", teller(1.0), tasks=2, top_p=0.5)}
    with pytest.raises(ConfigError, match=r"a and b do not stand on one curve: top_p is 1\.0 in one and 0\.5"):
        curves(runs)
