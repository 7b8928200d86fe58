"""`lamer-graph serve` says how what it serves is played with; serving itself is tested with `VllmServer`."""

from __future__ import annotations

import json
from pathlib import Path

from lamer_graph.cli.serve import play_lines

URL = "http://127.0.0.1:8000/v1"


def taught(folder: Path, env: str, style: str) -> Path:
    folder.mkdir()
    (folder / "lamer.json").write_text(json.dumps({"env": env, "prompt_style": style}))
    return folder


def test_each_served_model_is_played_with_the_prompts_that_it_was_taught(tmp_path: Path) -> None:
    base = taught(tmp_path / "base", "sokoban:6x6-2", "standard")
    adapter = taught(tmp_path / "adapter", "sokoban:6x6-1", "compact")
    assert list(play_lines("minesweeper", URL, base, "base", {"v7": adapter})) == [
        f"play with it: lamer-graph play --env sokoban:6x6-2 --base-url {URL} --model base",
        f"play with it: lamer-graph play --env sokoban:6x6-1 --base-url {URL} --model v7 --prompt-style compact",
    ]


def test_what_a_card_says_is_one_word_of_the_line_to_copy(tmp_path: Path) -> None:
    odd = taught(tmp_path / "odd", "sokoban; rm -rf ~ \x1b[2J", "standard")
    assert list(play_lines("minesweeper", URL, odd, "odd", {})) == [
        f"play with it: lamer-graph play --env 'sokoban; rm -rf ~ \N{REPLACEMENT CHARACTER}[2J' --base-url {URL}"
    ]


def test_a_model_without_a_card_is_played_with_as_the_command_line_says(tmp_path: Path) -> None:
    assert list(play_lines("minesweeper", URL, tmp_path, "any", {})) == [
        f"play with it: lamer-graph play --env minesweeper --base-url {URL}"
    ]
