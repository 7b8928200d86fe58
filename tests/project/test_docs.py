"""README and documentation say what is true: code runs, commands and settings exist, links lead somewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import called, leaf_commands
from documents import DOCS, PAGES, SERVED, TRANSCRIPT, Block, code, is_setting, without_output, written_commands
from lamer_graph.runlog import read_trials
from lamer_graph.serving.vllm import INSTALL_HINT, VllmServer, vllm_flavour
from lamer_trainers.presets import PRESETS
from places import ROOT

README, RESULTS = ROOT / "README.md", ROOT / "examples" / "RESULTS.md"
RUN_BY = "import sys; exec(compile(sys.stdin.read(), 'block', 'exec'), {'__name__': '__main__'})"


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pages' code runs: a folder with the examples in it, and a run that was collected."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "examples").symlink_to(ROOT / "examples")
    collect = ("collect", "--tasks", "2", "--memory", "none", "--out", "runs/first", "--json")
    subprocess.run([sys.executable, "-m", "lamer_graph", *collect], cwd=folder, check=True, capture_output=True)
    return folder


def run(block: Block, folder: Path) -> None:
    """Run a block as a script in `folder`; where the page shows what it prints, that is what it prints."""
    command = [sys.executable, "-c", RUN_BY]
    done = subprocess.run(
        command, input=block.text, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    if block.printed:
        assert done.stdout == block.printed


PYTHON = [
    pytest.param(block, id=f"{named(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(code(page, "python"))
]


@pytest.mark.parametrize("block", [each for each in PYTHON if SERVED not in each.values[0].text])
def test_python_of_a_page_runs_and_prints_what_stands_behind_it(block: Block, place: Path) -> None:
    run(block, place)


@pytest.mark.slow
@pytest.mark.parametrize("block", [each for each in PYTHON if SERVED in each.values[0].text])
def test_a_block_that_needs_a_server_runs_on_one(block: Block, tmp_path: Path) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    policy = ROOT / "examples" / "policies" / "minesweeper-warmstart"
    with VllmServer(policy, model_name="trained", run_dir=tmp_path / "server", extra_args=tools) as server:
        run(block._replace(text=block.text.replace(SERVED, server.base_url)), tmp_path)
    (trial,) = read_trials(tmp_path / "runs" / "prod")
    assert all(turn["call"]["token_ids"] for episode in trial["episodes"] for turn in episode["turns"])


def test_settings_that_pages_write_exist() -> None:
    found = [block for page in PAGES for block in code(page, "yaml")]
    assert found
    for block in found:
        for name in leaves(yaml.safe_load(block.text)):
            assert is_setting(name), name


def leaves(tree: Any, begun: str = "") -> list[str]:
    if not isinstance(tree, dict) or begun == "collect.texts":
        return [begun]
    return [name for key, value in tree.items() for name in leaves(value, f"{begun}.{key}".lstrip("."))]


def test_toml_that_pages_write_is_read() -> None:
    found = [block for page in PAGES for block in code(page, "toml")]
    assert found
    for block in found:
        tomllib.loads(block.text)


def test_the_readme_is_short_and_its_example_is_ten_lines() -> None:
    assert len(README.read_bytes()) < 6_000
    (block,) = code(README, "python")
    assert len([line for line in block.text.splitlines() if line.strip()]) <= 10


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
    assert f"```text\n{messages[1]['content']}\n```" in (DOCS / "concepts" / "trial.md").read_text()


def test_the_picture_of_the_trial_has_the_nodes_of_the_compiled_graph() -> None:
    from langchain_core.language_models import FakeListChatModel

    from lamer_graph.agent import create_lamer_agent

    agent = create_lamer_agent(FakeListChatModel(responses=["-"]), "minesweeper:4x4-3")
    nodes = {name for name in agent.get_graph().nodes if not name.startswith("__")}
    drawn = set(re.findall(r'font-weight="600"[^>]*>([^<]+)<', (DOCS / "figures" / "trial.svg").read_text()))
    assert drawn == nodes


@pytest.mark.parametrize("page", [*PAGES, RESULTS], ids=named)
def test_every_path_that_a_page_links_or_names_exists(page: Path) -> None:
    text = without_output(page)
    links = {page.parent / link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link}
    paths = {
        ROOT / name for name in re.findall(r"(?<![\w/])(?:tests|bench|examples|scripts|constraints)/[\w./-]*\w", text)
    }
    assert [path for path in links | paths if not path.exists()] == []


@pytest.mark.parametrize("page", [*PAGES, RESULTS], ids=named)
def test_every_command_of_a_page_is_there_with_its_options_presets_and_settings(page: Path) -> None:
    groups = {name.split()[0] for name in leaf_commands() if " " in name}
    for words in written_commands(without_output(page)):
        name, given = called([word.strip("[]") for word in words])
        if words == ["--help"] or (words[0] in groups and len(words) == 1):
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
    for names in re.findall(r"python -m bench((?: [a-z_]+)*)", without_output(page)):
        assert set(names.split()) <= benchmarks


def test_every_command_is_in_the_table_of_commands() -> None:
    told = (DOCS / "command-line.md").read_text()
    groups = {name.split()[0] for name in leaf_commands() if " " in name and name != "agent serve"}
    for name in leaf_commands():
        assert f"`lamer-graph {name}`" in told or name.split()[0] in groups, name
    assert all(f"`lamer-graph {group}" in told for group in groups)


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    found = {name for page in PAGES for name in re.findall(r"(?:`|\$ )make ([a-z0-9-]+)", page.read_text())}
    assert len(found) >= 6
    assert found <= targets


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="no extra `docs` here")
def test_the_site_is_built_without_a_warning_and_lists_itself_for_machines(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    listed = (tmp_path / "site" / "llms.txt").read_text()
    for page in DOCS.rglob("*.md"):
        path = page.relative_to(DOCS).with_suffix("").as_posix().removesuffix("index")
        assert f"]({path}{'/' if path else ''})" in listed
        assert (tmp_path / "site" / path / "index.html").is_file()
    pages = "".join(file.read_text() for file in (tmp_path / "site").rglob("*.html"))
    assert not re.findall(r'(?:src|href)="https?://(?:fonts|unpkg|cdn)[^"]*"', pages)  # a reader fetches nothing


def test_the_transcript_is_what_the_script_makes_of_the_quickstarts_output() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    with contextlib.redirect_stdout(io.StringIO()):
        import transcript
    lines = ["policy p", *(f"  {n:>2}/30  @1 0.16  @2 0.31" for n in range(1, 31)), "done in 1 s"]
    block = transcript.block(lines)
    assert block.count("\n") == 3 + 1 + 2 + 1 + 2 + 1 + 2
    assert ".. (updates 3 to 28, shortened)" in block
    assert transcript.BEGIN in TRANSCRIPT.read_text()


@pytest.mark.slow
def test_the_five_minute_start_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = [words for words in written_commands((DOCS / "index.md").read_text()) if words[0] != "view"]
    assert ["play"] in commands
    for words in commands:
        if words == ["warmup", "--policy"]:
            continue
        command = [sys.executable, "-m", "lamer_graph", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, (words, done.stderr)
    assert (tmp_path / "first.html").stat().st_size > 50_000
    assert (tmp_path / "runs" / "meta" / "curves.png").is_file()
