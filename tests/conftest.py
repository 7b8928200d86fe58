"""What the whole suite shares: a tiny policy on disk, and one real vLLM that serves it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from command_line import Cli, Outcome
from fake_server import FakeServer, fake_server
from lamer_graph.cli import main
from lamer_graph.serving.vllm import INSTALL_HINT, VllmServer, vllm_flavour
from tiny_random import build_tiny_random

# Read when torch loads. A second OpenMP thread spins at every barrier, and on two busy cores that costs tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Deadlines are for benchmarks: a busy machine must not fail a property that holds.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


class OneServer(LoadFileScheduling):
    """Files to processes, and to one process all files that need a vLLM: it is started once."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "vllm" if "vllm_server:" in (self.config.rootpath / file).read_text() else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return OneServer(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 0.7 M-parameter Qwen3 with a byte-level tokenizer, in Hugging Face format; context 4,096 tokens."""
    return build_tiny_random(tmp_path_factory.mktemp("policies") / "tiny-random")


@pytest.fixture(scope="session")
def vllm_server(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """The suite's only vLLM (some 40 s to start): `.base_url`, `.model_name`, adapters on, context 2,048."""
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    with VllmServer(
        tiny_model_dir, max_adapters=3, max_model_len=2048, run_dir=tmp_path_factory.mktemp("vllm")
    ) as server:
        yield server


@pytest.fixture(scope="module")
def postgres_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of the test file's own."""
    pgserver = pytest.importorskip("pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One torch thread, and afterwards as many as before: what is compared bit by bit must be summed in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAMER_API_KEY", raising=False)
    monkeypatch.setattr("lamer_graph.cli.frame.FIRST_LINE", 3600.0)  # on a busy machine anything may take its seconds

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as leave:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(int(leave.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running
