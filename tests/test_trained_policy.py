"""The shipped trained policy shows what it was trained for: it explores, and its reflections are what helps."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Cli

from lamer_graph.shipped import card, shipped_policies, shipped_policy

FOLDER = "minesweeper-tiny"


@pytest.fixture
def folder() -> Path:
    found = shipped_policies().get(FOLDER)
    assert found is not None, f"{FOLDER} is not among {sorted(shipped_policies())}"
    return found


def test_it_solves_more_with_its_reflections_than_with_anothers_or_than_the_warm_start(cli: Cli, folder: Path) -> None:
    def pass_at_3(policy: Path, *options: str) -> float:
        arguments = ("eval", "--policy", policy, "--env", "minesweeper:4x4-3", "--split", "val", "--tasks", "150")
        document = cli(*arguments, "--concurrency", "128", "--json", *options).document
        assert document["config"]["prompt_style"] == "compact"
        return float(document["pass_at"][2]["value"])

    own = pass_at_3(folder)
    start = shipped_policy("minesweeper:4x4-3")
    assert start is not None
    assert own >= 0.75
    assert own - pass_at_3(folder, "--shuffle-reflections") >= 0.15
    assert own - pass_at_3(start) >= 0.15


def test_what_ships_is_small_safe_and_says_how_it_was_made(folder: Path) -> None:
    assert card(folder)["trained"] is True
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".md", ".safetensors"}
    assert "lamer-graph train" in (folder / "README.md").read_text()
    sizes = {name: sum(p.stat().st_size for p in policy.iterdir()) for name, policy in shipped_policies().items()}
    assert sum(size for name, size in sizes.items() if name.startswith("minesweeper")) < 12_000_000
    assert sum(sizes.values()) < 20_000_000


def test_the_default_policy_stays_the_warm_start(folder: Path) -> None:
    assert shipped_policy("minesweeper:4x4-3") != folder
