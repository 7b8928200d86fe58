"""A backend finds what it is asked for: in order, by filters, by similarity."""

from __future__ import annotations

import pytest

from lamer_memory.base import Kind, MemoryBackend, MetadataValue
from lamer_memory.conformance.samples import HERE, a_record, keys_of, texts_of


class FindingConformance:
    """What a search gives."""

    # -- order, limit, filters -----------------------------------------------------------------------------------------

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

    # -- queries -------------------------------------------------------------------------------------------------------

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
