"""A Chroma store remembers what embedded it, refuses another, and is embedded anew."""

import asyncio

import pytest

pytest.register_assert_rewrite("lamer_memory.conformance")

from chroma_writer import record  # noqa: E402
from lamer_memory import MemoryBackendError  # noqa: E402
from lamer_memory.chroma.client import ChromaConnection  # noqa: E402
from lamer_memory.chroma.memory import ChromaMemory  # noqa: E402
from lamer_memory.chroma.opening import connect, disconnect  # noqa: E402
from lamer_memory.chroma.reindexing import reindex  # noqa: E402
from lamer_memory.embedders import HashingEmbedder  # noqa: E402

pytestmark = pytest.mark.slow  # two minutes on two cores, and an embedded engine with threads of its own


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
