"""`--help` fits a screen and leaves nothing out unsaid; `--help-all` says everything."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest

from command_line import Cli, leaf_commands

SCREEN = 50
"""Lines, at a hundred columns."""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")


def shown(text: str) -> set[str]:
    """The options that head a line of help."""
    return set(re.findall(r"^[ │*]*(--[a-z][a-z0-9-]*)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("name", leaf_commands())
def test_help_fits_a_screen_and_counts_what_it_leaves_out(cli: Cli, name: str) -> None:
    params = [param for param in leaf_commands()[name].params if not param.hidden]
    options = {param.opts[0] for param in params if param.param_type_name == "option"}
    short = cli(*name.split(), "--help").out
    assert len(short.splitlines()) <= SCREEN
    there = shown(short)
    assert {param.opts[0] for param in params if param.required and param.param_type_name == "option"} <= there
    left_out = re.search(r"--help-all shows (\d+) more", short)
    assert len(options - there - {"--help-all"}) == (0 if left_out is None else int(left_out[1]))
    assert " $ lamer-graph" in short


@pytest.mark.parametrize("name", leaf_commands())
def test_help_all_shows_every_option_and_example(cli: Cli, name: str) -> None:
    command = leaf_commands()[name]
    whole = cli(*name.split(), "--help-all").out
    assert {param.opts[0] for param in command.params if param.param_type_name == "option"} <= shown(whole)
    assert whole.count("\n $ ") == len(command.examples)  # type: ignore[attr-defined]


def test_what_help_shows_exists() -> None:
    for name, command in leaf_commands().items():
        known = {option for param in command.params for option in param.opts}
        assert set(command.main_options or ()) <= known, name  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("lamer-graph ev", ["eval"]),
        ("lamer-graph eval --env so", ["sokoban"]),
        ("lamer-graph eval --strategy zer", ["zero_shot"]),
        ("lamer-graph train --preset webshop-q", ["webshop-qwen3-4b"]),
    ],
)
def test_a_shell_completes_commands_choices_environments_and_presets(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, typed: str, completed: list[str]
) -> None:
    monkeypatch.setenv("_LAMER_GRAPH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert cli().out.split() == completed


def test_the_version_is_that_of_what_is_installed(cli: Cli) -> None:
    outcome = cli("--version")
    assert (outcome.code, outcome.out.strip()) == (0, version("lamer-graph"))
