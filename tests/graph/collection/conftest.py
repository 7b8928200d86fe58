"""Runs that other runs' memories are filled from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chroma_server import Server
from memory_runs import config, run
from scripted import ScriptedPolicy, cautious_player


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 training tasks that remembered for other tasks."""
    folder = tmp_path_factory.mktemp("runs") / "earlier"
    run(config(scope="tasks"), folder)
    return folder


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which some trials are solved at the second or third attempt."""
    folder = tmp_path_factory.mktemp("runs") / "outcomes"
    run(config(scope="tasks", contents="both", tasks=60), folder, ScriptedPolicy(cautious_player))
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "server")
    yield running
    running.stop()
