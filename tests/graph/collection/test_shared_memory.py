"""Runs whose memory lies where others may have theirs: a directory, a server; and what its loss costs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chroma_server import Server
from lamer_graph.collection.collect import Shard, collect
from lamer_graph.collection.run_memory import copied_of, drop_run_memory, open_run_memory
from lamer_graph.errors import ConfigError, PolicyConnectionError
from lamer_graph.runlog import read_trials
from lamer_memory import ChromaMemory, MemoryBackendError
from lamer_memory.chroma import process as chroma_process
from lamer_memory.hygiene import all_namespaces, forget, read_all
from memory_runs import ALL, config, foreign, reads, run, written
from scripted import ScriptedPolicy, is_reflection, random_player

# -- in one place -----------------------------------------------------------------------------------------------------


def spaces(place: Path) -> dict[tuple[str, ...], set[str]]:
    """What the namespaces there hold: the trials of their records."""
    memory = ChromaMemory(place, embedder=None, read_only=True)
    found = {
        name: {str(record.metadata["trial_id"]) for record in read_all(memory, name)} for name in all_namespaces(memory)
    }
    memory.close()
    return found


@pytest.mark.parametrize("scope", ["trial", "tasks"])
def test_two_runs_in_one_directory_keep_apart(tmp_path: Path, scope: str) -> None:
    settings = config(backend=f"chroma:{tmp_path / 'both'}", scope=scope, tasks=8)
    calls = 0

    def failing(messages: Any, sampling: Any) -> str:
        nonlocal calls
        calls += 1
        if calls > 60:
            raise PolicyConnectionError("gone")
        return random_player(messages, sampling)

    assert run(settings, tmp_path / "one", ScriptedPolicy(failing), concurrency=3).failed
    first = {name[:2] for name in spaces(tmp_path / "both")}
    run(settings, tmp_path / "two")  # the same tasks and trials: the same keys
    of_two = {name[:2] for name in spaces(tmp_path / "both")} - first
    assert len(first) == len(of_two) == 1
    run(settings, tmp_path / "one", resume=True)
    assert {name[:2] for name in spaces(tmp_path / "both")} == first | of_two
    run(config(scope=scope, tasks=8), tmp_path / "alone")
    assert reads(tmp_path / "one") == reads(tmp_path / "two") == reads(tmp_path / "alone")
    before = spaces(tmp_path / "both")
    drop_run_memory(settings, tmp_path / "one")
    assert spaces(tmp_path / "both") == {name: trials for name, trials in before.items() if name[:2] in of_two}
    drop_run_memory(settings, tmp_path / "two")
    assert spaces(tmp_path / "both") == {}


def test_two_live_runs_in_one_directory_see_their_own_earlier_trials_and_none_of_the_others(tmp_path: Path) -> None:
    settings = config(backend=f"chroma:{tmp_path / 'both'}", scope="tasks", visible="live", tasks=5)

    def writer(name: str) -> ScriptedPolicy:
        return ScriptedPolicy(lambda m, s: f"<remark>{name} says so</remark>" if is_reflection(m) else "?")

    for name in ("one", "two"):
        policy = writer(name)
        run(settings, tmp_path / name, policy, concurrency=1)
        prompts = "\n".join(message["content"] for messages in policy.seen for message in messages)
        assert f"{name} says so" in prompts
        assert not any(f"{other} says so" in prompts for other in {"one", "two"} - {name})
    assert foreign(tmp_path / "one") != []  # what earlier trials of the run wrote
    assert reads(tmp_path / "one") == reads(tmp_path / "two")
    found = spaces(tmp_path / "both")
    assert len({name[:2] for name in found}) == 2


def test_a_memory_that_could_not_be_dropped_is_dropped_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(backend=f"chroma:{tmp_path / 'both'}", scope="trial", tasks=2)
    run(settings, tmp_path / "one")

    def gone(*_: Any, **__: Any) -> None:
        raise MemoryBackendError("as provoked")

    monkeypatch.setattr("lamer_graph.collection.run_memory.forget", gone)
    with pytest.raises(MemoryBackendError, match="as provoked"):
        drop_run_memory(settings, tmp_path / "one")
    monkeypatch.undo()
    drop_run_memory(settings, tmp_path / "one")
    assert spaces(tmp_path / "both") == {}


def test_two_runs_play_in_one_directory_at_once(tmp_path: Path) -> None:
    settings = config(backend=f"chroma:{tmp_path / 'both'}", scope="tasks", tasks=6)

    async def main() -> None:
        folders = (tmp_path / "one", tmp_path / "two")
        await asyncio.gather(*(collect(settings, ScriptedPolicy(random_player), folder) for folder in folders))

    asyncio.run(main())
    assert reads(tmp_path / "one") == reads(tmp_path / "two")
    assert foreign(tmp_path / "one") == []
    assert len({name[:2] for name in spaces(tmp_path / "both")}) == 2


def test_a_run_of_before_runs_could_share_a_directory_is_played_on_and_read(tmp_path: Path) -> None:
    settings = config(backend=f"chroma:{tmp_path / 'both'}", scope="tasks", tasks=4)
    run(settings, tmp_path / "new")
    run(settings, tmp_path / "old")
    note = json.loads((tmp_path / "old" / "memory.json").read_bytes())
    memory = ChromaMemory(tmp_path / "both")
    memory.put(("lamer",), read_all(memory, tuple(note["namespace"]))[::-1])
    forget(memory, tuple(note["namespace"]))
    memory.close()
    (tmp_path / "old" / "memory.json").write_text(json.dumps({**note, "namespace": ["lamer"]}))
    run(settings, tmp_path / "old", resume=True)
    after = config(scope="tasks", split="test", tasks=2, store="../old")
    run(after, tmp_path / "after")
    assert copied_of(tmp_path / "after") == sum(len(set(keys)) for keys in written(tmp_path / "old").values())
    (tmp_path / "old" / "memory.json").unlink()  # as with scope "trial"
    run(after, tmp_path / "again")
    assert copied_of(tmp_path / "again") == copied_of(tmp_path / "after")


# -- on a server ------------------------------------------------------------------------------------------------------


def test_runs_on_one_server_do_not_meet_and_the_processes_of_one_run_do(
    tmp_path: Path, server: Server, earlier: Path
) -> None:
    settings = config(backend=f"chroma:{server.url}", scope="tasks", visible="live", tasks=4)
    run(settings, tmp_path / "one", concurrency=1)
    run(settings, tmp_path / "other", concurrency=1)
    assert reads(tmp_path / "one") == reads(tmp_path / "other")
    frozen = config(backend=f"chroma:{server.url}", scope="tasks", split="test", store=str(earlier), tasks=6)
    run(frozen, tmp_path / "whole")
    for index in range(2):
        run(frozen, tmp_path / "parts", resume=True, shard=Shard(index, 2))
    assert reads(tmp_path / "parts") == reads(tmp_path / "whole")


def test_a_memory_on_a_server_goes_on_and_is_dropped_there(tmp_path: Path, server: Server) -> None:
    first = config(backend=f"chroma:{server.url}", scope="tasks", tasks=4)
    run(first, tmp_path / "0", heritage=ALL)
    second = first.model_copy(update={"skip": 4, "store": "../0"})
    run(second, tmp_path / "1", heritage=ALL)
    assert foreign(tmp_path / "1") != []
    drop_run_memory(first, tmp_path / "0")
    memory = ChromaMemory(server.url)
    left = {one.key.rsplit("/", 2)[0] for space in all_namespaces(memory) for one in read_all(memory, space)}
    of_1 = set(reads(tmp_path / "1")) | {key.rsplit("/", 2)[0] for key in foreign(tmp_path / "1")}
    assert of_1 <= left
    drop_run_memory(second, tmp_path / "1")
    assert all_namespaces(memory) == []
    memory.close()
    with pytest.raises(ConfigError, match="has no memory at"):
        run(second.model_copy(update={"skip": 8, "store": "../1"}), tmp_path / "2", heritage=ALL)


def test_a_server_that_dies_in_mid_collection_fails_trials_with_its_name_and_never_the_run(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ChromaMemory.__init__.__kwdefaults__, "retry_s", 0.5)
    settings = config(backend=f"chroma:{server.url}", contents="both", tasks=30)
    reflections = 0

    def killing(messages: Any, sampling: Any) -> str:
        nonlocal reflections
        reflections += is_reflection(messages)
        if reflections == 20 and server.process is not None:
            os.kill(server.process.pid, signal.SIGKILL)
            server.stop()
        return random_player(messages, sampling)

    done = run(settings, tmp_path / "run", ScriptedPolicy(killing), concurrency=6)
    assert server.process is None
    assert done.finished + done.failed == 30
    assert done.failed > 0
    assert done.finished > 0
    errors = [trial["error"] for trial in read_trials(tmp_path / "run") if trial["error"]]
    assert {error["type"] for error in errors} == {"MemoryServerError"}
    assert all(server.url in error["message"] for error in errors)
    server.start()
    again = run(settings, tmp_path / "run", resume=True)
    assert (again.already, again.finished, again.missing) == (done.finished, done.failed, 0)
    run(settings.model_copy(update={"backend": "in-context"}), tmp_path / "undisturbed")
    assert reads(tmp_path / "run") == reads(tmp_path / "undisturbed")


def test_a_langgraph_store_in_postgres_keeps_a_runs_memory_and_fills_anothers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pgserver, psycopg = pytest.importorskip("pgserver"), pytest.importorskip("psycopg")
    database = pgserver.get_server(tmp_path / "postgres")
    try:
        settings = config(backend=f"store:{database.get_uri()}", scope="tasks", tasks=6)
        run(settings, tmp_path / "first")
        assert foreign(tmp_path / "first") == []
        run(settings.model_copy(update={"split": "test", "store": "../first"}), tmp_path / "second")
        assert copied_of(tmp_path / "second") > 0
        warmed = {trial["trial_id"] for trial in read_trials(tmp_path / "first")}
        assert {key.rsplit("/", 2)[0] for key in foreign(tmp_path / "second")} <= warmed
        assert foreign(tmp_path / "second") != []
        note = json.loads((tmp_path / "second" / "memory.json").read_bytes())
        with closing(open_run_memory(settings, tmp_path / "second")) as ranked:
            found = ranked.opened.search(tuple(note["namespace"]), query="? ? 1")
            assert all(entry.score is not None for entry in found)
        assert caplog.records == []
        # A run of before such a store had an index goes on with the newest, and says so.
        (tmp_path / "second" / "memory.json").write_text(
            json.dumps({name: value for name, value in note.items() if name != "embedder"})
        )
        with psycopg.connect(database.get_uri()) as connection:
            connection.execute("DELETE FROM store WHERE prefix = 'lamer-memory-note'")
        with closing(open_run_memory(settings, tmp_path / "second")) as older:
            found = older.opened.search(tuple(note["namespace"]), query="? ? 1")
            assert [entry.score for entry in found] == [None] * 10
        assert [said.getMessage()[:26] for said in caplog.records] == ["PostgresStore has no index"]
    finally:
        database.cleanup()


def test_a_keeper_of_the_folder_that_dies_fails_trials_and_never_the_run(tmp_path: Path) -> None:
    settings = config(contents="both", tasks=30)
    reflections = 0

    def killing(messages: Any, sampling: Any) -> str:
        nonlocal reflections
        reflections += is_reflection(messages)
        if reflections == 20 and chroma_process._current is not None:
            chroma_process._current._process.kill()
        return random_player(messages, sampling)

    done = run(settings, tmp_path / "run", ScriptedPolicy(killing), concurrency=6)
    assert done.finished + done.failed == 30
    assert done.failed > 0
    errors = [trial["error"] for trial in read_trials(tmp_path / "run") if trial["error"]]
    assert {error["type"] for error in errors} == {"MemoryServerError"}
    assert all("exit status -9" in error["message"] for error in errors)
    again = run(settings, tmp_path / "run", resume=True)
    assert (again.already, again.finished, again.missing) == (done.finished, done.failed, 0)
    run(settings.model_copy(update={"backend": "in-context"}), tmp_path / "undisturbed")
    assert reads(tmp_path / "run") == reads(tmp_path / "undisturbed")
