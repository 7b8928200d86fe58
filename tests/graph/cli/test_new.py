"""`new` writes projects that work; `env check` says what is broken; an environment that cannot be played is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from command_line import Cli
from lamer_envs import registry

BROKEN = """
from lamer_envs import Env, Step


class Broken(Env):
    name = "broken"
    rules = "Guess."
    action_format = "a number"
    max_turns = 3

    def reset(self, seed):
        return {RESET}

    def observe(self, state):
        return "?"

    def parse(self, answer):
        return answer

    def step(self, state, action):
        return STEP
"""


@pytest.mark.parametrize("kind", ["env", "memory", "task"])
def test_a_new_project_passes_its_own_test(cli: Cli, kind: str, tmp_path: Path) -> None:
    outcome = cli("new", kind, "my-thing", "--json")
    assert outcome.code == 0
    folder = tmp_path / "my-thing"
    assert sorted(outcome.document["files"]) == sorted(path.name for path in folder.iterdir())
    assert "$" not in "".join(path.read_text() for path in folder.iterdir())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("MyThing", "small letters"),
        ("../up", "small letters"),
        ("a" * 60, "small letters"),
        ("json", "Python's own"),
        ("class", "Python's own"),
        ("lamer-envs", "a package of ours"),
        ("sokoban", "registered already"),
        ("there", "exists already"),
    ],
)
def test_a_name_that_would_do_harm_is_refused_and_nothing_is_written(
    cli: Cli, name: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    outcome = cli("new", "env", name)
    assert outcome.code == 2
    assert says in outcome.error_line
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "mine.txt"]


def test_an_environment_that_keeps_its_promises_is_told_so(cli: Cli) -> None:
    outcome = cli("env", "check", "minesweeper:4x4-3", "--tasks", "2", "--json")
    assert outcome.code == 0
    assert outcome.document == {"env": "minesweeper:4x4-3", "kept": True, "broken": None, "not_tried": []}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is no other test's, nor a worker process's of one."""
    for name in ("_CLASSES", "_MADE", "_USED"):
        monkeypatch.setattr(registry, name, type(getattr(registry, name))(getattr(registry, name)))


def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reset: str, step: str) -> str:
    module = f"own_{abs(hash((reset, step)))}"
    (tmp_path / f"{module}.py").write_text(BROKEN.replace("{RESET}", reset).replace("STEP", step))
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{module}:Broken"


@pytest.mark.parametrize(
    ("reset", "step", "says"),
    [
        ("None", "None", "`reset` must give dict, not NoneType; is a `return` missing?"),
        ("{'n': 1}", "(state, 1.0, True)", "`step` must give Step, not tuple"),
        ("{'n': 1}", "1 / 0", "`step` raised ZeroDivisionError"),
    ],
)
def test_what_is_broken_is_named_by_the_check_and_refused_by_whatever_would_play_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reset: str, step: str, says: str
) -> None:
    spec = own(tmp_path, monkeypatch, reset, step)
    checked = cli("env", "check", spec)
    assert checked.code == 1
    assert f"lamer-graph: Broken: {says}" in checked.err
    for command in ("eval", "play"):
        refused = cli(command, "--env", spec, "--policy", "minesweeper-warmstart")
        assert refused.code == 2
        assert says in refused.error_line
        assert f"lamer-graph env check {spec}" in refused.error_line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("reset", "step", "says"),
    [
        ("{'n': {1}}", "None", "`reset` must give a state of plain JSON"),
        ("{'n': 1}", "Step(state, '?', 'much', False, False, False)", "a Step whose reward is a number, not str"),
        ("{'n': 1}", "Step(state, 3, 0.0, False, False, False)", "a Step whose observation is str, not int"),
        ("{'n': 1}", "Step(state, '?', float('nan'), False, False, False)", "a finite reward"),
    ],
)
def test_what_would_fail_in_the_midst_of_a_run_is_refused_before_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reset: str, step: str, says: str
) -> None:
    spec = own(tmp_path, monkeypatch, reset, step)
    assert cli("env", "check", spec).code == 1
    refused = cli("collect", "--env", spec, "--policy", "minesweeper-warmstart", "--out", "r")
    assert refused.code == 2
    assert says in refused.error_line
    assert not (tmp_path / "r").exists()


def test_a_class_whose_constructor_raises_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = own(tmp_path, monkeypatch, "{}", "None\n\n    def __init__(self):\n        raise RuntimeError('no board')")
    refused = cli("env", "check", spec)
    assert refused.code == 2
    assert "cannot be made: RuntimeError: no board" in refused.error_line


def test_an_environment_of_no_name_is_refused(cli: Cli) -> None:
    assert cli("env", "check", "minesweper").code == 2


def test_a_class_that_lies_in_another_folder_is_said_to_lie_elsewhere(cli: Cli) -> None:
    refused = cli("env", "check", "my_maze_elsewhere:MyMaze")
    assert refused.code == 2
    assert "start in the folder that my_maze_elsewhere.py lies in" in refused.error_line
