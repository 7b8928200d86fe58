"""Stores are kept useful by stated rules; a frozen view shows what was there; an export comes back as it was."""

import asyncio
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_memory import (
    ABOUT_KEY,
    FrozenView,
    InContextMemory,
    MemoryBackend,
    MemoryBackendError,
    MemoryClosedError,
    MemoryConfig,
    MemoryConfigError,
    MemoryImportError,
    asimilar_records,
    hygiene,
    make_record,
    own_records,
    similar_records,
)
from lamer_memory.chroma.memory import ChromaMemory
from lamer_memory.frozen import afrozen_view
from lamer_memory.utility import Value

SHARED = ("run",)
LESSON = "Open the corners first; the numbers beside them say which of the closed cells hide a mine, so count them all."


def record(trial, text="x", *, task=None, episode=0, kind="reflection", success=False, **metadata):
    return make_record(trial, task or f"task of {trial}", episode, kind, text, success, metadata)


def keys(records):
    return [record.key for record in records]


# -- rules ------------------------------------------------------------------------------------------------------------


def test_of_equal_texts_the_successful_one_stays_else_the_newest():
    newest_first = [
        record("e", "one"),
        record("d", "one", success=True),
        record("c", "two"),
        record("b", "two"),
        record("a", "one", kind="trajectory"),
    ]
    assert hygiene.duplicates(newest_first) == ["e/0/reflection", "b/0/reflection"]


def test_over_the_budget_what_harms_goes_first_and_what_helps_last_but_leaves_half_of_it_to_what_is_new():
    def worth(mean):
        return Value().with_outcomes([mean] * 60, [0.0] * 60).to_metadata()

    helpful = [record(f"h{n}", f"text {n}", **worth(0.5 + n / 20)) for n in range(8)]
    new = [record(f"n{n}", f"new {n}") for n in range(4)]
    harmful = record("bad", "bad", success=True, **worth(-0.5))
    newest_first = [harmful, *new[::-1], *helpful[::-1]]
    gone = hygiene.evictions(newest_first, 8)
    assert gone[0] == harmful.key
    assert set(gone) == {harmful.key, *keys(helpful[:4])}, "the four that help least made room for what is new"
    assert set(keys(newest_first)) - set(hygiene.evictions(newest_first, 1)) == {helpful[7].key}


def test_near_duplicates_are_found_whatever_their_case_and_spacing():
    other = LESSON.replace("closed", "covered")
    newest_first = [record("d", "Push the box."), record("c", LESSON.upper()), record("b", LESSON), record("a", other)]
    assert hygiene.near_duplicates(newest_first, 0.9) == ["b/0/reflection"]
    assert hygiene.near_duplicates(newest_first, 0.6) == ["b/0/reflection", "a/0/reflection"]


def test_the_same_words_about_another_task_are_no_duplicate():
    corner, edge = {ABOUT_KEY: "a corner"}, {ABOUT_KEY: "an edge"}
    newest_first = [record("d", LESSON, **corner), record("c", LESSON, **edge), record("b", LESSON, **corner)]
    assert hygiene.duplicates(newest_first) == ["b/0/reflection"]
    loud = [record("d", LESSON.upper(), **corner), *newest_first[1:]]
    assert hygiene.near_duplicates(loud) == ["b/0/reflection"]


texts = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=9).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(texts, st.booleans()), max_size=8), st.sampled_from([0.3, 0.5, 0.75, 0.9, 1.0]))
def test_near_duplicates_are_those_that_overlap_with_one_that_stays(rows, near):
    records = [record(str(i), text, success=success) for i, (text, success) in enumerate(rows)]
    gone = set(hygiene.near_duplicates(records, near))
    kept = []
    for one in sorted(records, key=lambda one: not one.success):  # every pair compared
        mine = hygiene._shingles(one.text)
        overlaps = any(hygiene._jaccard(mine, hygiene._shingles(other.text)) >= near for other in kept)
        assert (one.key in gone) == overlaps
        if not overlaps:
            kept.append(one)


def test_over_the_budget_the_oldest_unsuccessful_go_first():
    newest_first = [record("d"), record("c", success=True), record("b"), record("a", success=True)]
    order = ["b/0/reflection", "d/0/reflection", "a/0/reflection", "c/0/reflection"]
    for budget in range(6):
        assert hygiene.evictions(newest_first, budget) == order[: max(0, 4 - budget)]


@pytest.mark.parametrize("budget", [-1, 2.0, True])
def test_a_senseless_budget_is_refused(budget):
    with pytest.raises(MemoryConfigError, match="at least 0"):
        hygiene.evictions([], budget)


@pytest.mark.parametrize("near", [0, -1, 1.1])
def test_a_senseless_overlap_is_refused(near):
    with pytest.raises(MemoryConfigError, match="at most 1"):
        hygiene.near_duplicates([], near)


@pytest.fixture(params=["in-context", "chroma"])
def memory(request):
    memory = InContextMemory() if request.param == "in-context" else ChromaMemory()
    yield memory
    memory.close()


def test_pruning_forgets_in_its_namespace_only_and_says_what(memory):
    memory.put(SHARED, [record("a", LESSON), record("b", LESSON), record("c", LESSON.lower()), record("d", "push")])
    memory.put(SHARED, [record("e", "left"), record("f", "won", success=True), record("g", "right")])
    memory.put(("other",), [record("a", LESSON), record("b", LESSON)])
    chosen = hygiene.prune(memory, SHARED, budget=3, dry_run=True)
    assert len(memory.search(SHARED)) == 7
    assert hygiene.prune(memory, SHARED, budget=3) == chosen
    assert chosen.duplicates == ("a/0/reflection",)
    assert chosen.near_duplicates == ("b/0/reflection",)
    assert chosen.evicted == ("c/0/reflection", "d/0/reflection")
    assert chosen.kept == 3
    assert [entry.record.key[0] for entry in memory.search(SHARED)] == ["g", "f", "e"]
    assert len(memory.search(("other",))) == 2


def test_statistics_count_what_a_namespace_holds(memory):
    memory.put(SHARED, [record("a", "12345"), record("a", "1", kind="trajectory"), record("b", "2", success=True)])
    found = hygiene.stats(memory, SHARED)
    assert found.to_json() == {
        "namespace": ["run"],
        "records": 3,
        "reflections": 2,
        "trajectories": 1,
        "successes": 1,
        "tasks": 2,
        "chars": 7,
        "valued": 0,
        "harmful": 0,
    }
    assert hygiene.all_namespaces(memory) == [SHARED]
    assert hygiene.all_namespaces(memory, ("ru",)) == []


class Bare(MemoryBackend):
    """A backend with nothing beyond the protocol."""

    def put(self, namespace, records): ...
    def search(self, namespace, query=None, filter=None, limit=10):
        return []

    def delete(self, namespace, keys=None): ...
    def close(self): ...


def test_a_backend_that_cannot_list_its_namespaces_says_so():
    with pytest.raises(MemoryBackendError, match="Bare cannot list its namespaces"):
        hygiene.all_namespaces(Bare())


# -- export and import ------------------------------------------------------------------------------------------------


def test_an_import_of_an_export_gives_the_same_records_in_the_same_order(memory):
    spaces = [("a",), ("a", "b/c"), ("é", "")]
    for i, space in enumerate(spaces):
        memory.put(space, [record(f"t{n}", f"{n} \ud83d\x00\n", n=n, none=None, f=0.5) for n in range(250 + i)])
    out = io.StringIO()
    assert hygiene.export_records(memory, spaces, out) == 753
    assert out.getvalue().isascii()
    other = InContextMemory()
    out.seek(0)
    assert hygiene.import_records(other, out) == 753
    for space in spaces:
        assert other.search(space, limit=1000) == memory.search(space, limit=1000)
    out.seek(0)
    hygiene.import_records(other, out, under=("copy",))
    assert len(other.search(("copy", "a"), limit=1000)) == 250


GOOD = {"schema": 1, "namespace": ["a"], "record": record("t").to_json()}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[]", "line 2: must be an object"),
        ({**GOOD, "schema": 2}, "has schema 2, this version reads 1"),
        ({**GOOD, "namespace": "a"}, "namespace must be a list of texts"),
        ({**GOOD, "record": {}}, "exactly the fields"),
        ({**GOOD, "record": {**GOOD["record"], "episode": True}}, "episode must be int, not bool"),
        ({**GOOD, "record": {**GOOD["record"], "kind": "dream"}}, "one of trajectory, reflection, not 'dream'"),
        ({**GOOD, "record": {**GOOD["record"], "metadata": {"x": [1]}}}, "metadata 'x' must be"),
    ],
)
def test_a_malformed_line_is_named(line, message):
    lines = json.dumps(GOOD) + "\n" + (line if isinstance(line, str) else json.dumps(line)) + "\n"
    memory = InContextMemory()
    with pytest.raises(MemoryImportError, match=message):
        hygiene.import_records(memory, io.StringIO(lines))


# -- what training may see --------------------------------------------------------------------------------------------

TASKS = MemoryConfig("reflection", scope="tasks", k=3)


def test_other_trials_of_the_same_task_are_not_similar_ones(memory):
    memory.put(SHARED, [record("old", "from another task", task="other", **{ABOUT_KEY: "a board"})])
    siblings = [record(f"t{i}", f"lesson {i}", task="this", **{ABOUT_KEY: "this board"}) for i in range(200)]
    memory.put(SHARED, siblings)
    found = similar_records(TASKS, memory, SHARED, "t0", "this board", 1, task_id="this")
    assert [one.text for one in found] == ["from another task"]
    assert asyncio.run(asimilar_records(TASKS, memory, SHARED, "t0", "this board", 1, task_id="this")) == found
    assert len(similar_records(TASKS, memory, SHARED, "t0", "this board", 1)) == 3


def test_a_lesson_is_found_by_the_task_it_is_about():
    memory = ChromaMemory()
    about = {"mines": "? ? ?\n? 1 ?\n? ? ?", "boxes": "#####\n#@$.#\n#####"}
    memory.put(SHARED, [record(name, "be careful", **{ABOUT_KEY: board}) for name, board in about.items()])
    for name, board in about.items():
        (found,) = memory.search(SHARED, query=board, limit=1)
        assert found.record.key == f"{name}/0/reflection"
        assert found.score == pytest.approx(1, abs=1e-4)
    memory.close()


def test_a_frozen_view_shows_what_was_there_and_a_trials_own_records(memory):
    memory.put(SHARED, [record(f"old{i}", f"lesson {i}") for i in range(3)])
    memory.put(SHARED, [record("again", "before")])
    view = FrozenView(memory, SHARED)
    assert len(view.search(SHARED, limit=100)) == 4
    view.put(SHARED, [record(f"new{i}", f"lesson {i}") for i in range(40)])
    view.put(SHARED, [record("again", "after")])
    view.delete(SHARED, ["old2/0/reflection"])
    seen = ["lesson 1", "lesson 0"]
    assert [entry.record.text for entry in view.search(SHARED)] == seen
    assert sorted(entry.record.text for entry in view.search(SHARED, query="lesson 0", limit=5)) == seen[::-1]
    assert asyncio.run(view.asearch(SHARED, limit=1)) == view.search(SHARED, limit=1)
    assert view.search(SHARED, filter={"success": True}) == []
    found = similar_records(TASKS, view, SHARED, "new7", "lesson 0", task_id="task of new7")
    assert sorted(one.text for one in found) == seen[::-1]
    assert keys(own_records(TASKS, view, SHARED, "new7", 1)) == ["new7/0/reflection"]
    assert keys(own_records(TASKS, view, SHARED, "again", 1)) == ["again/0/reflection"]
    view.put(("elsewhere",), [record("x")])
    assert len(view.search(("elsewhere",))) == 1
    assert len(memory.search(SHARED, limit=100)) == 43
    view.close()
    with pytest.raises(MemoryClosedError, match="frozen view"):
        view.search(SHARED)
    assert len(memory.search(SHARED, limit=100)) == 43
    assert len(asyncio.run(afrozen_view(memory, SHARED)).search(SHARED, limit=100)) == 43


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_the_trials_of_a_group_never_see_each_other(data):
    """Whatever order a group's episodes end in, each trial recalls what was frozen and its own, nothing else."""
    memory = InContextMemory()
    before = data.draw(st.lists(st.sampled_from(["p", "q", "r"]), unique=True))
    memory.put(SHARED, [record(name, f"of {name}") for name in before])
    view = FrozenView(memory, SHARED)
    episodes = {f"g{i}": 0 for i in range(4)}
    for trial in data.draw(st.lists(st.sampled_from(sorted(episodes)), max_size=12)):
        episode = episodes[trial]
        others = similar_records(
            TASKS, view, SHARED, trial, "board", episode, task_id=data.draw(st.none() | st.just("t"))
        )
        assert {one.text for one in others} <= {f"of {name}" for name in before}
        assert len(others) == min(3, len(before))
        assert keys(own_records(TASKS, view, SHARED, trial, episode)) == [
            f"{trial}/{n}/reflection" for n in range(episode)
        ]
        view.put(SHARED, [record(trial, f"lesson of {trial}", task="t", episode=episode)])
        episodes[trial] += 1


def test_all_that_lies_below_a_label_is_forgotten_and_nothing_else(memory):
    names = [("run",), ("run", "t1"), ("run", "t1", "x"), ("run/t1",), ("runs",), ()]
    for name in names:
        memory.put(name, [record("a")])
    hygiene.forget(memory, ("run",))
    assert hygiene.all_namespaces(memory) == [(), ("run/t1",), ("runs",)]
    hygiene.forget(memory, ("nobody",))
    assert hygiene.all_namespaces(memory) == [(), ("run/t1",), ("runs",)]


def test_a_backend_that_cannot_list_forgets_what_is_known_of_it():
    class Unlisted(InContextMemory):
        namespaces = None

    memory = Unlisted()
    for name in (("run",), ("run", "before"), ("run", "t1"), ("other",)):
        memory.put(name, [record("a")])
    hygiene.forget(memory, ("run",), known=["before"])
    assert sorted(memory._spaces) == [("other",), ("run", "t1")]
