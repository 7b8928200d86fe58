"""Environments are made from names, parameters and specs, and wrong ones are refused in one clear line."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_envs import EnvError, EnvParameterError, UnknownEnvError, env_class, make, names, registry
from lamer_envs.minesweeper.env import Minesweeper


def test_name_keywords_and_spec_make_equal_environments() -> None:
    assert make("minesweeper") == make("minesweeper", size=6, mines=3) == make("minesweeper:6x6-3")
    assert make("sokoban") == make("sokoban", size=(6, 6), boxes=2) == make("sokoban", size=6) == make("sokoban:6x6-2")
    assert make("minesweeper:4x4-3") != make("minesweeper:6x6-3")
    assert {"minesweeper", "sokoban"} <= set(names())


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("minesweeper", {"size": 5, "mines": 4}),
        ("minesweeper", {"size": 6, "mines": 3, "max_turns": 12}),
        ("minesweeper", {"size": 12, "mines": 20}),
        ("sokoban", {"size": (6, 8), "boxes": 3}),
        ("sokoban", {"boxes": 1, "min_moves": 8, "max_moves": 12}),
        ("sokoban", {"boxes": 5, "max_turns": 6}),
        ("sokoban", {"max_moves": 30}),
    ],
)
def test_a_spec_makes_an_equal_environment_again(name: str, params: dict[str, object]) -> None:
    env = make(name, **params)
    again = make(env.spec)
    assert again == env
    assert again.params == env.params
    assert again.reset(3) == env.reset(3)


@pytest.mark.parametrize("wrong", ["minesweepr", "MineSweeper ", "sokobon:6x6-2", "", "../sokoban", "x" * 5000])
def test_an_unknown_name_is_refused_and_names_the_nearest(wrong: str) -> None:
    with pytest.raises(UnknownEnvError) as caught:
        make(wrong)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    if wrong == "minesweepr":
        assert "did you mean 'minesweeper'?" in message
    if wrong.startswith("sokobon"):
        assert "did you mean 'sokoban'?" in message


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("minesweeper:6x5-3", "6x6-3"),
        ("minesweeper:six", "SIZExSIZE-MINES"),
        ("minesweeper:6x6-0", "from 1 to 34"),
        ("minesweeper:6x6-35", "from 1 to 34"),
        ("minesweeper:99x99-5", "from 2 to 30"),
        ("minesweeper:8x8-10-t1", "max_turns"),
        ("sokoban:6x6", "ROWSxCOLUMNS-BOXES"),
        ("sokoban:6x6-0", "from 1 to"),
        ("sokoban:3x3-1", "from 4 to 30"),
        ("sokoban:4x4-1", "larger room"),
        ("sokoban:6x6-12", "fewer boxes"),
        ("sokoban:6x6-2-m20..10", "min_moves <= max_moves"),
        ("sokoban:6x6-2-m5..21-t3", "max_turns"),
    ],
)
def test_a_malformed_spec_is_refused_with_what_would_be_right(spec: str, says: str) -> None:
    with pytest.raises(EnvParameterError) as caught:
        make(spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("minesweeper", {"sise": 6}, "did you mean 'size'?"),
        ("minesweeper", {"size": "6"}, "integer"),
        ("minesweeper", {"mines": True}, "integer"),
        ("minesweeper", {"size": -4}, "from 2 to 30"),
        ("minesweeper:6x6-3", {"mines": 4}, "already holds parameters"),
        ("sokoban", {"box": 2}, "did you mean 'boxes'?"),
        ("sokoban", {"size": (6, 6, 6)}, "(rows, columns)"),
        ("sokoban", {"size": "6x6"}, "(rows, columns)"),
        ("sokoban", {"boxes": 2.0}, "integer"),
    ],
)
def test_malformed_parameters_are_refused_with_what_would_be_right(
    name: str, params: dict[str, object], says: str
) -> None:
    with pytest.raises(EnvParameterError) as caught:
        make(name, **params)
    assert says in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30), st.sampled_from(["", "minesweeper:", "sokoban:"]))
def test_no_text_makes_anything_but_an_environment_or_an_env_error(text: str, prefix: str) -> None:
    try:
        env = make(prefix + text)
    except EnvError:
        return
    assert make(env.spec) == env


def test_a_plug_in_is_found_by_its_entry_point_and_cannot_replace_a_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mines-too", "lamer_envs.minesweeper:Minesweeper", registry.GROUP),
        EntryPoint("sokoban", "lamer_envs.minesweeper:Minesweeper", registry.GROUP),
        EntryPoint("broken", "lamer_envs.nowhere:Nothing", registry.GROUP),
        EntryPoint("no-env", "json:dumps", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])
    registry._plugins.cache_clear()
    try:
        assert env_class("mines-too") is Minesweeper
        assert env_class("sokoban").name == "sokoban"
        assert "mines-too" in names()
        with pytest.raises(EnvParameterError, match="cannot be loaded"):
            make("broken")
        with pytest.raises(EnvParameterError, match="subclass"):
            make("no-env")
    finally:
        registry._plugins.cache_clear()


def test_importing_the_package_loads_no_environment_and_nothing_heavy() -> None:
    code = (
        "import sys, lamer_envs\n"
        "heavy = {'torch', 'transformers', 'trl', 'vllm', 'chromadb', 'numpy', 'gymnasium'}\n"
        "print(sorted(heavy & set(sys.modules)), 'lamer_envs.minesweeper.env' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"
