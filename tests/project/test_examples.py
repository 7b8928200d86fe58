"""The examples and notebooks do what they say: each is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))


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
    assert len(hits) >= 2
    assert all(hit in result for hit in hits[:-1])
    kept = {user: int(number) for number, user in re.findall(r"(\d+) reflections are (ann|bob)'s", printed)}
    assert kept.keys() == {"ann", "bob"}
    assert all(kept.values())
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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_a_run_of_it_printed(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_under_three_minutes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("MPLBACKEND", "agg")
    client = nbclient.NotebookClient(
        nbformat.read(path, 4), timeout=180, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    assert any(cell.get("outputs") for cell in client.nb.cells)
