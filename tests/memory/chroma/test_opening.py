"""Opening a Chroma database: who reads writes nothing, and a server on this machine is reached without a proxy."""

import subprocess
import sys

import pytest

from chroma_server import Server
from lamer_memory import MemoryBackendError, MemoryConfigError, MemoryLockedError, make_record
from lamer_memory.chroma import opening
from lamer_memory.chroma.client import DATABASE_FILE
from lamer_memory.chroma.memory import ChromaMemory
from lamer_memory.chroma.store import ChromaStore
from places import SUPPORT
from read_only import read_only

pytestmark = pytest.mark.slow  # an embedded engine with threads of its own


def record(number):
    return make_record("trial", "task", number, "reflection", f"open cell {number}", False)


@pytest.fixture
def folder(tmp_path):
    """A store with records in its log, its index and the database, beside a file of somebody else."""
    place = tmp_path / "memory"
    memory = ChromaMemory(place)
    memory.put(("a",), [record(i) for i in range(1200)])
    memory.put(("b",), [record(7)])
    memory.close()
    (place / "notes.txt").write_text("not Chroma's")
    return place


def contents(folder):
    return {str(path): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def check_readable(folder):
    memory = ChromaMemory(folder, embedder=None, read_only=True)
    assert len(memory.search(("a",), limit=2000)) == 1200
    assert memory.namespaces() == [("a",), ("b",)]
    assert memory.search(("b",), query="open cell 7")[0].score == pytest.approx(1.0)
    for refused in (lambda: memory.put(("a",), [record(1)]), lambda: memory.delete(("a",))):
        with pytest.raises(MemoryBackendError, match="read only"):
            refused()
    memory.close()


def test_a_store_on_a_read_only_disk_is_read(folder):
    before = contents(folder)
    with read_only(folder):
        check_readable(folder)
        with pytest.raises(MemoryBackendError):
            ChromaMemory(folder)
    assert contents(folder) == before


def test_who_reads_leaves_a_store_as_it_is_and_others_to_read_it(folder):
    before = contents(folder)
    open_elsewhere = ChromaMemory(folder, embedder=None, read_only=True)
    check_readable(folder)
    open_elsewhere.close()
    assert contents(folder) == before


def test_a_database_alone_is_read(folder, tmp_path):
    (folder / opening.LOCK_FILE).unlink()
    check_readable(folder)
    assert not (folder / opening.LOCK_FILE).exists()


def test_what_a_killed_writer_had_acknowledged_is_read_from_its_log(tmp_path):
    command = [sys.executable, SUPPORT / "chroma_writer.py", tmp_path / "memory", "w", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        for _ in range(20):
            writer.stdout.readline()
        writer.kill()
    with read_only(tmp_path / "memory"):
        memory = ChromaMemory(tmp_path / "memory", read_only=True)
        assert len(memory.search(("shared",), limit=1000)) >= 20
        memory.close()


def test_a_store_that_is_being_written_by_another_process_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "LOCK_SECONDS", 0.1)
    command = [sys.executable, SUPPORT / "chroma_writer.py", tmp_path / "memory", "w", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with pytest.raises(MemoryLockedError, match=f"in use by process {writer.pid}"):
            ChromaMemory(tmp_path / "memory", read_only=True)
        writer.kill()


def test_a_directory_that_this_process_writes_to_can_be_read_too(folder):
    memory = ChromaMemory(folder)
    memory.put(("b",), [record(8)])
    reader = ChromaMemory(folder, read_only=True)
    assert len(reader.search(("b",))) == 2
    reader.close()
    memory.put(("b",), [record(9)])
    memory.close()


def test_reading_makes_nothing(tmp_path):
    with pytest.raises(MemoryBackendError, match=f"holds no memory: there is no {DATABASE_FILE}"):
        ChromaMemory(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    ChromaStore(tmp_path / "other").close()
    with pytest.raises(MemoryBackendError, match="holds no collection 'lamer-memory'"):
        ChromaMemory(tmp_path / "other", read_only=True)
    with pytest.raises(MemoryConfigError, match="without a location"):
        ChromaMemory(read_only=True)


# -- proxies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("already", [{}, {"NO_PROXY": "example.org"}, {"no_proxy": "example.org"}])
def test_a_server_on_this_machine_is_reached_without_the_environments_proxy(tmp_path, monkeypatch, already):
    server = Server(tmp_path)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in already.items():
        monkeypatch.setenv(name, value)
    before = dict(opening.os.environ)
    memory = ChromaMemory(server.url, retry_s=1)
    memory.put(("a",), [record(0)])
    assert len(memory.search(("a",))) == 1
    memory.close()
    assert dict(opening.os.environ) == before
    server.stop()
