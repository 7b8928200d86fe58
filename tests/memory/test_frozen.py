"""What a run sees of other tasks comes from a namespace it does not write to, ranked exactly and always the same."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_memory import ABOUT_KEY, InContextMemory, MemoryConfig, make_record, own_records, similar_records
from lamer_memory.chroma.memory import ChromaMemory
from lamer_memory.embedders import HashingEmbedder
from lamer_memory.frozen import RANKINGS, FrozenView

RUN, BEFORE = ("run",), ("run", "before")
HASHING = HashingEmbedder()
SETTINGS = MemoryConfig("reflection", scope="tasks", k=3)


def record(trial, subject, text="x", *, episode=0, success=False):
    return make_record(trial, f"task of {trial}", episode, "reflection", text, success, {ABOUT_KEY: subject})


subjects = st.lists(st.sampled_from(["?", "1", "2", ".", "*"]), max_size=6).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(subjects, st.booleans()), max_size=12), subjects, st.integers(1, 5))
def test_the_nearest_come_first_and_of_equally_near_ones_the_newest(rows, query, limit):
    memory = InContextMemory()
    records = [record(str(place), subject, success=success) for place, (subject, success) in enumerate(rows)]
    memory.put(BEFORE, records)
    view = FrozenView(memory, RUN, before=BEFORE, embedder=HASHING)
    target = HASHING.embed([query])[0]

    def cosine(one):
        vector = HASHING.embed([one.metadata[ABOUT_KEY] or one.text])[0]
        return round(sum(a * b for a, b in zip(vector, target, strict=True)), 9)

    for filter in (None, {"success": True}):
        wanted = [one for one in reversed(records) if filter is None or one.success]
        found = view.search(RUN, query, filter, limit)
        assert [entry.record for entry in found] == sorted(wanted, key=cosine, reverse=True)[:limit]
        shown = [max(0.0, cosine(entry.record)) for entry in found]
        assert [entry.score for entry in found] == pytest.approx(shown, abs=1e-6)
        assert asyncio.run(view.asearch(RUN, query, filter, limit)) == found


@pytest.mark.parametrize("embedder", [HASHING, None])
def test_what_the_run_writes_changes_nothing_of_what_it_sees_of_others(embedder):
    memory = ChromaMemory()
    memory.put(BEFORE, [record("a", "? 1 .", "of a"), record("b", "? 2 .", "of b"), record("same", "? 1 1", "then")])
    view = FrozenView(memory, RUN, before=BEFORE, embedder=embedder)

    def seen():
        return [one.text for one in similar_records(SETTINGS, view, RUN, "me", "? 1 .", 1, task_id="mine")]

    before = seen()
    assert set(before) == {"of a", "of b", "then"}
    view.put(RUN, [record("c", "? 1 .", "of c"), record("same", "? 1 1", "now"), record("me", "? 1 .", "own")])
    view.delete(RUN, ["c/0/reflection"])
    assert seen() == before
    assert [one.text for one in own_records(SETTINGS, view, RUN, "me", 1)] == ["own"]
    assert [entry.record.text for entry in view.search(RUN)] == ["then", "of b", "of a"]
    view.close()
    assert len(memory.search(RUN, limit=9)) == 2
    memory.close()


def test_any_number_of_queries_is_answered_alike():
    memory = InContextMemory()
    memory.put(BEFORE, [record(str(number), f"{number} {number % 7}") for number in range(30)])
    view = FrozenView(memory, RUN, before=BEFORE, embedder=HASHING)
    queries = [f"{number} 3" for number in range(2 * RANKINGS)]
    once = [view.search(RUN, query) for query in queries]
    assert [view.search(RUN, query) for query in queries] == once
    assert FrozenView(memory, RUN, before=("empty",), embedder=HASHING).search(RUN, "x") == []
