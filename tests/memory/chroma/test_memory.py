"""Chroma keeps the contract of every backend, ephemeral, in a directory and through a server; and what it promises
beyond: one process per directory, nothing acknowledged is lost, damage is an error."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from places import SUPPORT

pytest.register_assert_rewrite("lamer_memory.conformance")

from chroma_server import Server  # noqa: E402
from chroma_writer import record_of  # noqa: E402
from lamer_memory import MemoryBackendError, make_record  # noqa: E402
from lamer_memory.chroma.client import DATABASE_FILE, ChromaConnection  # noqa: E402
from lamer_memory.chroma.memory import ChromaMemory, reindex  # noqa: E402
from lamer_memory.chroma.opening import connect, disconnect  # noqa: E402
from lamer_memory.conformance import BackendConformance, MakeBackend, in_threads  # noqa: E402
from lamer_memory.embedders import HashingEmbedder  # noqa: E402
from lamer_memory.errors import EmbedderError, MemoryServerError  # noqa: E402

WRITER = SUPPORT / "chroma_writer.py"

pytestmark = pytest.mark.slow  # two minutes on two cores, and an embedded engine with threads of its own


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("chroma"))
    yield server
    server.stop()


def record(number, text="x", **metadata):
    return make_record("trial", "task", number, "reflection", text, False, metadata)


@pytest.mark.slow  # the same code as in a directory
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


@pytest.mark.slow  # what differs, transport and several processes, is tested below
class TestChromaServer(BackendConformance):
    @pytest.fixture
    def make_backend(self, server) -> MakeBackend:
        name = f"c-{uuid4().hex}"
        return lambda: ChromaMemory(server.url, collection=name)

    @pytest.fixture
    def reopen(self, make_backend) -> MakeBackend:
        return make_backend


# -- a server and several processes -----------------------------------------------------------------------------------


def start_writer(location, writer, count, *more):
    command = [sys.executable, str(WRITER), str(location), writer, str(count), *map(str, more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("kill_at", [37, 400, 700])
def test_kill_9_loses_no_acknowledged_record_and_doubles_none(tmp_path, kill_at, vectors):
    writer = start_writer(tmp_path, "w", 1000, "--each", 10, *([] if vectors else ["--no-vectors"]))
    acknowledged = []
    for line in writer.stdout:
        acknowledged += [record_of("w", number) for number in range(int(line), int(line) + 10)]
        if len(acknowledged) >= kill_at:
            writer.kill()
    assert writer.wait() == -signal.SIGKILL
    memory = ChromaMemory(tmp_path, embedder="hashing" if vectors else None)
    found = [entry.record for entry in memory.search(("shared",), limit=2000)]
    assert [record for record in found if record in acknowledged] == acknowledged[::-1]
    assert len(found) == len({record.key for record in found}) < 1000
    for record in (acknowledged[0], acknowledged[-1]) if vectors else ():
        assert memory.search(("shared",), query=record.text, limit=1)[0].record == record
    memory.put(("shared",), [record_of("v", 0)])
    assert len(memory.search(("shared",), limit=2000)) == len(found) + 1
    memory.close()


def test_a_full_disk_is_an_error_and_keeps_what_was_acknowledged(tmp_path):
    writer = start_writer(tmp_path, "w", 1000, "--repeat", 400, "--max-file", 3_000_000)
    output = writer.communicate(timeout=120)[0].splitlines()
    assert writer.returncode == 3, output[-3:]
    assert output[-1].startswith(f"failed {tmp_path}: ")
    assert "full" in output[-1]
    acknowledged = [record_of("w", int(line), 400) for line in output[:-1]]
    assert acknowledged
    memory = ChromaMemory(tmp_path)
    found = [entry.record for entry in memory.search(("shared",), limit=5000)]
    assert all(record in found for record in acknowledged)
    memory.put(("shared",), [record_of("v", 0)])
    assert len(memory.search(("shared",), limit=5000)) == len(found) + 1
    memory.close()


def remove(path):
    path.unlink()


def scribble(path):
    path.write_bytes(b"not a database" * 1000)


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [remove, scribble, halve, empty])
def test_a_damaged_database_is_an_error_and_never_looks_empty(tmp_path, damage):
    memory = ChromaMemory(tmp_path)
    memory.put(("a",), [record(i) for i in range(300)])
    memory.close()
    damage(tmp_path / DATABASE_FILE)
    with pytest.raises(MemoryBackendError, match="damaged"):
        ChromaMemory(tmp_path).search(("a",))


def test_lost_vectors_are_an_error_and_are_made_anew_from_the_texts(tmp_path):
    memory = ChromaMemory(tmp_path)
    memory.put(("a",), [record(i, f"text {i}") for i in range(1100)])  # beyond what Chroma keeps in its log
    memory.close()
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    shutil.rmtree(folder)
    with pytest.raises(MemoryBackendError, match=r"vector index is damaged.*lamer-graph memory reindex"):
        ChromaMemory(tmp_path)
    assert reindex(tmp_path) == 1100
    memory = ChromaMemory(tmp_path)
    # Which of a thousand near-equal texts comes first is not asked: the index is approximate.
    [found] = memory.search(("a",), query="text 3", limit=1)
    assert found.record.text.startswith("text ")
    assert found.score is not None
    memory.close()


def test_a_file_in_the_way_is_said_so(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MemoryBackendError, match="file"):
        ChromaMemory(tmp_path / "file")


def test_a_clock_that_was_set_back_does_not_make_new_records_older(tmp_path, monkeypatch):
    memory = ChromaMemory(tmp_path)
    memory.put(("a",), [record(0)])
    monkeypatch.setattr("lamer_memory.encoding.time.time_ns", lambda: 5_000_000)
    memory.put(("a",), [record(1)])
    memory.close()
    memory = ChromaMemory(tmp_path)
    memory.put(("a",), [record(2)])
    assert [entry.record.episode for entry in memory.search(("a",))] == [2, 1, 0]
    memory.close()


def test_a_lone_surrogate_comes_back():
    memory = ChromaMemory()
    broken = record(0, "half \ud83d of a pair")
    memory.put(("a\udc00",), [broken])
    assert memory.search(("a\udc00",))[0].record == broken
    assert memory.search(("a\udc00",), query="half \ud83d")[0].record == broken
    memory.close()


# -- embedders --------------------------------------------------------------------------------------------------------


def test_another_embedder_is_refused_with_the_way_out_and_reindex_is_it(tmp_path):
    memory = ChromaMemory(tmp_path)
    memory.put(("a",), [record(i, f"text {i}", about=f"board {i}") for i in range(700)])
    memory.delete(("a",), [record(5).key])
    before = memory.search(("a",), limit=1000)
    memory.close()
    with pytest.raises(MemoryBackendError, match=r"hashing-pairs-v1/384, not with .*/64.*lamer-graph memory reindex"):
        ChromaMemory(tmp_path, embedder="hashing:64")
    assert reindex(tmp_path, "hashing:64") == 699
    memory = ChromaMemory(tmp_path, embedder="hashing:64")
    assert memory.search(("a",), limit=1000) == before
    assert memory.search(("a",), query="board 33", limit=1)[0].record.text == "text 33"
    memory.close()
    with pytest.raises(MemoryBackendError, match="not with hashing-pairs-v1/384"):
        ChromaMemory(tmp_path)


def test_without_vectors_the_newest_answer_and_reindex_makes_them_the_nearest(tmp_path):
    memory = ChromaMemory(tmp_path, embedder=None)
    records = [record(i, f"text {i}", about=f"board {i}") for i in range(700)]
    memory.put(("a",), records)
    assert memory.search(("a",), query="board 33", limit=2) == [(records[699], None), (records[698], None)]
    assert asyncio.run(memory.asearch(("a",), "board 33", None, 1)) == [(records[699], None)]
    memory.close()
    with pytest.raises(MemoryBackendError, match=r"filled without vectors, not with hashing.*memory reindex"):
        ChromaMemory(tmp_path)
    assert reindex(tmp_path, "hashing:64") == 700
    memory = ChromaMemory(tmp_path, embedder=None)  # as it was filled, which is with 64 numbers now
    assert memory.search(("a",), query="board 33", limit=1)[0].record == records[33]
    memory.put(("a",), [record(700, about="chess")])
    assert memory.search(("a",), query="chess", limit=1)[0].record.episode == 700
    assert [entry.record.episode for entry in memory.search(("a",), limit=1000)] == list(range(700, -1, -1))
    memory.close()


def test_a_store_of_an_embedder_that_has_to_be_named_can_be_read_and_says_so_of_the_rest(tmp_path):
    class Elsewhere(HashingEmbedder):
        fingerprint = "endpoint:m/384"

    memory = ChromaMemory(tmp_path, embedder=Elsewhere())
    memory.put(("a",), [record(0)])
    memory.close()
    memory = ChromaMemory(tmp_path, embedder=None)
    assert [entry.record for entry in memory.search(("a",))] == [record(0)]
    for refused in (lambda: memory.search(("a",), query="x"), lambda: memory.put(("a",), [record(1)])):
        with pytest.raises(MemoryBackendError, match="embedded with endpoint:m/384: name that embedder"):
            refused()
    memory.close()


@pytest.mark.parametrize(("step", "nth"), [("create", 1), ("rename", 1), ("rename", 2), ("drop", 3)])
def test_a_reindex_that_was_cut_short_is_run_again(tmp_path, step, nth, monkeypatch):
    memory = ChromaMemory(tmp_path)
    memory.put(("a",), [record(i) for i in range(20)])
    memory.close()
    original, calls = getattr(ChromaConnection, step), []

    def cut(self, *arguments):
        calls.append(arguments)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ChromaConnection, step, cut)
        with pytest.raises(KeyboardInterrupt):
            reindex(tmp_path, "hashing:64")
    if step != "drop":  # by then the new vectors are in place
        with pytest.raises(MemoryBackendError, match="reindex"):
            ChromaMemory(tmp_path, embedder="hashing:64")
    assert reindex(tmp_path, "hashing:64") == 20
    memory = ChromaMemory(tmp_path, embedder="hashing:64")
    assert len(memory.search(("a",), limit=100)) == 20
    memory.close()


def test_there_must_be_something_to_embed_anew(tmp_path):
    with pytest.raises(MemoryBackendError, match="holds no memory"):
        reindex(tmp_path / "nothing")
    with pytest.raises(MemoryBackendError, match="ephemeral"):
        reindex(None)
    assert not (tmp_path / "nothing").exists()


def test_a_collection_of_another_program_or_of_a_newer_version_is_refused(tmp_path):
    connection = connect(tmp_path)
    connection.client.create_collection("theirs")
    connection.client.create_collection(
        "newer", metadata={"lamer_schema": 99, "lamer_kind": "memory", "lamer_embedder": "x"}
    )
    with pytest.raises(MemoryBackendError, match="by another program"):
        ChromaMemory(tmp_path, collection="theirs")
    with pytest.raises(MemoryBackendError, match=r"schema 99.*update lamer-graph"):
        ChromaMemory(tmp_path, collection="newer")
    with pytest.raises(MemoryBackendError, match="3 to 500 characters"):
        ChromaMemory(tmp_path, collection="é")
    disconnect(connection)


# -- searching --------------------------------------------------------------------------------------------------------


def test_a_rare_match_in_a_large_store_is_found_in_full():
    memory = ChromaMemory()
    memory.put(("big",), [record(i, f"open the cell {i}", rare=i % 500 == 0) for i in range(2000)])
    memory.put(("small",), [record(i, f"push the box {i}") for i in range(3)])
    assert {e.record.episode for e in memory.search(("small",), query="open the cell 3")} == {0, 1, 2}
    found = memory.search(("big",), query="open the cell 3", filter={"rare": True}, limit=4)
    assert {entry.record.episode for entry in found} == {0, 500, 1000, 1500}
    (found,) = memory.search(("big",), query="anything", filter={"text": "open the cell 77"})
    assert found.record.episode == 77
    assert [e.record.episode for e in memory.search(("big",), filter={"rare": True}, limit=3)] == [1500, 1000, 500]
    assert [e.record.episode for e in memory.search(("big",), filter={"text": "open the cell 77"})] == [77]
    assert memory.namespaces() == [("big",), ("small",)]
    memory.close()


def test_queries_that_meet_the_first_writes_of_a_directory_are_answered(tmp_path):
    """Chroma itself fails some of them: in a quarter of the new directories when this was written."""
    for number in range(20):
        memory = ChromaMemory(tmp_path / str(number))
        written = threading.Event()

        def ask(memory=memory, written=written):
            while not written.is_set():
                memory.search(("a",), query="open a cell", limit=2)

        def write(memory=memory, written=written):
            try:
                for n in range(12):
                    memory.put(("a",), [record(n, f"cell {n}")])
            finally:
                written.set()

        with ThreadPoolExecutor(4) as pool:
            for done in [*(pool.submit(ask) for _ in range(3)), pool.submit(write)]:
                done.result(timeout=60)
        assert len(memory.search(("a",), query="open a cell", limit=20)) == 12
        memory.close()


def test_many_concurrent_writes_share_few_batches(monkeypatch):
    memory = ChromaMemory()
    batches = []
    write = memory._writer._write
    monkeypatch.setattr(memory._writer, "_write", lambda rows: (batches.append(len(rows)), write(rows)))

    async def main():
        await asyncio.gather(*(memory.aput((str(i),), [record(0)]) for i in range(128)))

    asyncio.run(main())
    assert sum(batches) == 128
    assert len(batches) <= 16
    memory.close()


def test_many_concurrent_look_ups_share_few_reads(monkeypatch):
    memory = ChromaMemory()
    for i in range(100):
        memory.put((str(i),), [record(n, f"{i} {n}") for n in range(3)])
    memory.put(("crowd",), [record(n) for n in range(700)])
    reads = []
    get = memory._get
    monkeypatch.setattr(memory, "_get", lambda **arguments: (reads.append(arguments), get(**arguments))[1])

    async def main():
        await memory.asearch(("0",))
        reads.clear()
        return await asyncio.gather(*(memory.asearch((str(i),), limit=2) for i in range(100)))

    found = asyncio.run(main())
    assert [[entry.record.text for entry in one] for one in found] == [[f"{i} 2", f"{i} 1"] for i in range(100)]
    assert 1 <= len(reads) <= 4

    async def crowded():
        return await asyncio.gather(memory.asearch(("crowd",), limit=1000), memory.asearch(("7",)))

    assert [len(one) for one in asyncio.run(crowded())] == [700, 3]
    memory.close()


def test_a_cancelled_write_does_not_stop_the_writer():
    memory = ChromaMemory()

    async def main():
        tasks = [asyncio.ensure_future(memory.aput(("a",), [record(i)])) for i in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await memory.aput(("a",), [record(99)])

    asyncio.run(main())
    assert {99, *range(1, 50, 2)} <= {entry.record.episode for entry in memory.search(("a",), limit=100)}
    memory.close()


def test_one_callers_bad_record_does_not_fail_the_others():
    class Picky(HashingEmbedder):
        def embed(self, texts):
            if any("bad" in text for text in texts):
                raise EmbedderError("bad text")
            return super().embed(texts)

    memory = ChromaMemory(embedder=Picky())

    async def main():
        puts = [memory.aput(("a",), [record(i, "bad" if i == 3 else f"good {i}")]) for i in range(10)]
        return await asyncio.gather(*puts, return_exceptions=True)

    errors = asyncio.run(main())
    assert [i for i, error in enumerate(errors) if error] == [3]
    assert len(memory.search(("a",))) == 9
    memory.close()


# -- isolation --------------------------------------------------------------------------------------------------------

labels = st.sampled_from(["", "a", "b", "a/b", "A", "\x00", "é"])
spaces = st.lists(labels, max_size=3).map(tuple)


@pytest.fixture(scope="module")
def shared_memory():
    memory = ChromaMemory()
    yield memory
    memory.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(spaces, st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=2, max_size=4), st.data())
def test_no_search_reads_across_namespaces(shared_memory, written, data):
    """Users, agents and runs share one collection, with equal keys, tasks, trials and texts."""
    run = uuid4().hex
    for space, numbers in written.items():
        shared_memory.put((run, *space), [record(number, f"of {space!r}") for number in numbers])
    reader = data.draw(st.sampled_from(sorted(written)) | spaces)
    number = data.draw(st.integers(0, 3))
    own = {record(n).key for n in written.get(reader, [])}
    for query in (None, "of", data.draw(st.sampled_from([f"of {space!r}" for space in written]))):
        for filter in (None, {"trial_id": "trial"}, {"task_id": "task"}, {"kind": "reflection"}, {"success": False}):
            found = shared_memory.search((run, *reader), query, filter, 100)
            assert {entry.record.key for entry in found} == own
            assert {entry.record.text for entry in found} <= {f"of {reader!r}"}
        found = shared_memory.search((run, *reader), query, {"key": record(number).key})
        assert {entry.record.key for entry in found} == own & {record(number).key}
    shared_memory.delete((run, *reader), [record(number).key])
    for space in written.keys() - {reader}:
        assert len(shared_memory.search((run, *space))) == len(set(written[space]))
