"""A backend keeps what is noted about a record, and with that what it is worth."""

from __future__ import annotations

import pytest

from lamer_memory.base import MemoryBackend
from lamer_memory.conformance.samples import HERE, MakeBackend, a_record, keys_of
from lamer_memory.ledger import LEDGER, asettle, settle
from lamer_memory.utility import Seen, Value, value_of

THERE = ("team", "run", "trial-2")


def _value(backend: MemoryBackend, key: str) -> Value:
    return value_of(backend.search(HERE, filter={"key": key})[0].record)


class ValuingConformance:
    """What is noted about records that are there."""

    def test_a_note_is_merged_into_a_records_metadata(self, backend: MemoryBackend) -> None:
        record = a_record(0, "text\x00 \ud83d", metadata={"colour": "red", "size": 6})
        backend.put(HERE, [record, a_record(1)])
        backend.put(THERE, [record])
        backend.annotate(HERE, {record.key: {"size": 7, "ratio": 0.1}})
        backend.annotate(HERE, {record.key: {"ratio": 0.25, "seen": True, "by": None}})
        (found,) = backend.search(HERE, filter={"key": record.key})
        noted = {"colour": "red", "size": 7, "ratio": 0.25, "seen": True, "by": None}
        assert (found.record.text, found.record.metadata) == (record.text, noted)
        assert keys_of(backend.search(HERE, filter={"size": 7})) == [record.key]
        assert backend.search(HERE, filter={"size": 6}) == []
        assert backend.search(HERE, filter={"key": a_record(1).key})[0].record == a_record(1)
        assert backend.search(THERE)[0].record == record

    def test_a_note_about_what_is_not_there_makes_nothing(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0)])
        backend.delete(HERE, [a_record(0).key])
        backend.annotate(HERE, {a_record(0).key: {"a": 1}, "never": {"a": 1}})
        backend.annotate(THERE, {})
        assert backend.search(HERE) == []
        assert backend.search(THERE) == []

    def test_a_record_that_is_put_again_has_the_metadata_that_it_is_put_with(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0, metadata={"a": 1})])
        backend.annotate(HERE, {a_record(0).key: {"b": 2}})
        backend.put(HERE, [a_record(0, metadata={"c": 3})])
        assert backend.search(HERE)[0].record.metadata == {"c": 3}

    async def test_the_async_form_notes_the_same(self, backend: MemoryBackend) -> None:
        await backend.aput(HERE, [a_record(0)])
        await backend.aannotate(HERE, {a_record(0).key: {"a": 0.1}})
        assert (await backend.asearch(HERE))[0].record.metadata == {"a": 0.1}

    def test_notes_outlive_the_backend(self, make_backend: MakeBackend, reopen: MakeBackend | None) -> None:
        if reopen is None:
            pytest.skip("no `reopen` fixture")
        backend = make_backend()
        backend.put(HERE, [a_record(0)])
        backend.annotate(HERE, {a_record(0).key: {"a": 0.1}})
        backend.close()
        again = reopen()
        assert again.search(HERE)[0].record.metadata == {"a": 0.1}
        again.close()

    # -- values --------------------------------------------------------------------------------------------------------

    def test_what_trials_come_to_is_summed_at_the_records_that_they_saw(self, backend: MemoryBackend) -> None:
        good, bad = a_record(0), a_record(1)
        backend.put(HERE, [good, bad])
        for number in range(6):
            shown = number % 2 == 0
            seen = Seen((good.key,), (bad.key,), 1.0) if shown else Seen((bad.key,), (good.key,), 0.0)
            settle(backend, HERE, f"trial-{number}", "task", seen)
        assert (_value(backend, good.key).shown.n, _value(backend, good.key).held.n) == (3, 3)
        assert _value(backend, good.key).mean > 0.5
        assert _value(backend, bad.key).mean < -0.5
        assert sorted(keys_of(backend.search(HERE))) == sorted([good.key, bad.key]), "no entry is among the records"

    async def test_a_trial_that_ends_twice_is_counted_once(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0)])
        seen = Seen((a_record(0).key,), (), 1.0)
        for _ in range(2):
            settle(backend, HERE, "trial", "task", seen)
            await asettle(backend, HERE, "trial", "task", seen)
        assert _value(backend, a_record(0).key).n == 1

    def test_a_record_that_is_deleted_while_it_is_shown_stays_deleted(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0), a_record(1)])
        backend.delete(HERE, [a_record(0).key])
        settle(backend, HERE, "trial", "task", Seen((a_record(0).key, a_record(1).key), (), 1.0))
        assert keys_of(backend.search(HERE)) == [a_record(1).key]

    def test_a_value_from_before_is_counted_on(self, backend: MemoryBackend) -> None:
        known = Value().with_outcomes([1.0] * 3, [0.0] * 3)
        backend.put(HERE, [a_record(0, metadata=known.to_metadata())])
        settle(backend, HERE, "trial", "task", Seen((), (a_record(0).key,), 0.5))
        assert (_value(backend, a_record(0).key).shown, _value(backend, a_record(0).key).held.n) == (known.shown, 4)

    def test_entries_are_bounded(self, backend: MemoryBackend) -> None:
        backend.put(HERE, [a_record(0)])
        for number in range(70):
            settle(backend, HERE, f"trial-{number}", "task", Seen((a_record(0).key,), (), float(number % 2)))
        assert len(backend.search((*HERE, LEDGER), limit=1000)) < 210
        assert _value(backend, a_record(0).key).n == 64
