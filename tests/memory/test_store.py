"""A LangGraph store as memory: the contract of every backend, over InMemoryStore and a real PostgreSQL."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator

import pytest
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import AsyncPostgresStore, PostgresStore

pytest.register_assert_rewrite("lamer_memory.conformance")

from lamer_memory import (  # noqa: E402
    ChromaStore,
    MemoryBackendError,
    MemoryConfig,
    MemoryConfigError,
    asimilar_records,
    make_record,
    open_backend,
    own_records,
    similar_records,
    trial_namespace,
)
from lamer_memory import store as store_module  # noqa: E402
from lamer_memory.conformance import BackendConformance, MakeBackend  # noqa: E402
from lamer_memory.embedders import HashingEmbedder  # noqa: E402
from lamer_memory.store import StoreMemory  # noqa: E402


@pytest.fixture
def postgres(postgres_uri: str) -> Iterator[PostgresStore]:
    with PostgresStore.from_conn_string(postgres_uri) as store:
        store.setup()
        with store._cursor() as cursor:
            cursor.execute("TRUNCATE store")
        yield store


def indexed() -> InMemoryStore:
    embedder = HashingEmbedder()
    return InMemoryStore(index={"dims": embedder.dimensions, "embed": lambda texts: embedder.embed(list(texts))})


class TestInMemoryStore(BackendConformance):
    @pytest.fixture
    def make_backend(self) -> MakeBackend:
        return lambda: StoreMemory(InMemoryStore())


class TestIndexedInMemoryStore(BackendConformance):
    @pytest.fixture
    def make_backend(self) -> MakeBackend:
        return lambda: StoreMemory(indexed())


class TestPostgresStore(BackendConformance):
    @pytest.fixture
    def make_backend(self, postgres) -> MakeBackend:
        return lambda: StoreMemory(postgres)

    @pytest.fixture
    def reopen(self, postgres) -> MakeBackend:
        return lambda: StoreMemory(postgres)


def record(number: int, text: str = "x", **metadata):
    return make_record("trial", "task", number, "reflection", text, False, metadata)


def test_postgres_is_opened_by_its_address(postgres_uri, postgres):
    memory = open_backend(f"store:{postgres_uri}")
    memory.put(("a",), [record(0)])
    memory.close()
    assert [entry.record for entry in StoreMemory(postgres).search(("a",))] == [record(0)]
    assert StoreMemory(postgres).persistent
    assert not StoreMemory(InMemoryStore()).persistent


def test_a_database_that_is_not_there_is_said_so():
    with pytest.raises(MemoryBackendError, match="PostgresStore cannot be opened"):
        StoreMemory("postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")


def test_a_database_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setitem(store_module.PATIENCE, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port, begun = silent.getsockname()[1], time.monotonic()
        with pytest.raises(MemoryBackendError, match=r"PostgresStore cannot be opened: .*timeout"):
            StoreMemory(f"postgresql://nobody@127.0.0.1:{port}/none")
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("store", ["sqlite:///x", 7, None])
def test_what_is_no_store_is_refused(store):
    with pytest.raises(MemoryConfigError, match="postgresql"):
        StoreMemory(store)


def test_by_name_alone_there_is_no_store():
    with pytest.raises(MemoryConfigError, match="missing a required argument: 'store'"):
        MemoryConfig(backend="store").open()


def test_other_items_of_the_store_are_neither_seen_nor_touched():
    store = InMemoryStore()
    store.put(("users", "ann"), "likes", {"text": "tea"})
    memory = StoreMemory(store)
    memory.put((), [record(0)])
    memory.put(("users", "ann"), [record(1)])
    assert len(memory.search(("users", "ann"))) == 1
    memory.delete(("users", "ann"))
    memory.delete(())
    assert store.get(("users", "ann"), "likes").value == {"text": "tea"}
    assert memory.namespaces() == []


@pytest.mark.parametrize("kind", ["memory", "postgres"])
def test_namespaces_are_listed_under_their_own_names(kind, request):
    store: BaseStore = InMemoryStore() if kind == "memory" else request.getfixturevalue("postgres")
    memory = StoreMemory(store)
    names = [(), ("a",), ("a", "b"), ("a.b", ""), ("\x00", "é" * 300), ("=",)]
    for name in names:
        memory.put(name, [record(0)])
    memory.put(("gone",), [record(0)])
    memory.delete(("gone",))
    assert memory.namespaces() == sorted(names)


def test_a_query_compares_what_a_record_is_about():
    memory = StoreMemory(indexed())
    memory.put(("a",), [record(0, "push it along the wall", about="? ? 1"), record(1, "? ? 1", about="a box, a wall")])
    found = memory.search(("a",), query="? ? 1")
    assert [entry.record.episode for entry in found] == [0, 1]
    assert found[0].score == pytest.approx(1)


@pytest.mark.parametrize("kind", ["memory", "postgres"])
def test_a_clock_that_was_set_back_does_not_make_new_records_older(kind, request, monkeypatch):
    store: BaseStore = InMemoryStore() if kind == "memory" else request.getfixturevalue("postgres")
    StoreMemory(store).put(("a",), [record(0)])
    monkeypatch.setattr("lamer_memory.encoding.time.time_ns", lambda: 1_000_000_000)
    later = StoreMemory(store)
    later.put(("a",), [record(1)])
    asyncio.run(later.aput(("a",), [record(2)]))
    assert [entry.record.episode for entry in later.search(("a",))] == [2, 1, 0]


# -- ranking by similarity --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranking_uri(postgres_uri: str) -> str:
    """A database of its own: what it was filled with is noted for all of it."""
    import psycopg

    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE ranking")
    return postgres_uri.replace("/postgres?", "/ranking?")


class TestRankingPostgresStore(BackendConformance):
    @pytest.fixture
    def make_backend(self, ranking_uri) -> MakeBackend:
        with PostgresStore.from_conn_string(ranking_uri) as store:
            store.setup()
            with store._cursor() as cursor:
                cursor.execute("TRUNCATE store CASCADE")
        return lambda: StoreMemory(ranking_uri, embedder="hashing")

    @pytest.fixture
    def reopen(self, ranking_uri) -> MakeBackend:
        return lambda: StoreMemory(ranking_uri)


def test_a_database_ranks_by_what_it_was_filled_with_and_refuses_another_embedder(ranking_uri):
    memory = open_backend(f"store:{ranking_uri}", embedder=HashingEmbedder())
    memory.delete(("near",))
    memory.put(("near",), [record(i, f"cell {i}", about=f"board {i % 50}") for i in range(300)])
    memory.put(("small",), [record(0, "box", about="a wall")])
    memory.close()
    again = StoreMemory(ranking_uri, read_only=True)
    found = again.search(("near",), query="board 7", limit=6)
    assert {entry.record.episode for entry in found} == {7 + 50 * i for i in range(6)}
    assert all(entry.score == pytest.approx(1) for entry in found)
    assert [entry.record.text for entry in again.search(("small",), query="board 7", limit=9)] == ["box"]
    with pytest.raises(MemoryBackendError, match="read only"):
        again.put(("near",), [record(1)])
    again.close()
    with pytest.raises(MemoryBackendError, match=r"embedded with hashing-pairs-v1/384, not with hashing-pairs-v1/64"):
        StoreMemory(ranking_uri, embedder="hashing:64")


def test_what_was_written_without_an_index_comes_after_what_has_one(postgres_uri):
    import psycopg

    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE older")
    uri = postgres_uri.replace("/postgres?", "/older?")
    memory = StoreMemory(uri)
    memory.put(("a",), [record(i, f"cell {i}") for i in range(3)])
    memory.close()
    memory = StoreMemory(uri, embedder="hashing")
    memory.put(("a",), [record(3, "wall"), record(4, "cell 9")])
    found = memory.search(("a",), query="cell 9", limit=4)
    assert [entry.record.episode for entry in found] == [4, 3, 2, 1]
    assert [entry.score is None for entry in found] == [False, False, True, True]
    assert asyncio.run(memory.asearch(("a",), "cell 9", None, 4)) == found
    memory.close()


def test_a_database_without_pgvector_is_refused_with_the_way_out(postgres_uri, monkeypatch):
    import psycopg

    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bare")
        connection.execute("CREATE ROLE nobody LOGIN")
        connection.execute("GRANT ALL ON DATABASE bare TO nobody")
    uri = postgres_uri.replace("/postgres?", "/bare?")
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("GRANT ALL ON SCHEMA public TO nobody")
    # Who may not make an extension is told what one who has none to make is.
    with pytest.raises(
        MemoryBackendError, match=r"extension.*needs pgvector there: install it, or use backend 'chroma'"
    ):
        StoreMemory(uri.replace("//postgres:", "//nobody:"), embedder="hashing")


def test_an_embedder_beside_a_store_that_is_given_is_refused():
    with pytest.raises(MemoryConfigError, match="ranks by its own `index`"):
        StoreMemory(InMemoryStore(), embedder="hashing")


# -- stores as applications have them ---------------------------------------------------------------------------------

TASKS = MemoryConfig("reflection", "store", "tasks", k=2)
FRUIT = {"apple": [1.0, 0.0], "pear": [0.9, 0.1], "saw": [0.0, 1.0]}


class Embedding:
    """An application's embedding function, which keeps the texts that it was given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> list[list[float]]:
        self.texts += texts
        return [next((vector for word, vector in FRUIT.items() if word in text), [0.5, 0.5]) for text in texts]


def fill(memory: StoreMemory) -> None:
    """Lessons of other trials, the least like an apple last."""
    for trial, word in enumerate(FRUIT):
        made = make_record(f"t{trial}", f"task {trial}", 0, "reflection", f"cut the {word}", False, {"about": word})
        memory.put(("ann",), [made])


def with_index(kind: str, embedding: Embedding, uri: str) -> Iterator[BaseStore]:
    if kind == "memory":
        yield InMemoryStore(index={"dims": 2, "embed": embedding, "fields": ["elsewhere"]})
    elif kind == "chroma":
        yield ChromaStore(index={"dims": 2, "embed": embedding})
    else:
        import psycopg

        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS theirs")
            connection.execute("CREATE DATABASE theirs")
        theirs = uri.replace("/postgres?", "/theirs?")
        with PostgresStore.from_conn_string(theirs, index={"dims": 2, "embed": embedding}) as store:
            store.setup()
            yield store


@pytest.fixture(params=["memory", "chroma", "postgres"])
def embedded(request) -> Iterator[tuple[BaseStore, Embedding]]:
    """A store with the application's own embedding function, and that."""
    embedding = Embedding()
    uri = request.getfixturevalue("postgres_uri") if request.param == "postgres" else ""
    for store in with_index(request.param, embedding, uri):
        yield store, embedding


def test_lessons_of_other_tasks_are_ranked_by_the_stores_own_index(embedded, caplog):
    memory = StoreMemory(embedded[0])
    fill(memory)
    wanted = ["cut the apple", "cut the pear"]  # and not the newest
    assert [one.text for one in similar_records(TASKS, memory, ("ann",), "mine", "an apple")] == wanted
    if not isinstance(embedded[0], PostgresStore):  # whose async door is another class's
        found = asyncio.run(asimilar_records(TASKS, memory, ("ann",), "mine", "an apple"))
        assert [one.text for one in found] == wanted
    assert caplog.records == []


async def test_an_async_store_ranks_by_its_own_index(postgres_uri):
    import psycopg

    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE async_one")
    uri = postgres_uri.replace("/postgres?", "/async_one?")
    async with AsyncPostgresStore.from_conn_string(uri, index={"dims": 2, "embed": Embedding()}) as store:
        await store.setup()
        memory = StoreMemory(store)
        for trial, word in enumerate(FRUIT):
            await memory.aput(("ann",), [make_record(f"t{trial}", str(trial), 0, "reflection", word, False)])
        found = await asimilar_records(TASKS, memory, ("ann",), "mine", "an apple")
        assert [one.text for one in found] == ["apple", "pear"]


def test_a_trials_own_records_are_never_embedded(embedded):
    store, embedding = embedded
    memory, alone = StoreMemory(store), MemoryConfig("reflection", "store")
    place = trial_namespace(alone, ("ann",), "t7")
    memory.put(place, [make_record("t7", "task", episode, "reflection", "an apple", False) for episode in range(3)])
    assert [one.episode for one in own_records(alone, memory, place, "t7", 3)] == [0, 1, 2]
    assert embedding.texts == []
    # What others may recall is embedded once, and the trial finds its own there without asking by similarity.
    fill(memory)
    assert [one.text for one in own_records(TASKS, memory, ("ann",), "t1", 1)] == ["cut the pear"]
    assert sorted(embedding.texts) == sorted(FRUIT)


@pytest.mark.parametrize("kind", ["memory", "postgres", "chroma"])
def test_a_store_without_an_index_says_once_that_it_answers_with_the_newest(kind, request, caplog):
    store: BaseStore
    if kind == "postgres":
        store = request.getfixturevalue("postgres")
    else:
        store = InMemoryStore() if kind == "memory" else ChromaStore(index=None)
    alone = MemoryConfig("reflection", "store")
    memory = StoreMemory(store)
    fill(memory)
    memory.search(("ann",))
    own_records(TASKS, memory, ("ann",), "t1", 1)
    assert similar_records(alone, memory, ("ann",), "mine", "an apple") == []
    assert caplog.records == []
    for backend in (memory, StoreMemory(store)):
        newest = ["cut the saw", "cut the pear"]
        assert [one.text for one in similar_records(TASKS, backend, ("ann",), "mine", "an apple")] == newest
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert type(store).__name__ in said.getMessage()
    assert "answered by the newest" in said.getMessage()
    assert "index={'dims'" in said.getMessage()
    similar_records(TASKS, StoreMemory(InMemoryStore()), ("ann",), "mine", "an apple")
    assert len(caplog.records) == 2  # another store
