"""A backend keeps what it is given: verbatim, in its namespace, under its key, until it is deleted."""

from __future__ import annotations

import random

import pytest

from lamer_memory.base import MemoryBackend, MetadataValue, Namespace
from lamer_memory.conformance.samples import (
    HERE,
    HOSTILE,
    LOOKALIKES,
    ODD,
    TEXTS,
    MakeBackend,
    a_record,
    keys_of,
    texts_of,
)


class KeepingConformance:
    """What is put, where, and for how long."""

    # -- writing and reading -------------------------------------------------------------------------------------------

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

    def test_every_field_is_any_text(self, backend: MemoryBackend) -> None:
        plain = ODD.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")
        odd, other = (
            a_record(i, text, key=text, task_id=text, metadata={"trial_id": text, text: text})
            for i, text in enumerate((ODD, plain))
        )
        backend.put((ODD,), [odd, other])
        assert [entry.record for entry in backend.search((ODD,))] == [other, odd]
        for filter in ({"key": ODD}, {"task_id": ODD}, {"trial_id": ODD}, {ODD: ODD}, {"text": ODD}):
            assert [entry.record for entry in backend.search((ODD,), filter=filter)] == [odd], filter
            assert [entry.record for entry in backend.search((ODD,), ODD, filter)] == [odd], filter
        assert backend.search((plain,)) == []
        backend.delete((ODD,), [ODD])
        assert [entry.record for entry in backend.search((ODD,))] == [other]

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

    # -- upsert --------------------------------------------------------------------------------------------------------

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

    # -- namespaces ----------------------------------------------------------------------------------------------------

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

    @pytest.mark.parametrize("seed", range(2))
    def test_hostile_namespaces_never_mix(self, backend: MemoryBackend, seed: int) -> None:
        rng = random.Random(seed)
        spaces = list(
            {(label,) for label in HOSTILE} | {tuple(rng.choices(HOSTILE, k=rng.randint(0, 4))) for _ in range(20)}
        )
        deep = tuple(f"{rng.getrandbits(400):x}" for _ in range(60))
        spaces += [(*spaces[-1], "x"), deep, deep[:-1]]
        left: dict[Namespace, list[str]] = {}
        for number, space in enumerate(spaces):
            left[space] = [f"of {number}", f"also of {number}"]
            backend.put(space, [a_record(i, text) for i, text in enumerate(left[space])])
        for number, space in enumerate(spaces):
            if number % 3 == 0:
                backend.delete(space, [a_record(1).key])
                del left[space][1]
            elif number % 3 == 1:
                backend.delete(space)
                left[space] = []
        for space, texts in left.items():
            assert texts_of(backend.search(space, limit=100)) == texts[::-1], space
            assert sorted(texts_of(backend.search(space, query="of 3", limit=100))) == sorted(texts), space

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

    # -- delete --------------------------------------------------------------------------------------------------------

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

    # -- persistence ---------------------------------------------------------------------------------------------------

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
