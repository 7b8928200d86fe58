"""Values in a Chroma memory that several processes use, and that are killed while they do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chroma_server import Server
from lamer_memory.chroma.memory import ChromaMemory
from lamer_memory.utility import Value, value_of
from places import SUPPORT
from settling import HERE, fill, settle_one

SCRIPT = SUPPORT / "settling.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "server")
    yield running
    running.stop()


def start(location: str | Path, first: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(location), str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def values(location: str | Path) -> dict[str, Value]:
    memory = ChromaMemory(location)
    found = {entry.record.key: value_of(entry.record) for entry in memory.search(HERE, limit=10)}
    memory.close()
    return found


def test_two_processes_that_settle_on_the_same_records_count_every_trial_once(server: Server) -> None:
    memory = ChromaMemory(server.url)
    fill(memory)
    memory.close()
    both = [start(server.url, first, 12) for first in (0, 12)]
    for process in both:
        process.communicate(timeout=120)
        assert process.returncode == 0
    found = values(server.url)
    assert (found["r0"].shown.n, found["r0"].held.n) == (12, 12)
    assert (found["r1"].shown.n, found["r1"].held.n) == (24, 0)
    assert found["r2"].n == 0


@pytest.mark.parametrize("after", [1, 4])
def test_a_process_that_is_killed_while_it_settles_loses_nothing_that_it_said_and_nothing_counts_twice(
    tmp_path: Path, after: int
) -> None:
    place = tmp_path / "memory"
    memory = ChromaMemory(place)
    fill(memory)
    memory.close()
    killed = start(place, 0, 1000)
    assert killed.stdout is not None
    said = [int(killed.stdout.readline()) for _ in range(after)]
    killed.kill()
    said += [int(line) for line in killed.stdout.read().split()]  # what it said before it noticed
    killed.wait()
    before = values(place)
    assert before["r1"].shown.n in (len(said), len(said) + 1), "one may be entered and not said"
    memory = ChromaMemory(place)
    for number in range(20):  # as a resume would: it does not know how far the other came
        settle_one(memory, number)
    memory.close()
    assert values(place)["r1"].shown.n == max(20, len(said) + (before["r1"].shown.n > len(said)))
