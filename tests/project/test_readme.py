"""The README and the examples say what is true: pictures, code, paths and commands are tried."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from command_line import called, leaf_commands
from lamer_graph.runlog import read_trials
from lamer_graph.serving.vllm import INSTALL_HINT, VllmServer, vllm_flavour
from lamer_trainers.presets import PRESETS
from lamer_trainers.runfile import RunFile
from places import ROOT

EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text()
WRITTEN = {
    # What a command printed is of its time.
    ROOT / "README.md": re.sub(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", "", README, flags=re.DOTALL),
    EXAMPLES / "RESULTS.md": (EXAMPLES / "RESULTS.md").read_text(),
}
SERVED = "http://127.0.0.1:8000"
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_the_picture_is_what_the_compiled_graph_draws() -> None:
    pictures = runpy.run_path(str(ROOT / "scripts" / "update_readme.py"))["pictures"]
    assert pictures() in README, "run `make readme`"


def run(block: str, folder: Path = ROOT) -> str:
    """What a block prints, run as a script in `folder`."""
    command = [sys.executable, "-c", block]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", [n for n, block in enumerate(PYTHON_BLOCKS) if SERVED not in block])
def test_a_python_block_of_the_readme_runs(number: int) -> None:
    run(PYTHON_BLOCKS[number])


@pytest.mark.slow
@pytest.mark.parametrize("number", [n for n, block in enumerate(PYTHON_BLOCKS) if SERVED in block])
def test_a_block_that_needs_a_server_runs_on_one(number: int, tmp_path: Path) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    policy = EXAMPLES / "policies" / "minesweeper-warmstart"
    with VllmServer(policy, model_name="trained", run_dir=tmp_path / "server", extra_args=tools) as server:
        print(run(PYTHON_BLOCKS[number].replace(SERVED, server.base_url), tmp_path))
    (trial,) = read_trials(tmp_path / "runs" / "prod")
    assert all(turn["call"]["token_ids"] for episode in trial["episodes"] for turn in episode["turns"])


def test_the_prompt_is_what_is_asked_on_that_board() -> None:
    from lamer_envs import make
    from lamer_graph.trial.prompts import PromptBuilder, Remembered, Turn, View

    env = make("minesweeper:4x4-3")
    state, turns = env.reset(1), []
    assert "(3, 1)" in [str(cell) for cell in env.mine_cells(state)]  # type: ignore[attr-defined]
    for action in ("(1, 4)", "(2, 1)"):
        step = env.step(state, action)
        turns.append(Turn(env.observe(state), action, env.outcome(state, action, step)))
        state = step.state
    builder = PromptBuilder(env)
    memory = [Remembered("reflection", "There is a mine at (3, 1). Do not open it again.", 1)]
    messages = builder.act(View(2, env.observe(state), turns, memory, builder.actions_now(state)))
    assert f"```text\n{messages[1]['content']}\n```" in README


def test_the_example_of_the_agent_is_ten_lines() -> None:
    block = next(block for block in PYTHON_BLOCKS if "create_lamer_agent" in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_every_path_that_a_document_links_or_names_exists(document: Path) -> None:
    text = WRITTEN[document]
    links = {document.parent / link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    named = {ROOT / name for name in re.findall(r"\b(?:tests|bench|examples|scripts|constraints)/[\w./-]*\w", text)}
    assert links
    assert named
    assert [path for path in links | named if not path.exists()] == []
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def written_commands(text: str) -> list[list[str]]:
    """The words of every `lamer-graph ..` in a document's prose and consoles."""
    consoles = re.findall(r"^\$ (lamer-graph [^#\n]*)", text, flags=re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for line in [*consoles, *re.findall(r"`(lamer-graph\s[^`]+)`", prose)]]


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_every_command_that_a_document_names_is_there_with_its_options_presets_and_settings(document: Path) -> None:
    commands = written_commands(WRITTEN[document])
    assert len(commands) > 15
    groups = {name.split()[0] for name in leaf_commands() if " " in name}
    for words in commands:
        name, given = called([word.strip("[]") for word in words])
        if words[0] in groups and len(words) == 1:
            continue
        assert name, words
        known = {option for parameter in leaf_commands()[name].params for option in parameter.opts}
        assert {word for word in given if word.startswith("--")} <= known, words
        for option, value in pairwise(given):
            assert option != "--preset" or value in PRESETS, words
        if name == "train":
            for setting in (word.partition("=")[0] for word in given if "=" in word):
                assert is_setting(setting), words
    benchmarks = {path.stem.removeprefix("bench_") for path in (ROOT / "bench").glob("bench_*.py")}
    for names in re.findall(r"python -m bench((?: [a-z_]+)*)", WRITTEN[document]):
        assert set(names.split()) <= benchmarks


def is_setting(name: str) -> bool:
    """Whether a run file has such a place."""
    fields: Any = RunFile.model_fields
    for part in name.split("."):
        if part not in fields:
            return False
        kind = fields[part].annotation
        models = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel)]
        fields = models[0].model_fields if models else {}
    return True


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ )make ([a-z0-9-]+)", README))
    assert len(named) >= 6
    assert named <= targets


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
