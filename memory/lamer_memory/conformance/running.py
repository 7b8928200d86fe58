"""A backend at work: threads, event loops, the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lamer_memory.base import MemoryBackend, ScoredRecord
from lamer_memory.conformance.samples import HERE, MakeBackend, a_record, in_threads, texts_of
from lamer_memory.errors import MemoryClosedError


class RunningConformance:
    """How it is used."""

    # -- concurrency ---------------------------------------------------------------------------------------------------

    def test_concurrent_threads_lose_nothing(self, backend: MemoryBackend) -> None:
        writers, each = 8, 20

        def write(writer: int) -> None:
            for i in range(each):
                backend.put(HERE, [a_record(writer * each + i)])
                backend.put(("of", str(writer)), [a_record(i)])
                backend.search(HERE, limit=5)

        in_threads(write, writers)
        assert {entry.record.episode for entry in backend.search(HERE, limit=1000)} == set(range(writers * each))
        for writer in range(writers):
            found = backend.search(("of", str(writer)), limit=100)
            assert texts_of(found) == [f"text {i}" for i in reversed(range(each))]

    def test_concurrent_upserts_of_one_key_leave_one_whole_record(self, backend: MemoryBackend) -> None:
        def write(writer: int) -> None:
            for i in range(10):
                backend.put(HERE, [a_record(0, f"{writer}-{i} " * 500, metadata={"by": f"{writer}-{i}"})])

        in_threads(write, 6)
        (entry,) = backend.search(HERE)
        assert entry.record.text == f"{entry.record.metadata['by']} " * 500

    def test_concurrent_deletes_and_writes_of_other_keys_do_not_disturb(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(i) for i in range(40)])

        def change(worker: int) -> None:
            for i in range(10):
                if worker % 2:
                    backend.delete(HERE, [a_record(worker * 10 + i).key])
                else:
                    backend.put(HERE, [a_record(100 + worker * 10 + i)])

        in_threads(change, 4)
        kept = {*range(0, 10), *range(20, 30), *range(100, 110), *range(120, 130)}
        assert {entry.record.episode for entry in backend.search(HERE, limit=1000)} == kept

    def test_concurrent_tasks_lose_nothing(self, backend: MemoryBackend) -> None:
        async def write(i: int) -> None:
            await backend.aput(HERE, [a_record(i), a_record(i, kind="trajectory")])
            await backend.asearch(HERE, limit=3)

        async def main() -> list[ScoredRecord]:
            await asyncio.gather(*(write(i) for i in range(60)))
            return await backend.asearch(HERE, limit=1000)

        assert len({entry.record.key for entry in asyncio.run(main())}) == 120

    # -- async ---------------------------------------------------------------------------------------------------------

    def test_async_forms_agree_with_sync_ones(self, backend: MemoryBackend) -> None:
        async def main() -> None:
            await backend.aput(HERE, [a_record(i, metadata={"odd": bool(i % 2)}) for i in range(8)])
            await backend.aput(HERE, [a_record(2, "again")])
            searches: list[dict[str, Any]] = [
                {},
                {"limit": 3},
                {"filter": {"odd": True}},
                {"query": "text 5", "limit": 2},
                {"query": "again", "filter": {"odd": True}, "limit": 3},
            ]
            for search in searches:
                assert await backend.asearch(HERE, **search) == backend.search(HERE, **search)
            await backend.adelete(HERE, [a_record(7).key])
            assert texts_of(backend.search(HERE, limit=2)) == ["again", "text 6"]
            await backend.adelete(HERE)
            assert backend.search(HERE) == []

        asyncio.run(main())

    def test_one_backend_serves_one_event_loop_after_another(self, backend: MemoryBackend) -> None:
        for i in range(3):
            asyncio.run(backend.aput(HERE, [a_record(i)]))
        assert texts_of(asyncio.run(backend.asearch(HERE))) == ["text 2", "text 1", "text 0"]

    # -- close ---------------------------------------------------------------------------------------------------------

    def test_closing_twice_is_fine(self, make_backend: MakeBackend) -> None:
        backend = make_backend()
        backend.close()
        backend.close()
        asyncio.run(backend.aclose())

    def test_a_closed_backend_says_so(self, make_backend: MakeBackend) -> None:
        backend = make_backend()
        backend.put(HERE, [a_record(0)])
        backend.close()
        for use in (
            lambda: backend.put(HERE, [a_record(1)]),
            lambda: backend.search(HERE),
            lambda: backend.search(HERE, query="text"),
            lambda: backend.delete(HERE),
        ):
            with pytest.raises(MemoryClosedError):
                use()

    def test_aclose_closes_the_async_forms_too(self, make_backend: MakeBackend) -> None:
        backend = make_backend()

        async def main() -> None:
            await backend.aclose()
            with pytest.raises(MemoryClosedError):
                await backend.aput(HERE, [a_record(1)])
            with pytest.raises(MemoryClosedError):
                await backend.asearch(HERE)
            with pytest.raises(MemoryClosedError):
                await backend.adelete(HERE)

        asyncio.run(main())
