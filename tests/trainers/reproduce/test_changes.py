"""`--set` reaches all rows of a target, or is refused by name: what is compared stays comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lamer_graph.errors import ConfigError
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.reproduce.grid import target_names
from lamer_trainers.reproduce.jobs import Grid, Wanted, expand


def made(target: str, *settings: str, **more: Any) -> Grid:
    return expand(Wanted((target,), "cpu", (0,), Path("out"), settings=settings, **more))


def may_play(grid: Grid) -> dict[str, int]:
    """Episodes of an update that each trained row may play at most."""
    found = {}
    for cell in grid.cells:
        if cell.job.after is not None and cell.column == "minesweeper":
            collect = cell.job.after.run.collect
            found[cell.arm] = collect.tasks * collect.trials * collect.max_episodes
    return found


@pytest.mark.parametrize(
    ("setting", "episodes"), [("collect.trials=2", 16 * 2 * 3), ("collect.max_episodes=5", 16 * 8 * 5)]
)
def test_a_group_or_a_trial_of_another_size_is_so_for_rl_too(setting: str, episodes: int) -> None:
    grid = made("table1", setting)
    assert may_play(grid) == dict.fromkeys(("ppo", "rloo", "grpo", "gigpo", "lamer"), episodes)
    alone = {cell.job.after.run.collect.max_episodes for cell in grid.cells if cell.arm == "ppo" and cell.job.after}
    assert alone == {1}


@pytest.mark.parametrize("name", [name for name in target_names() if name != "budget"])
def test_all_trained_rows_of_a_target_may_play_as_many_episodes(name: str) -> None:
    assert len(set(may_play(made(name)).values())) <= 1


@pytest.mark.parametrize(
    ("target", "setting", "said"),
    [
        ("table1", "collect.contents=both", "--set collect.contents would not reach ppo, rloo, grpo, gigpo of table1"),
        ("table1", "optimise.algorithm=ppo", "optimise.algorithm would not reach ppo, rloo, grpo of table1, which say"),
        ("table3", "collect.contents=both", "would not reach trajectory, reflection, both of table3"),
        ("fig5", "optimise.gamma_traj=0.5", "would not reach gamma-0, gamma-0.3, gamma-0.6, gamma-0.9, gamma-1 of"),
        ("budget", "pipeline=2", "would not reach rl-pipelined, meta_rl-pipelined of budget"),
        ("table3", "collect={}", "--set collect would not reach trajectory, reflection, both"),
        ("table1", "reading.contents=both", "--set reading.contents would not reach zero_shot, react"),
        ("fig4", "reading.env=minesweeper:4x4-3", "--set reading.env would not reach 3 mines, 4 mines"),
        ("table1", "optimise.seed=3", "--set optimise.seed would do nothing: seeds are said with --seeds"),
        ("table1", "collect.seed=3", "seeds are said with --seeds"),
    ],
)
def test_a_change_that_a_row_would_undo_is_refused_with_the_rows(target: str, setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(target, setting)


def test_a_reading_beside_those_that_count_keeps_its_own_and_that_is_said() -> None:
    grid = made("meta-vs-rl", "reading.tasks=20")
    tasks = {cell.reading: cell.job.run.collect.tasks for cell in grid.cells}
    assert (tasks["reflections"], tasks["alone"], tasks["diversity"]) == (20, 20, 100)
    assert [(one.what, one.why) for one in grid.left_out] == [
        ("--set reading.tasks of the reading 'diversity'", "it says its own")
    ]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("reading.taks=3", "unknown key 'taks'; did you mean 'tasks'"),
        ("optimise.updats=3", "did you mean 'updates'"),
        ("optimise.updates", "section.key=value"),
        ("reading.tasks=none", "--set reading: tasks"),
        ("reading.tasks=[", "is not YAML"),
    ],
)
def test_a_change_that_is_none_is_refused_by_name(setting: str, said: str) -> None:
    with pytest.raises(TrainingConfigError, match=said):
        made("table3", setting)
