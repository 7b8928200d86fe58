"""Searches of Chroma: found in full, in few reads and writes, and never across namespaces."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.register_assert_rewrite("lamer_memory.conformance")

from chroma_writer import record  # noqa: E402
from lamer_memory.chroma.memory import ChromaMemory  # noqa: E402
from lamer_memory.embedders import HashingEmbedder  # noqa: E402
from lamer_memory.errors import EmbedderError  # noqa: E402

pytestmark = pytest.mark.slow  # two minutes on two cores, and an embedded engine with threads of its own


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
