"""Chroma as a LangGraph store answers what LangGraph's own in-memory store answers."""

import asyncio
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from lamer_graph import create_lamer_agent
from lamer_memory import MemoryBackendError, MemoryClosedError, MemoryConfig
from lamer_memory.chroma import store as chroma_store
from lamer_memory.chroma.memory import ChromaMemory
from lamer_memory.chroma.store import ChromaStore
from lamer_memory.embedders import HashingEmbedder
from lamer_memory.store import StoreMemory
from scripted import ScriptedPolicy, random_player

EMBEDDER = HashingEmbedder()

pytestmark = pytest.mark.slow  # two minutes on two cores, and an embedded engine with threads of its own


def embed(texts):
    return EMBEDDER.embed(list(texts))


INDEX: Any = {"dims": EMBEDDER.dimensions, "embed": embed, "fields": ["text"]}


@pytest.fixture
def store():
    with ChromaStore() as store:
        yield store


def keys(found):
    return [item.key for item in found]


labels = st.sampled_from(["a", "b", "a b", "é"])
namespaces = st.lists(labels, min_size=1, max_size=3).map(tuple)
item_keys = st.sampled_from(["k1", "k2", "k/3", "K1"])
words = st.lists(st.sampled_from(["mine", "box", "wall", "corner", "open", "push"]), min_size=1, max_size=4)
values = st.fixed_dictionaries(
    {"text": words.map(" ".join), "n": st.sampled_from([1, 2, 2.5, -3])},
    optional={"tag": st.sampled_from(["x", "y", None, True]), "inner": st.fixed_dictionaries({"deep": st.booleans()})},
)
indexing = st.sampled_from([None, None, False, ["tag"]])
puts = st.tuples(namespaces, item_keys, values | st.none(), indexing).map(lambda parts: PutOp(*parts))
filters = st.sampled_from(
    [
        None,
        {"n": 2},
        {"n": {"$gt": 1}},
        {"n": {"$gte": 2, "$lt": 2.5}},
        {"tag": {"$ne": "x"}},
        {"tag": {"$eq": "y"}},
        {"tag": None},
        {"inner": {"deep": True}},
        {"n": {"$lte": 1}, "tag": "x"},
    ]
)
prefixes = st.lists(labels, max_size=2).map(tuple)
pages = st.sampled_from([1, 3, 100]), st.sampled_from([0, 1])
searches = st.tuples(prefixes, filters, *pages).map(lambda parts: SearchOp(*parts))
paths = st.lists(labels | st.just("*"), min_size=1, max_size=2).map(tuple)
conditions = st.lists(st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), paths), max_size=2).map(tuple)
listings = st.builds(
    ListNamespacesOp, conditions, st.sampled_from([None, 1, 2]), st.sampled_from([1, 100]), st.sampled_from([0, 1])
)


def plain(item):
    return (item.namespace, item.key, item.value)


def ordered(items):
    return sorted(items, key=repr)


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.lists(puts, min_size=1, max_size=6), max_size=4), st.lists(searches, max_size=4), listings, words)
def test_it_answers_as_langgraphs_own_store(batches, queries, listing, words):
    own = InMemoryStore(index=INDEX)
    with ChromaStore(index=INDEX) as ours:
        for batch in batches:
            for op in batch:  # one by one: theirs fails on equal texts in one batch
                own.batch([op])
            ours.batch(batch)
        seen = {(op.namespace, op.key) for batch in batches for op in batch}
        for namespace, key in seen:
            theirs, mine = (store.batch([GetOp(namespace, key)])[0] for store in (own, ours))
            assert (theirs and plain(theirs)) == (mine and plain(mine))
        for op in queries:
            everything = op._replace(limit=1000, offset=0)
            (theirs,), (mine,), (page,) = own.batch([everything]), ours.batch([everything]), ours.batch([op])
            assert ordered(map(plain, theirs)) == ordered(map(plain, mine))
            assert page == mine[op.offset : op.offset + op.limit]
            (theirs,) = own.batch([everything._replace(query=" ".join(words))])
            (mine,) = ours.batch([everything._replace(query=" ".join(words))])
            assert {(plain(i).__repr__(), i.score and round(i.score, 4)) for i in theirs} == {
                (plain(i).__repr__(), i.score and round(i.score, 4)) for i in mine
            }
        live = {item.namespace for item in own.search((), limit=1000)}
        (mine,) = ours.batch([ListNamespacesOp(None, None, 1000, 0)])
        assert mine == sorted(live)
        # Theirs lists emptied namespaces too: compare on a copy that never had them.
        clean = InMemoryStore()
        for namespace in live:
            clean.put(namespace, "k", {})
        assert ours.batch([listing]) == clean.batch([listing])


def test_an_update_keeps_created_at_and_moves_updated_at(store):
    store.put(("a",), "k", {"v": 1})
    first = store.get(("a",), "k")
    time.sleep(0.002)
    store.put(("a",), "k", {"v": 2})
    second = store.get(("a",), "k")
    assert second.value == {"v": 2}
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


def test_the_most_recently_updated_come_first_and_pages_do_not_overlap(store):
    for i in range(5):
        store.put(("a",), str(i), {"v": i})
    store.put(("a",), "1", {"v": 9})
    assert keys(store.search(("a",))) == ["1", "4", "3", "2", "0"]
    assert keys(store.search(("a",), limit=2, offset=2)) == ["3", "2"]


def test_a_batch_reads_the_state_before_its_puts(store):
    store.put(("a",), "k", {"v": 1})
    got, _, found, _ = store.batch(
        [GetOp(("a",), "k"), PutOp(("a",), "k", {"v": 2}), SearchOp(("a",)), PutOp(("a",), "k", {"v": 3})]
    )
    assert got.value == {"v": 1}
    assert [item.value for item in found] == [{"v": 1}]
    assert store.get(("a",), "k").value == {"v": 3}


def test_each_of_several_fields_is_a_vector_of_its_own_and_none_outlives_its_item():
    with ChromaStore(index={**INDEX, "fields": ["title", "notes[*]"]}) as store:
        store.put(("a",), "k", {"title": "open the corner", "notes": ["push the box", "along a wall"]})
        store.put(("a",), "other", {"title": "nothing", "notes": []})
        for query in ("open the corner", "push the box", "along a wall"):
            best = store.search(("a",), query=query)[0]
            assert (best.key, round(best.score, 3)) == ("k", 1.0)
        store.put(("a",), "k", {"title": "short", "notes": []})
        assert store._collection.count() == 2
        assert store.search(("a",), query="push the box")[0].score < 0.5
        store.delete(("a",), "k")
        assert keys(store.search(("a",), query="short")) == ["other"]
        assert store._collection.count() == 1


def test_a_small_namespace_in_a_large_store_is_searched_in_full(store):
    store.batch([PutOp(("big",), str(i), {"text": f"open cell {i}"}) for i in range(1200)])
    store.batch([PutOp(("small",), str(i), {"text": f"push box {i}"}) for i in range(5)])
    found = store.search(("small",), query="open cell 3", limit=5)
    assert sorted(keys(found)) == ["0", "1", "2", "3", "4"]
    assert all(item.score is not None for item in found)


def test_without_an_index_a_query_lists():
    with ChromaStore(index=None) as store:
        store.put(("a",), "k", {"text": "x"})
        assert [(item.key, item.score) for item in store.search(("a",), query="x")] == [("k", None)]


def test_time_to_live(monkeypatch):
    clock = [1_000_000_000_000_000]
    monkeypatch.setattr(chroma_store, "now_us", lambda: clock[0])
    with ChromaStore(ttl={"default_ttl": 10, "omit_expired": True}) as store:
        store.put(("a",), "read", {"v": 1})
        store.put(("a",), "left", {"v": 2})
        store.put(("a",), "kept", {"v": 3}, ttl=None)
        clock[0] += 6 * 60_000_000
        assert store.get(("a",), "read") is not None  # a read gives it ten more minutes
        assert store.get(("a",), "left", refresh_ttl=False) is not None
        clock[0] += 6 * 60_000_000
        assert sorted(keys(store.search(("a",), refresh_ttl=False))) == ["kept", "read"]
        assert store.get(("a",), "left") is None
        assert store.sweep_ttl() == 1
        assert store._collection.count() == 2
        assert store.sweep_ttl() == 0


def test_writes_sweep_when_it_is_time(monkeypatch):
    clock = [1_000_000_000_000_000]
    monkeypatch.setattr(chroma_store, "now_us", lambda: clock[0])
    with ChromaStore(ttl={"sweep_interval_minutes": 0}) as store:
        store.put(("a",), "short", {}, ttl=1)
        clock[0] += 2 * 60_000_000
        store.put(("b",), "other", {})
        assert store.search(("a",)) == []


def test_an_unknown_operator_is_refused(store):
    store.put(("a",), "k", {"v": 1})
    with pytest.raises(ValueError, match=r"'\$in'.*\$eq"):
        store.search(("a",), filter={"v": {"$in": [1]}})


async def test_async_forms_and_concurrent_writers(store):
    await asyncio.gather(*(store.aput(("a",), str(i), {"v": i}) for i in range(40)))
    assert len(await store.asearch(("a",), limit=100)) == 40
    await store.adelete(("a",), "3")
    assert await store.aget(("a",), "3") is None
    assert await store.alist_namespaces(prefix=("a",)) == [("a",)]


def test_it_survives_the_process_and_shares_a_directory_with_chroma_memory(tmp_path):
    with ChromaStore(tmp_path) as store, ChromaStore(tmp_path) as again:
        memory = ChromaMemory(tmp_path)
        memory.close()
        store.put(("a",), "k", {"v": "é\x00"})
        assert again.get(("a",), "k").value == {"v": "é\x00"}
    with ChromaStore(tmp_path) as store:
        assert store.get(("a",), "k").value == {"v": "é\x00"}
    with pytest.raises(MemoryClosedError):
        store.get(("a",), "k")
    with pytest.raises(MemoryBackendError, match=r"embedded with hashing.*not with none"):
        ChromaStore(tmp_path, index=None)
    with pytest.raises(MemoryBackendError, match="was made for store"):
        ChromaMemory(tmp_path, collection=chroma_store.DEFAULT_COLLECTION)


def test_a_graph_remembers_in_it(store):
    def node(state):
        memory = get_runtime().store
        memory.put(("users", state["user"]), "likes", {"text": state["text"]})
        return {"text": memory.search(("users",), query="tea")[0].value["text"]}

    graph = StateGraph(dict)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    app = graph.compile(store=store)
    app.invoke({"user": "ann", "text": "green tea"})
    assert app.invoke({"user": "bob", "text": "coffee"})["text"] == "green tea"


def test_an_agents_memory_lives_in_the_store_that_its_graph_is_given(store):
    memory = MemoryConfig("reflection", backend=StoreMemory(store), scope="tasks")
    policy = ScriptedPolicy(random_player)
    agent = create_lamer_agent(policy, "minesweeper:4x4-3", memory, prompt_style="compact", store=store)
    ann = {"configurable": {"user_id": "ann"}}
    results = [agent.invoke({"task": {"seed": seed}}, ann) for seed in range(3)]
    written = [text for result in results for text in result["reflections"]]
    bobs = agent.invoke({"task": {"seed": 1}}, {"configurable": {"user_id": "bob"}})["reflections"]
    for name, texts in (("ann", written), ("bob", bobs)):
        assert texts
        kept = memory.open().search((name,), limit=100)
        assert sorted(entry.record.text for entry in kept) == sorted(texts)


# -- manners ----------------------------------------------------------------------------------------------------------

people = {
    "ann": {"user": {"access-level": "nested", "2fa": True, "age": 40}, "born": "1986-02-03", "a.b": 1},
    "bob": {"user": {"access-level": "flat", "2fa": False, "age": 7}, "born": "2019-11-29", "a": {"b": 1}},
    "eve": {"user.access-level": "nested", "user": {"age": 1}, "born": "1999-01-01"},
}


@pytest.fixture
def filled(store):
    for name, value in people.items():
        store.put(("people",), name, value)
    return store


def test_a_list_is_a_namespace_as_a_tuple_is(filled):
    assert len(filled.search(["people"])) == 3
    filled.put(["people", "x"], "new", {"v": 1})
    assert filled.get(["people", "x"], "new").namespace == ("people", "x")
    assert filled.list_namespaces(prefix=["people", "x"]) == [("people", "x")]
    filled.delete(["people", "x"], "new")
    assert filled.get(("people", "x"), "new") is None


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ({"user.access-level": "nested"}, "ann eve"),  # of eve the key itself is called so
        ({"user.2fa": True}, "ann"),
        ({"user.2fa": {"$ne": True}}, "bob eve"),
        ({"user.age": {"$gt": 6, "$lt": 40}}, "bob"),
        ({"user": {"access-level": "flat"}}, "bob"),
        ({"a.b": 1}, "ann bob"),
        ({"user.age.years": None}, "ann bob eve"),
        ({"nobody.has.this": 1}, ""),
        ({"born": {"$gte": "1999-01-01"}}, "bob eve"),
        ({"born": {"$lt": "1999-01-01"}}, "ann"),
        ({"born": {"$gt": 5}}, ""),
    ],
)
def test_filters_reach_into_nested_values_by_dotted_paths(filled, filter, found):
    assert sorted(keys(filled.search(("people",), filter=filter))) == found.split()


nested = st.fixed_dictionaries(
    {"in-1": st.fixed_dictionaries({"n": st.integers(-3, 3), "s": st.sampled_from(["1986-02-03", "ab", "b", "é"])})}
)
operands = st.tuples(st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), st.integers(-3, 3)).map(
    lambda pair: {"in-1.n": dict([pair])}
) | st.tuples(st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), st.sampled_from(["1990", "ab", "é"])).map(
    lambda pair: {"in-1.s": dict([pair])}
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(item_keys, nested, max_size=4), st.lists(operands, max_size=4))
def test_dotted_filters_answer_as_langgraphs_sqlite_store(values, filters):
    with SqliteStore.from_conn_string(":memory:") as own, ChromaStore(index=None) as ours:
        own.setup()
        for store in (own, ours):
            store.batch([PutOp(("a", "b"), key, value) for key, value in values.items()])
        for filter in filters:
            theirs, mine = (store.search(["a"], filter=filter, limit=100) for store in (own, ours))
            assert ordered(map(plain, theirs)) == ordered(map(plain, mine))


mixed = st.lists(
    puts | st.builds(GetOp, namespaces, item_keys) | searches.map(lambda op: op._replace(limit=1000, offset=0)),
    max_size=8,
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(mixed, max_size=3), st.booleans())
def test_a_mixed_batch_answers_as_langgraphs_own_store(batches, use_async):
    own = InMemoryStore()
    with ChromaStore(index=None) as ours:
        for batch in batches:
            theirs = own.batch(batch)
            mine = asyncio.run(ours.abatch(batch)) if use_async else ours.batch(batch)
            assert [comparable(one) for one in theirs] == [comparable(one) for one in mine]


def comparable(result):
    return ordered(map(plain, result)) if isinstance(result, list) else result and plain(result)


@pytest.mark.parametrize(
    ("op", "says"),
    [
        (SearchOp("people"), "tuple of labels"),
        (GetOp(("a.b",), "k"), "periods"),
        (PutOp(("a", ""), "k", {}), "empty"),
        (PutOp((1,), "k", {}), "must be strings"),
        (SearchOp(("people",), {"born": {"$in": [1]}}), r"'\$in'"),
        (SearchOp(("nobody",), {"x": {"y": {"$regex": "."}}}), r"'\$regex'"),
        (SearchOp(("people",), limit=-1), "at least 0"),
        (SearchOp(("people",), offset=-1), "at least 0"),
        (ListNamespacesOp((MatchCondition("infix", ("a",)),)), "'infix'"),
        (PutOp(("a",), "k", {"when": time}), "'k' in .* JSON"),
        (PutOp(("a",), "k", {"inner": [{1: 2}]}), "not a text"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_of_its_batch_is_done(filled, op, says):
    with pytest.raises((ValueError, MemoryBackendError), match=says):
        filled.batch([PutOp(("people",), "first", {"v": 1}), PutOp(("people",), "ann", None), op])
    assert sorted(keys(filled.search(("people",)))) == sorted(people)


def test_a_failing_embedder_leaves_a_batch_undone(filled, monkeypatch):
    monkeypatch.setattr(HashingEmbedder, "embed", lambda self, texts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        filled.batch([PutOp(("people",), "new", {"v": 1}), PutOp(("people",), "ann", None)])
    assert sorted(keys(filled.search(("people",)))) == sorted(people)
