"""What Chroma acknowledged is kept through kills, full disks and clocks; damage is an error and never looks empty."""

import os
import shutil
import signal

import pytest

pytest.register_assert_rewrite("lamer_memory.conformance")

from chroma_writer import record, record_of, start_writer  # noqa: E402
from lamer_memory import MemoryBackendError  # noqa: E402
from lamer_memory.chroma.client import DATABASE_FILE  # noqa: E402
from lamer_memory.chroma.memory import ChromaMemory  # noqa: E402
from lamer_memory.chroma.reindexing import reindex  # noqa: E402

pytestmark = pytest.mark.slow  # two minutes on two cores, and an embedded engine with threads of its own


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
    assert [kept for kept in found if kept in acknowledged] == acknowledged[::-1]
    assert len(found) == len({kept.key for kept in found}) < 1000
    for kept in (acknowledged[0], acknowledged[-1]) if vectors else ():
        assert memory.search(("shared",), query=kept.text, limit=1)[0].record == kept
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
