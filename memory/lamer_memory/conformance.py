"""A pytest suite that a memory backend, ours or anyone's, must pass; the contract of `base` as executable checks.

What must stay true: every promise of the protocol has a test here that a backend breaking it fails. Use it like this:

    # test_my_backend.py
    import pytest
    from lamer_memory.conformance import BackendConformance

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def make_backend(self, tmp_path):
            return lambda: MyBackend(tmp_path)

        @pytest.fixture
        def reopen(self, tmp_path):             # only where `persistent`: opens the closed store again
            return lambda: MyBackend(tmp_path)

`pytest.register_assert_rewrite("lamer_memory.conformance")` before the import makes failures readable.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lamer_memory.base import Kind, MemoryBackend, MemoryRecord, MetadataValue, Namespace, ScoredRecord, record_key
from lamer_memory.errors import MemoryClosedError

MakeBackend = Callable[[], MemoryBackend]

HERE: Namespace = ("team", "run", "trial-1")
MEGABYTE = "The mine was at (3, 4). \u2014 \U0001f4a3\n" * 40_000

TEXTS = {
    "empty": "",
    "spaces": "  \t leading and trailing \n\n ",
    "line ends": "one\r\ntwo\rthree\nfour\u2028five\u2029six\x85seven\x0b",
    "quotes": """'single' "double" `back` \\ \\n $1 %s {0} {{x}} --; DROP TABLE records;""",
    "markup": "<action>(1, 2)</action><remark>&amp;</remark>\x1b[31m",
    "unicode": "\u00e9 \u4f60\u597d \u0634\u0643\u0631 \U0001f469\u200d\U0001f680 \ufeff \uffff",
    "not normalised": "e\u0301 and \u00e9, \u212b and \u00c5",
    "control": "\x00 \x01 \x1f \x7f",
    "a megabyte": MEGABYTE,
}

# Each pair is distinct and looks equal once someone joins, splits, trims or folds it.
LOOKALIKES: list[tuple[Namespace, Namespace]] = [
    (("a", "b"), ("a/b",)),
    (("a", "b"), ("ab",)),
    (("a", "b"), ("a.b",)),
    (("a", "b"), ("a:b",)),
    (("a", "b"), ("a|b",)),
    (("a", "b"), ("a\x1fb",)),
    (("a", "b"), ("a\x00b",)),
    (("a", "b"), ("('a', 'b')",)),
    (("a", "b"), ('["a","b"]',)),
    (("a", "b/c"), ("a/b", "c")),
    (("a.b", "c"), ("a", "b.c")),
    (("a", "b"), ("b", "a")),
    (("a",), ("A",)),
    (("a",), ("a ",)),
    (("a",), ("a", "")),
    ((), ("",)),
    (("a%2Fb",), ("a/b",)),
    (("a_b",), ("a-b",)),
    (("e\u0301",), ("\u00e9",)),
    (("x" * 600 + "1",), ("x" * 600 + "2",)),
    (("..",), (".",)),
]


def a_record(number: int = 0, text: str | None = None, **changes: Any) -> MemoryRecord:
    """The record of episode `number` of a trial, with any field changed."""
    kind: Kind = changes.pop("kind", "reflection")
    metadata: dict[str, MetadataValue] = changes.pop("metadata", {})
    fields: dict[str, Any] = {
        "key": record_key("trial-1", number, kind),
        "task_id": "minesweeper:6x6-3#7",
        "episode": number,
        "text": f"text {number}" if text is None else text,
        "success": False,
        **changes,
    }
    return MemoryRecord(kind=kind, metadata=metadata, **fields)


def keys_of(found: list[ScoredRecord]) -> list[str]:
    return [entry.record.key for entry in found]


def texts_of(found: list[ScoredRecord]) -> list[str]:
    return [entry.record.text for entry in found]


class BackendConformance:
    """Subclass as `Test...` and override `make_backend`; for persistent backends `reopen` too."""

    @pytest.fixture
    def make_backend(self) -> MakeBackend:
        """A function that opens the backend on an empty store."""
        raise NotImplementedError("override the fixture make_backend: a function that opens an empty backend")

    @pytest.fixture
    def reopen(self) -> MakeBackend | None:
        """A function that opens the store of a closed backend again; None skips the tests of persistence."""
        return None

    @pytest.fixture
    def backend(self, make_backend: MakeBackend) -> Iterator[MemoryBackend]:
        backend = make_backend()
        yield backend
        backend.close()

    # -- writing and reading ------------------------------------------------------------------------------------------

    def test_an_unknown_namespace_is_empty(self, backend: MemoryBackend) -> None:
        assert backend.search(("nobody", "was", "here")) == []

    def test_a_record_comes_back_equal(self, backend: MemoryBackend) -> None:
        metadata = {"s": "x", "i": -7, "big": 2**53, "f": 0.1, "yes": True, "no": False, "none": None, "é/ü": "ñ"}
        records = [a_record(3, success=True, metadata=metadata), a_record(4, kind="trajectory"), a_record(5)]
        backend.put(HERE, records)
        found = [entry.record for entry in backend.search(HERE)]
        assert found == records[::-1]
        values = next(record for record in found if record.episode == 3).metadata
        assert {name: type(value) for name, value in values.items()} == {k: type(v) for k, v in metadata.items()}

    @pytest.mark.parametrize("name", TEXTS)
    def test_text_comes_back_verbatim(self, backend: MemoryBackend, name: str) -> None:
        backend.put(HERE, [a_record(0, TEXTS[name])])
        assert texts_of(backend.search(HERE)) == [TEXTS[name]]

    def test_keys_and_task_ids_are_any_text(self, backend: MemoryBackend) -> None:
        names = [
            "",
            " ",
            "a/b",
            "a b",
            "A",
            "a",
            "\u00e9",
            "e\u0301",
            "x" * 600,
            "trial/0/reflection",
            "'; --",
            "%",
            "*",
        ]
        backend.put(HERE, [a_record(i, key=name, task_id=name) for i, name in enumerate(names)])
        assert [(entry.record.key, entry.record.task_id) for entry in backend.search(HERE, limit=99)] == [
            (name, name) for name in reversed(names)
        ]

    def test_putting_nothing_changes_nothing(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [])
        assert backend.search(HERE) == []

    def test_a_large_batch_is_stored_whole(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(i) for i in range(500)])
        assert keys_of(backend.search(HERE, limit=1000)) == [a_record(i).key for i in reversed(range(500))]

    def test_later_changes_to_the_callers_metadata_do_not_reach_the_store(self, backend: MemoryBackend) -> None:
        metadata: dict[str, MetadataValue] = {"tag": "before"}
        backend.put(HERE, [a_record(0, metadata=metadata)])
        metadata["tag"] = "after"
        assert backend.search(HERE)[0].record.metadata == {"tag": "before"}

    # -- upsert -------------------------------------------------------------------------------------------------------

    def test_the_same_key_replaces_the_whole_record(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0, "old", metadata={"draft": 1, "only_old": True})])
        new = a_record(0, "new", success=True, task_id="other", metadata={"draft": 2})
        backend.put(HERE, [new])
        assert [entry.record for entry in backend.search(HERE)] == [new]
        assert backend.search(HERE, filter={"only_old": True}) == []
        assert backend.search(HERE, filter={"success": False}) == []

    def test_writing_a_record_again_leaves_one(self, backend: MemoryBackend) -> None:
        for _ in range(3):
            backend.put(HERE, [a_record(0), a_record(1)])
        assert len(backend.search(HERE)) == 2

    def test_an_upsert_counts_as_newest(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0), a_record(1), a_record(2)])
        backend.put(HERE, [a_record(0, "again")])
        assert texts_of(backend.search(HERE)) == ["again", "text 2", "text 1"]

    def test_of_one_key_twice_in_a_batch_the_last_wins(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0, "first"), a_record(1), a_record(0, "second")])
        assert texts_of(backend.search(HERE)) == ["second", "text 1"]

    # -- namespaces ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("one", "other"), LOOKALIKES)
    def test_lookalike_namespaces_are_apart(self, backend: MemoryBackend, one: Namespace, other: Namespace) -> None:
        backend.put(one, [a_record(0, "one")])
        assert backend.search(other) == []
        backend.put(other, [a_record(0, "other")])
        assert texts_of(backend.search(one)) == ["one"]
        assert texts_of(backend.search(other)) == ["other"]
        backend.delete(one)
        assert backend.search(one) == []
        assert texts_of(backend.search(other)) == ["other"]

    def test_a_namespace_does_not_include_those_below_it(self, backend: MemoryBackend) -> None:
        parent, child = HERE, (*HERE, "child")
        backend.put(child, [a_record(0, "child")])
        assert backend.search(parent) == []
        backend.put(parent, [a_record(1, "parent")])
        assert texts_of(backend.search(parent)) == ["parent"]
        assert texts_of(backend.search(parent, query="child")) == ["parent"]
        backend.delete(parent)
        assert texts_of(backend.search(child)) == ["child"]

    def test_the_same_key_lives_in_each_namespace(self, backend: MemoryBackend) -> None:
        spaces = [("run", str(i)) for i in range(30)]
        for i, space in enumerate(spaces):
            backend.put(space, [a_record(0, f"of {i}")])
        assert [texts_of(backend.search(space)) for space in spaces] == [[f"of {i}"] for i in range(30)]

    # -- order, limit, filters ----------------------------------------------------------------------------------------

    def test_newest_come_first(self, backend: MemoryBackend) -> None:
        for i in (2, 0, 3, 1):
            backend.put(HERE, [a_record(i)])
        assert texts_of(backend.search(HERE)) == ["text 1", "text 3", "text 0", "text 2"]

    def test_within_a_batch_later_is_newer(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(1), a_record(0), a_record(2)])
        assert texts_of(backend.search(HERE)) == ["text 2", "text 0", "text 1"]

    def test_limit_keeps_the_newest(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(i) for i in range(15)])
        assert texts_of(backend.search(HERE, limit=2)) == ["text 14", "text 13"]
        assert len(backend.search(HERE)) == 10
        assert len(backend.search(HERE, limit=10_000)) == 15
        assert backend.search(HERE, limit=0) == []

    @pytest.mark.parametrize(
        ("filter", "expected"),
        [
            ({}, [3, 2, 1, 0]),
            ({"kind": "reflection"}, [2, 0]),
            ({"episode": 1}, [1]),
            ({"success": True}, [3]),
            ({"success": False}, [2, 1, 0]),
            ({"task_id": "t2"}, [3, 2]),
            ({"key": "k0"}, [0]),
            ({"text": "text 2"}, [2]),
            ({"colour": "red"}, [2, 0]),
            ({"size": 6}, [1, 0]),
            ({"ratio": 0.5}, [0]),
            ({"lucky": True}, [1]),
            ({"kind": "reflection", "task_id": "t2"}, [2]),
            ({"kind": "trajectory", "size": 6, "lucky": True}, [1]),
            ({"task_id": "t1", "colour": "red", "episode": 1}, []),
            ({"task_id": "t"}, []),
            ({"size": "6"}, []),
            ({"episode": 4}, []),
            ({"nobody_has_this": 1}, []),
            ({"kind": "nonsense"}, []),
        ],
    )
    def test_filters_are_equalities_that_all_hold(
        self, backend: MemoryBackend, filter: dict[str, MetadataValue], expected: list[int]
    ) -> None:
        rows: list[tuple[Kind, str, bool, dict[str, MetadataValue]]] = [
            ("reflection", "t1", False, {"colour": "red", "size": 6, "ratio": 0.5}),
            ("trajectory", "t1", False, {"colour": "blue", "size": 6, "lucky": True}),
            ("reflection", "t2", False, {"colour": "red", "size": 8, "lucky": False}),
            ("trajectory", "t2", True, {"episode_note": "1"}),
        ]
        backend.put(
            HERE,
            [
                a_record(i, key=f"k{i}", kind=kind, task_id=task, success=success, metadata=metadata)
                for i, (kind, task, success, metadata) in enumerate(rows)
            ],
        )
        assert [entry.record.episode for entry in backend.search(HERE, filter=filter)] == expected
        queried = [entry.record.episode for entry in backend.search(HERE, query="text", filter=filter)]
        assert sorted(queried) == sorted(expected)

    def test_a_record_field_wins_over_a_metadata_key_of_its_name(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0, metadata={"kind": "trajectory", "episode": 9, "task_id": "t9"})])
        assert len(backend.search(HERE, filter={"kind": "reflection", "episode": 0})) == 1
        for wrong in ({"kind": "trajectory"}, {"episode": 9}, {"task_id": "t9"}):
            assert backend.search(HERE, filter=wrong) == []

    def test_limit_counts_after_the_filter(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0, kind="trajectory"), a_record(1, kind="trajectory")])
        backend.put(HERE, [a_record(i) for i in range(2, 60)])
        found = backend.search(HERE, filter={"kind": "trajectory"}, limit=2)
        assert texts_of(found) == ["text 1", "text 0"]
        assert len(backend.search(HERE, query="text", filter={"kind": "trajectory"}, limit=2)) == 2

    # -- queries ------------------------------------------------------------------------------------------------------

    def test_without_a_query_there_is_no_score(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0)])
        assert backend.search(HERE)[0].score is None

    @pytest.mark.parametrize("query", ["text 3", "", "\u4f60\u597d \U0001f4a3", "a" * 20_000, "'\"; --\x00"])
    def test_a_query_answers_with_this_namespaces_records(self, backend: MemoryBackend, query: str) -> None:
        backend.put(HERE, [a_record(i) for i in range(6)])
        backend.put(("elsewhere",), [a_record(9, query)])
        found = backend.search(HERE, query=query, limit=4)
        assert len(found) == 4
        assert {entry.record.episode for entry in found} <= set(range(6))
        assert len(set(keys_of(found))) == 4
        scores = [entry.score for entry in found]
        if None in scores:  # no vectors: newest first
            assert scores == [None] * 4
            assert texts_of(found) == ["text 5", "text 4", "text 3", "text 2"]
        else:
            ranked = [score for score in scores if score is not None]
            assert all(0.0 <= score <= 1.0 for score in ranked)
            assert ranked == sorted(ranked, reverse=True)

    def test_the_text_itself_is_its_best_match(self, backend: MemoryBackend) -> None:
        texts = ["open the corner first", "push the box along the wall", "the numbers say where mines are"]
        backend.put(HERE, [a_record(i, text) for i, text in enumerate(texts)])
        if backend.search(HERE, query=texts[0])[0].score is None:
            pytest.skip("this backend does not rank by similarity")
        for text in texts:
            assert backend.search(HERE, query=text, limit=1)[0].record.text == text

    # -- delete -------------------------------------------------------------------------------------------------------

    def test_deleted_keys_are_gone_and_others_stay(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(i) for i in range(4)])
        backend.delete(HERE, [a_record(1).key, a_record(3).key, "never written"])
        assert texts_of(backend.search(HERE)) == ["text 2", "text 0"]
        assert sorted(texts_of(backend.search(HERE, query="text 1"))) == ["text 0", "text 2"]

    def test_deleting_no_keys_deletes_nothing(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0)])
        backend.delete(HERE, [])
        assert len(backend.search(HERE)) == 1

    def test_a_deleted_namespace_is_empty_and_usable(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0), a_record(1)])
        backend.put(("other",), [a_record(0)])
        backend.delete(HERE)
        assert backend.search(HERE) == []
        assert backend.search(HERE, query="text") == []
        assert len(backend.search(("other",))) == 1
        backend.put(HERE, [a_record(5)])
        assert texts_of(backend.search(HERE)) == ["text 5"]

    def test_deleting_what_is_not_there_is_fine(self, backend: MemoryBackend) -> None:
        backend.delete(("nobody",))
        backend.delete(("nobody",), ["x"])
        assert backend.search(("nobody",)) == []

    def test_a_key_is_deleted_in_its_namespace_only(self, backend: MemoryBackend) -> None:
        backend.put(("one",), [a_record(0, "one")])
        backend.put(("two",), [a_record(0, "two")])
        backend.delete(("one",), [a_record(0).key])
        assert backend.search(("one",)) == []
        assert texts_of(backend.search(("two",))) == ["two"]

    # -- concurrency --------------------------------------------------------------------------------------------------

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

    # -- async --------------------------------------------------------------------------------------------------------

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

    # -- close --------------------------------------------------------------------------------------------------------

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

    # -- persistence --------------------------------------------------------------------------------------------------

    def test_records_outlive_the_backend(self, make_backend: MakeBackend, reopen: MakeBackend | None) -> None:
        backend = make_backend()
        if reopen is None:
            backend.close()
            pytest.skip("no `reopen` fixture")
        assert type(backend).persistent
        records = [a_record(0, TEXTS["unicode"], metadata={"n": 1, "none": None}), a_record(1), a_record(2)]
        backend.put(HERE, records)
        backend.put(HERE, [records[1]])
        backend.delete(HERE, [records[2].key])
        backend.close()
        again = reopen()
        try:
            assert [entry.record for entry in again.search(HERE)] == [records[1], records[0]]
            again.put(HERE, [a_record(0, "rewritten")])
            assert texts_of(again.search(HERE)) == ["rewritten", "text 1"]
        finally:
            again.close()


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Run `work(0..count-1)` in threads that start together; the first error is raised."""
    start = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
