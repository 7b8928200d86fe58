"""What is built for people to install: its names, its policies, its container's recipe."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from places import ROOT


def ended(command: list[object], **options: object) -> str:
    """What a command printed. Raises AssertionError, with what it said, where it failed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.mark.slow
def test_an_installed_wheel_plays_in_any_folder_beside_modules_of_an_applications_own(tmp_path: Path) -> None:
    """The environment sees this one's libraries, and of ours only what the wheel holds."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    source = tmp_path / "source"  # a build leaves folders where it builds
    leave = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "docs", "__pycache__", "runs")
    shutil.copytree(ROOT, source, ignore=leave)
    wheel = (sys.executable, "-m", "pip", "wheel", "-q", source, "--no-deps", "--no-build-isolation", "-w", tmp_path)
    ended([*wheel], env=clean)
    (built,) = tmp_path.glob("lamer_graph-*.whl")
    assert built.stat().st_size < 8_000_000
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    ended([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", built], env=clean)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    # A finder of ours for an editable install would be found there, too: it is shadowed by what the wheel holds.
    (site / "libraries.pth").write_text(f"{libraries}\n")
    app = tmp_path / "app"
    app.mkdir()
    for module in ("memory", "envs", "trainers"):
        (app / f"{module}.py").write_text("MINE = True\n")
    code = (
        "import memory, envs, trainers, lamer_graph, lamer_memory, lamer_envs, lamer_trainers\n"
        "print(memory.MINE, envs.MINE, trainers.MINE, lamer_graph.__file__)"
    )
    said = ended([python, "-c", code], cwd=app, env=clean)
    assert said.startswith("True True True")
    assert str(site) in said
    shown = ended([tmp_path / "venv" / "bin" / "lamer-graph", "play"], cwd=app, env=clean)
    assert "mine at" in shown
    assert re.search(r"solved in episode [23]", shown)


def test_what_the_containers_recipe_copies_and_calls_is_there() -> None:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    copied = [word for name, rest in steps if name == "COPY" for word in shlex.split(rest)[:-1] if word[:2] != "--"]
    assert {"lamer_graph", "memory", "envs", "trainers", "pyproject.toml"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == kept
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    called = {name for _, rest in steps for name in re.findall(r"make\"?,? \"?([a-z-]+)", rest) if name != "rm"}
    assert {"setup", "quickstart"} <= called
    assert called - {"setup", "quickstart"} <= targets
    assert [rest for name, rest in steps if name == "USER"] == ["lamer"]
    assert steps[-1][0] == "CMD"
