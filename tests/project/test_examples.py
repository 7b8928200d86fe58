"""The examples do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from places import ROOT

EXAMPLES = ROOT / "examples"


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


@pytest.mark.slow  # a kernel each, some half a minute
@pytest.mark.parametrize("name", ["embed_agent", "compare_memories"])
def test_a_notebook_runs_within_three_minutes(name: str) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    book = nbformat.read(EXAMPLES / "notebooks" / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells)
    nbclient.NotebookClient(book, timeout=180, resources={"metadata": {"path": str(EXAMPLES / "notebooks")}}).execute()
    printed = "".join(part.get("text", "") for cell in book.cells for part in cell.get("outputs", []))
    assert {"embed_agent": "solved: True", "compare_memories": "remembers: mine at"}[name] in printed
