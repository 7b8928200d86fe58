"""The shipped trained policies show what they were trained for: they explore, and their reflections are what helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Cli
from lamer_graph.policies.shipped import card, shipped_policies, shipped_policy
from lamer_graph.runlog import read_config

FOLDER = "minesweeper-tiny"
TRAINED = {FOLDER: "minesweeper:4x4-3", "minesweeper-5x5-trained": "minesweeper:5x5-4"}


def shipped(name: str) -> Path:
    found = shipped_policies().get(name)
    assert found is not None, f"{name} is not among {sorted(shipped_policies())}"
    return found


@pytest.fixture
def folder() -> Path:
    return shipped(FOLDER)


@pytest.mark.parametrize("name", [FOLDER, pytest.param("minesweeper-5x5-trained", marks=pytest.mark.slow)])
def test_it_solves_more_with_its_reflections_than_with_anothers_or_than_the_warm_start(cli: Cli, name: str) -> None:
    folder, env = shipped(name), TRAINED[name]

    def pass_at_3(policy: Path, *options: str) -> float:
        arguments = ("eval", "--policy", policy, "--env", env, "--split", "val", "--tasks", "150", "--json")
        document = cli(*arguments, *options).document
        assert document["config"]["prompt_style"] == "compact"
        return float(document["pass_at"][2]["value"])

    together = ("--concurrency", "128")
    own = pass_at_3(folder, *together)
    start = shipped_policy(env)
    assert start is not None
    assert own >= 0.75
    assert own - pass_at_3(folder, "--shuffle-reflections") >= 0.15
    assert own - pass_at_3(start, *together) >= 0.15


FEW = ("--tasks", "2", "--episodes", "1", "--concurrency", "2")


def test_a_bare_name_means_the_board_of_the_policys_card(cli: Cli, folder: Path) -> None:
    bare = ("--policy", folder, "--env", "minesweeper")
    shown = cli("eval", *bare, *FEW)
    assert shown.code == 0, shown.err
    assert shown.out.count("note: minesweeper:4x4-3, the board of the policy's card\n") == 1
    assert "minesweeper:4x4-3, split test, 2 tasks" in shown.out
    assert cli("eval", *bare, *FEW, "--json").document["config"]["env"] == "minesweeper:4x4-3"
    assert cli("play", *bare, "--episodes", "1", "--json").document["task"]["env"] == "minesweeper:4x4-3"
    collected = cli("collect", *bare, *FEW, "--out", "c", "--json").document
    assert collected["config"]["env"] == "minesweeper:4x4-3"
    compared = cli("compare", *bare, *FEW, "--memory", "none,trajectory", "--out", "m")
    assert compared.out.count("the board of the policy's card") == 1
    assert {read_config(path.parent)["env"] for path in Path("m").glob("*/run.json")} == {"minesweeper:4x4-3"}


def test_a_full_specification_wins_over_the_card_and_a_difference_is_noted(cli: Cli, folder: Path) -> None:
    def shown(env: str) -> str:
        outcome = cli("play", "--policy", folder, "--env", env, "--episodes", "1")
        assert outcome.code == 0, outcome.err
        return outcome.out

    other = shown("minesweeper:5x5-4")
    assert "note: minesweeper:5x5-4 is played, the policy's card says minesweeper:4x4-3\n" in other
    assert "note: sokoban:6x6-2 is played" in shown("sokoban")
    assert "note:" not in shown("minesweeper:4x4-3")


def test_the_help_of_env_says_what_a_bare_name_means(cli: Cli) -> None:
    for command in ("eval", "play", "collect", "compare"):
        words = cli(command, "--help-all").out.replace("\u2502", " ").split()
        assert "a name alone: as --policy's card says." in " ".join(words)


@pytest.mark.parametrize("name", TRAINED)
def test_what_ships_is_small_safe_and_says_how_it_was_made(name: str) -> None:
    folder = shipped(name)
    assert (card(folder)["env"], card(folder)["trained"]) == (TRAINED[name], True)
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".md", ".safetensors"}
    assert "lamer-graph train" in (folder / "README.md").read_text()
    start = shipped_policy(TRAINED[name])
    assert start is not None
    assert sum(path.stat().st_size for one in (folder, start) for path in one.iterdir()) < 12_000_000
    everything = (path for one in shipped_policies().values() for path in one.iterdir())
    assert sum(path.stat().st_size for path in everything) < 28_000_000


@pytest.mark.parametrize("name", TRAINED)
def test_the_default_policy_stays_the_warm_start(name: str) -> None:
    assert shipped_policy(TRAINED[name]) != shipped(name)
