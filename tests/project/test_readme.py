"""The README and the examples say what is true: pictures, code, paths and commands are tried."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys

import pytest

from places import ROOT

EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_the_picture_is_what_the_compiled_graph_draws() -> None:
    pictures = runpy.run_path(str(ROOT / "scripts" / "update_readme.py"))["pictures"]
    assert pictures() in README, "run `make readme`"


@pytest.mark.parametrize("number", range(len(PYTHON_BLOCKS)))
def test_a_python_block_of_the_readme_runs(number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_BLOCKS[number]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_example_of_the_agent_is_ten_lines() -> None:
    block = next(block for block in PYTHON_BLOCKS if "create_lamer_agent" in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10


def test_every_path_that_the_readme_links_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_and_make_target_that_the_readme_names_exists() -> None:
    from typer.main import get_command

    from lamer_graph.cli import app

    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"`lamer-graph ([a-z]+)", README))
    assert len(named) >= 8
    assert named <= commands
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ )make ([a-z-]+)", README)) <= targets


def example(name: str, *arguments: str) -> str:
    """What an example prints; its folder is importable, as for anyone who runs it from there."""
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    command = [sys.executable, *arguments, str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_of_embedding_runs_and_the_persons_words_are_the_reflections() -> None:
    printed = example("embed_agent.py")
    hits = re.findall(r"mine at \(\d, \d\)$", printed, flags=re.MULTILINE)
    assert "ticket 4" in printed
    result = next(line for line in printed.splitlines() if line.startswith("{"))
    assert all(hit in result for hit in hits[:-1])
    assert "reflections are ann's" in printed
    assert re.search(r"\d episodes, (won|lost)", printed)


def test_the_example_environment_keeps_the_contract_in_other_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "keeps the contract" in example("own_environment.py")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from own_environment import Guess

    from lamer_envs import check_env

    check_env(Guess(), tasks=2, per_split=2)


def test_the_example_backend_passes_the_conformance_suite() -> None:
    assert "start in a corner" in example("own_memory.py")
    printed = example("own_memory.py", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert re.search(r"\d+ passed", printed)
    assert "failed" not in printed
