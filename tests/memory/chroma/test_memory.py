"""Chroma keeps the contract of every backend, ephemeral, in a directory and through a server; who may have it open."""

import asyncio
import os
import socket
import threading
import time
from uuid import uuid4

import pytest

pytest.register_assert_rewrite("lamer_memory.conformance")

from chroma_server import Server  # noqa: E402
from chroma_writer import record, record_of, start_writer  # noqa: E402
from lamer_memory import MemoryBackendError  # noqa: E402
from lamer_memory.chroma.memory import ChromaMemory  # noqa: E402
from lamer_memory.chroma.opening import connect  # noqa: E402
from lamer_memory.conformance import BackendConformance, MakeBackend, in_threads  # noqa: E402
from lamer_memory.errors import MemoryServerError  # noqa: E402

pytestmark = pytest.mark.slow  # two minutes on two cores, and an embedded engine with threads of its own


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("chroma"))
    yield server
    server.stop()


class TestEphemeralChroma(BackendConformance):
    @pytest.fixture
    def make_backend(self) -> MakeBackend:
        return ChromaMemory


class TestChromaDirectory(BackendConformance):
    @pytest.fixture
    def make_backend(self, tmp_path) -> MakeBackend:
        return lambda: ChromaMemory(tmp_path)

    @pytest.fixture
    def reopen(self, tmp_path) -> MakeBackend:
        return lambda: ChromaMemory(tmp_path)


class TestChromaWithoutVectors(BackendConformance):
    @pytest.fixture
    def make_backend(self, tmp_path) -> MakeBackend:
        return lambda: ChromaMemory(tmp_path, embedder=None)

    @pytest.fixture
    def reopen(self, make_backend) -> MakeBackend:
        return make_backend


class TestChromaServer(BackendConformance):
    @pytest.fixture
    def make_backend(self, server) -> MakeBackend:
        name = f"c-{uuid4().hex}"
        return lambda: ChromaMemory(server.url, collection=name)

    @pytest.fixture
    def reopen(self, make_backend) -> MakeBackend:
        return make_backend


# -- a server and several processes -----------------------------------------------------------------------------------


def test_four_writer_processes_and_readers_that_see_every_acknowledged_record(server):
    writers = [start_writer(server.url, f"w{i}", 15) for i in range(4)]
    memory = ChromaMemory(server.url)  # all five may try to make the collection
    acknowledged = []

    def watch(number):
        for line in writers[number].stdout:
            record = record_of(f"w{number}", int(line))
            found = memory.search(("shared",), filter={"trial_id": record.metadata["trial_id"]})
            assert [entry.record for entry in found] == [record]
            acknowledged.append(record)

    in_threads(watch, 4)
    assert [writer.wait(60) for writer in writers] == [0] * 4, [writer.stderr.read() for writer in writers]
    keys = {record.key for record in acknowledged}
    assert len(keys) == 60
    assert {entry.record.key for entry in memory.search(("shared",), limit=1000)} == keys
    near = memory.search(("shared",), query=acknowledged[7].text, limit=1000)
    assert {entry.record.key for entry in near} == keys
    assert near[0].record == acknowledged[7]
    memory.close()


def test_a_server_that_dies_is_named_and_one_that_returns_is_used_again(tmp_path):
    server = Server(tmp_path)
    memory = ChromaMemory(server.url, retry_s=1)
    memory.put(("a",), [record(0)])
    server.stop()
    with pytest.raises(MemoryServerError, match=f"Chroma server {server.url} failed for 1 s"):
        memory.search(("a",))
    with pytest.raises(MemoryServerError, match=server.url):
        asyncio.run(memory.aput(("a",), [record(1)]))
    again = threading.Timer(0.5, server.start)
    memory._connection._retry_s = 60
    again.start()
    memory.put(("a",), [record(2)])
    assert [entry.record.episode for entry in memory.search(("a",))] == [2, 0]
    memory.close()
    server.stop()


def test_an_address_without_a_server_is_said_so():
    with pytest.raises(MemoryServerError, match=r"no Chroma server answers at http://127.0.0.1:1 .*chroma run"):
        ChromaMemory("http://127.0.0.1:1", retry_s=0.1)
    with pytest.raises(MemoryBackendError, match="like http://localhost:8000"):
        ChromaMemory("http://localhost:8000/api")


def test_a_server_that_does_not_answer_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(MemoryServerError, match="no Chroma server answers"):
            connect(f"http://127.0.0.1:{silent.getsockname()[1]}", retry_s=0.1, timeout_s=0.5)
        assert time.monotonic() - started < 5


# -- one process per directory ----------------------------------------------------------------------------------------


def test_a_second_process_is_told_to_use_a_server(tmp_path):
    memory = ChromaMemory(tmp_path)
    second = start_writer(tmp_path, "w", 1)
    errors = second.communicate(timeout=60)[1]
    assert second.returncode == 1
    assert f"in use by process {os.getpid()}" in errors
    assert "MemoryLockedError" in errors
    assert f"chroma run --path {tmp_path}" in errors
    memory.close()
    ChromaMemory(tmp_path).close()


def test_one_process_may_open_a_directory_twice(tmp_path):
    one, two = ChromaMemory(tmp_path), ChromaMemory(tmp_path)
    one.put(("a",), [record(0)])
    one.close()
    two.put(("a",), [record(1)])
    assert [entry.record.episode for entry in two.search(("a",))] == [1, 0]
    two.close()


def test_a_forked_child_is_refused(tmp_path):
    memory = ChromaMemory(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            memory.put(("a",), [record(0)])
        except MemoryBackendError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    memory.close()
