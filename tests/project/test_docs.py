"""Every block of README.md and docs/ does what the page says: run page by page, in a folder of the page's own."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from command_line import Cli
from doc_blocks import NEEDS, PAGES, Block, Reader, agrees, blocks_of, commands_of, name_of
from lamer_graph.runlog import read_trials
from lamer_graph.serving.vllm import INSTALL_HINT, VllmServer, vllm_flavour
from places import ROOT

SERVED = "http://127.0.0.1:8000"
BLOCKS = {page: blocks_of(page) for page in PAGES}
LONG = {"how-to/gpu.md", "how-to/choose-memory.md", "how-to/tracing.md", "troubleshooting.md"}
"""Pages of docs/ whose blocks take longer than a test of the default suite may."""


def pages() -> list[object]:
    """The pages with something to run, the long ones marked."""
    found = []
    for page, blocks in BLOCKS.items():
        if any(not block.needs and block.kind != "text" for block in blocks):
            name = name_of(page)
            marks = [pytest.mark.slow] if name.removeprefix("docs/") in LONG else []
            found.append(pytest.param(page, id=name, marks=marks))
    return found


@pytest.mark.parametrize("page", pages())
def test_the_blocks_of_a_page_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("LAMER_API_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    reader = Reader(tmp_path)
    for block in BLOCKS[page]:
        if not block.needs:
            reader.try_out(block)


def test_a_block_that_cannot_run_here_says_what_it_needs() -> None:
    assert {block.needs for blocks in BLOCKS.values() for block in blocks} <= NEEDS | {""}
    every = [block for blocks in BLOCKS.values() for block in blocks]
    run = [block for block in every if not block.needs and block.kind in ("python", "console")]
    assert len(run) > 25


def served() -> list[Block]:
    return [
        block for blocks in BLOCKS.values() for block in blocks if block.needs == "server" and block.kind == "python"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("block", served(), ids=lambda block: f"{name_of(block.page)}:{block.line}")
def test_a_block_that_needs_a_server_runs_on_one(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    monkeypatch.chdir(tmp_path)
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    policy = ROOT / "examples" / "policies" / "minesweeper-warmstart"
    with VllmServer(policy, model_name="trained", run_dir=tmp_path / "server", extra_args=tools) as server:
        Reader(tmp_path).try_out(block._replace(text=block.text.replace(SERVED, server.base_url)))
    (trial,) = read_trials(tmp_path / "runs" / "prod")
    assert all(turn["call"]["token_ids"] for episode in trial["episodes"] for turn in episode["turns"])


def plannable() -> list[str]:
    """Trainings and reproductions that take too long here, and can say what they would do."""
    found = []
    for block in (one for blocks in BLOCKS.values() for one in blocks if one.kind == "console" and one.needs):
        for said in commands_of(block):
            words = said.command.split()
            planned = words[1:2] in (["train"], ["reproduce"]) and not {"--from-logs", "--report"} & set(words)
            # The preset for SmolLM2 goes on with an adapter that the lines before it make.
            if planned and block.needs == "time" and "minesweeper-smollm2" not in words:
                found.append(said.command.removeprefix("lamer-graph ").replace(" --dry-run", "") + " --dry-run")
    return sorted(set(found))


@pytest.mark.slow
@pytest.mark.parametrize("command", plannable())
def test_a_run_that_takes_too_long_here_is_planned(command: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    outcome = cli(*shlex.split(command))
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("wanted", "printed", "same"),
    [
        ("a\n", "a\n", True),
        ("a\n", "b\n", False),
        ("a\n..\nb\n", "a\nx\ny\nb\n", True),
        ("a\n..\nb\n", "a\nx\n", False),
        ("took .. s\n", "took 12 s\n", True),
        ("..\nlast\n", "last\n", True),
        ("a\n", "a\nmore\n", False),
    ],
)
def test_an_output_is_compared_but_for_what_is_left_out(wanted: str, printed: str, same: bool) -> None:
    assert agrees(wanted, printed) == same
