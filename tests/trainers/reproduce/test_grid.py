"""Targets as data: what is refused, what is shared, what is said of what is left out."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from lamer_graph.errors import ConfigError
from lamer_trainers.presets import rl_baseline
from lamer_trainers.reproduce import grid as grids
from lamer_trainers.reproduce.checks import check_jobs
from lamer_trainers.reproduce.grid import SCALES, ScaleName, Target, load_target, paper_number, target_names
from lamer_trainers.reproduce.jobs import Cell, Grid, Wanted, expand, parse_seeds

PAPER = json.loads(Path(str(grids.PLACE.joinpath("paper.json"))).read_text())


def made(*targets: str, scale: ScaleName = "cpu", seeds: tuple[int, ...] = (0,), **more: Any) -> Grid:
    return expand(Wanted(targets, scale, seeds, Path("out"), **more))


def cells(grid: Grid, arm: str, reading: str | None = None, column: str = "minesweeper") -> list[Cell]:
    """The cells of an arm, by seed."""
    found = [cell for cell in grid.cells if (cell.arm, cell.column) == (arm, column)]
    return [cell for cell in found if reading is None or cell.reading == reading]


def training(grid: Grid, arm: str, column: str = "minesweeper") -> str:
    """The name of the folder that an arm is trained in."""
    (name,) = {cell.job.after.name for cell in cells(grid, arm, column=column) if cell.job.after}
    return name


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", target_names())
def test_every_target_is_a_grid_at_every_scale_or_says_why_not(name: str, scale: ScaleName) -> None:
    grid = made(name, scale=scale)
    if (name, scale) == ("table2", "smollm2"):
        assert [(one.what, one.why) for one in grid.left_out] == [
            ("column alfworld", "scale smollm2 has no policy for it")
        ]
        with pytest.raises(ConfigError, match=r"nothing to run at scale smollm2 .*no policy"):
            check_jobs(grid)
        return
    assert grid.chosen
    about = load_target(name)
    there = {cell.column for cell in grid.cells} | {cell.arm for cell in grid.cells}
    left = {one.what.removeprefix("column ") for one in grid.left_out}
    budget = about.measure == "seconds"
    assert there | left == {*about.columns, *about.arms} - ({"untrained"} if budget else set())
    assert not there & left


def test_the_papers_targets_are_there_and_come_first() -> None:
    assert target_names()[:7] == ["budget", "fig3", "fig4", "fig5", "table1", "table2", "table3"]


def test_trainings_of_equal_settings_are_one_in_all_targets() -> None:
    table1, table3, fig3, fig5 = made("table1"), made("table3"), made("fig3"), made("fig5")
    lamer = training(table1, "lamer")
    assert lamer == training(table3, "reflection") == training(fig3, "meta_rl") == training(fig5, "gamma-0.6")
    assert lamer == training(made("fig4"), "meta_rl") == training(made("meta-vs-rl"), "meta")
    assert training(table1, "gigpo") == training(fig3, "rl") == training(made("fig4"), "rl")
    together = made("table1", "table3", "fig3", "fig5")
    assert [job.name for job in together.chosen].count(lamer) == 1
    assert len({training(fig5, arm) for arm in load_target("fig5").arms}) == 5


def test_a_setting_or_a_seed_that_differs_is_another_run() -> None:
    plain, changed = made("fig5"), made("fig5", settings=("optimise.updates=2",))
    assert training(plain, "gamma-0.6") != training(changed, "gamma-0.6")
    read = made("fig5", settings=("reading.tasks=7",))
    assert training(plain, "gamma-0.6") == training(read, "gamma-0.6")
    assert cells(plain, "gamma-0.6")[0].job.name != cells(read, "gamma-0.6")[0].job.name
    seeds = [cell.job.name for cell in cells(made("fig5", seeds=(0, 1, 2)), "gamma-0.6")]
    assert len(set(seeds)) == 3


def test_the_untrained_policy_is_read_once_for_all_seeds() -> None:
    found = cells(made("table1", seeds=(0, 1, 2)), "untrained", "alone")
    assert [cell.seed for cell in found] == [0, 1, 2]
    assert len({cell.job.name for cell in found}) == 1


def test_all_arms_of_a_target_are_read_on_the_same_tasks() -> None:
    for name in ("table1", "table2", "table3", "fig3", "fig4", "fig5"):
        tasks = defaultdict(set)
        for cell in made(name).cells:
            collect = cell.job.run.collect
            tasks[cell.column, cell.level].add((collect.env, collect.split, collect.skip, collect.tasks))
        assert {len(found) for found in tasks.values()} == {1}, name
        assert {split for found in tasks.values() for _, split, _, _ in found} == {"test"}


def test_new_boards_of_trained_layouts_are_beyond_those_that_training_drew() -> None:
    (cell,) = cells(made("meta-vs-rl"), "meta", "training layouts")
    collect = cell.job.run.collect
    assert (collect.split, collect.skip) == ("train", 90 * 16)


def test_rl_rows_are_the_baseline_and_their_own_settings() -> None:
    grid = made("table1")
    for arm in ("ppo", "rloo", "grpo", "gigpo"):
        job = cells(grid, arm)[0].job.after
        assert job is not None
        assert set(rl_baseline(8, 3)) <= set(job.words)
        assert job.run.optimise.algorithm == arm
        assert (job.run.collect.max_episodes, job.run.collect.trials) == (1, 24)


def test_what_needs_plain_language_is_left_out_by_name_where_policies_have_none_and_run_elsewhere() -> None:
    left = {one.what: one.why for one in made("table1").left_out}
    assert left.keys() == {"zero_shot", "react", "reflexion"}
    assert all("plain language" in why for why in left.values())
    (cell,) = cells(made("table1", scale="paper"), "reflexion")
    words = list(cell.job.words)
    assert words[words.index("--strategy") + 1] == "reflexion"
    assert cell.job.after is None


def test_the_papers_numbers_stand_at_their_cells() -> None:
    table1, table2, table3 = (load_target(name).paper for name in ("table1", "table2", "table3"))
    assert paper_number(table1, "lamer", "sokoban", "", 3) == pytest.approx(0.559)
    assert paper_number(table1, "ppo", "webshop", "", 1) == pytest.approx(0.531)
    assert paper_number(table1, "untrained", "webshop", "", 1) is None
    assert paper_number(table2, "meta_rl", "alfworld", "pick2", 3) == pytest.approx(0.502)
    assert paper_number(table2, "meta_rl", "alfworld", "pick2", 1) is None
    assert paper_number(table3, "both", "minesweeper", "", 3) == pytest.approx(0.744)
    rows = set(PAPER["table1_success_percent"]) - {"columns"}
    assert rows <= set(load_target("table1").arms)


def test_a_preset_takes_the_place_of_the_columns_where_they_have_no_tasks_of_their_own() -> None:
    grid = made("meta-vs-rl", preset="minesweeper-5x5-cpu")
    assert {cell.column for cell in grid.cells} == {"minesweeper-5x5-cpu"}
    assert cells(grid, "meta", column="minesweeper-5x5-cpu")[0].job.run.collect.env == "minesweeper:5x5-4"
    with pytest.raises(ConfigError, match="--preset and fig4 exclude each other"):
        made("fig4", preset="minesweeper-5x5-cpu")


def test_only_takes_rows_and_columns_and_brings_the_trainings_that_are_read() -> None:
    grid = made("table1", only=("lamer", "minesweeper"))
    assert {job.says.split()[1] for job in grid.chosen} == {"lamer"}
    assert [job.kind for job in grid.chosen].count("train") == 1
    assert len(grid.cells) > len(grid.chosen)
    with pytest.raises(ConfigError, match="did you mean 'lamer'"):
        made("table1", only=("lamr",))


def test_the_first_seed_is_whole_before_the_second_begins() -> None:
    seeds = [job.seed for job in made("fig5", seeds=(3, 1)).chosen if job.kind == "train"]
    assert seeds == sorted(seeds, key=(3, 1).index)


@pytest.mark.parametrize("text", ["", "0,0", "-1", "0;1", "one"])
def test_seeds_are_different_whole_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)
    assert parse_seeds("2,0") == (2, 0)


def test_a_target_file_is_closed_and_its_claims_are_of_rows_that_are_there() -> None:
    given = yaml.safe_load(grids.PLACE.joinpath("targets/table3.yaml").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="colums"):
        Target.model_validate({**given, "colums": []})
    with pytest.raises(ValueError, match="the arm 'nobody', which is not there"):
        Target.model_validate({**given, "claims": [{"says": "x", "ours": "nobody", "theirs": ["both"]}]})
    with pytest.raises(ValueError, match="'both/shuffled', which is not there"):
        Target.model_validate({**given, "claims": [{"says": "x", "ours": "both/shuffled", "theirs": ["both"]}]})
