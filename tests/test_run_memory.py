"""A run's own memory: filled before it begins, fixed or live while it plays, the same again when it resumes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from chroma_server import Server
from scripted import ScriptedPolicy, is_reflection, memory_lines, random_player

from lamer_graph.collect import CollectConfig, CollectSummary, Shard, collect
from lamer_graph.errors import ConfigError, PolicyConnectionError
from lamer_graph.run_memory import copied_of
from lamer_graph.runlog import check, read_config, read_trials
from lamer_memory import ChromaMemory, MemoryConfigError, make_record
from lamer_memory.hygiene import all_namespaces, read_all


def config(**changes: Any) -> CollectConfig:
    return CollectConfig(env="minesweeper:4x4-3", **{"tasks": 12, "backend": "chroma", **changes})


def run(settings: CollectConfig, folder: Path, policy: ScriptedPolicy | None = None, **options: Any) -> CollectSummary:
    return asyncio.run(collect(settings, policy or ScriptedPolicy(random_player), folder, **options))


def reads(folder: Path) -> dict[str, list[list[str]]]:
    """Per trial, the keys that each episode saw."""
    return {
        trial["trial_id"]: [read["keys"] for read in trial["memory_reads"]]
        for trial in read_trials(folder)
        if trial["error"] is None
    }


def foreign(folder: Path) -> list[str]:
    """Every key that a trial saw of another trial."""
    return [
        key
        for trial_id, episodes in reads(folder).items()
        for keys in episodes
        for key in keys
        if not key.startswith(f"{trial_id}/")
    ]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 training tasks that remembered for other tasks."""
    folder = tmp_path_factory.mktemp("runs") / "earlier"
    run(config(scope="tasks"), folder)
    return folder


# -- what is seen -----------------------------------------------------------------------------------------------------


def test_the_trials_of_a_run_see_nothing_of_each_other_unless_it_is_live(tmp_path: Path, earlier: Path) -> None:
    assert foreign(earlier) == []
    run(config(scope="tasks", visible="live"), tmp_path / "live", concurrency=1)
    assert foreign(tmp_path / "live") != []
    run(config(scope="tasks", trials=4, tasks=3, visible="live"), tmp_path / "group", concurrency=4)
    for trial in read_trials(tmp_path / "group"):
        own, task = trial["trial_id"], trial["task"]["id"]
        seen = [key for read in trial["memory_reads"] for key in read["keys"]]
        assert all(key.startswith(f"{own}/") or not key.startswith(f"{task}#") for key in seen)


def test_a_filled_memory_is_seen_from_the_first_episode_and_its_store_stays_as_it_was(
    tmp_path: Path, earlier: Path
) -> None:
    settings = config(scope="tasks", split="test", store=str(earlier), k=2)
    policy = ScriptedPolicy(random_player)

    def records() -> list[Any]:
        memory = ChromaMemory(earlier / "memory")
        found = [record for space in all_namespaces(memory) for record in read_all(memory, space)]
        memory.close()
        return found

    before = records()
    run(settings, tmp_path / "run", policy)
    assert records() == before
    assert copied_of(tmp_path / "run") == len(before) > 0
    assert read_config(tmp_path / "run")["store"] == str(earlier)
    first = [episodes[0] for episodes in reads(tmp_path / "run").values()]
    assert {len(keys) for keys in first} == {2}
    assert set(foreign(tmp_path / "run")) <= {record.key for record in before}
    shown = {line for messages in policy.seen for message in messages for line in memory_lines(message["content"])}
    assert shown & {record.text for record in before}


def test_what_is_seen_depends_neither_on_concurrency_nor_on_a_resume(tmp_path: Path, earlier: Path) -> None:
    settings = config(scope="tasks", split="test", store=str(earlier))
    run(settings, tmp_path / "whole", concurrency=1)
    calls = 0

    def failing(messages: Any, sampling: Any) -> str:
        nonlocal calls
        calls += 1
        if calls > 60:
            raise PolicyConnectionError("gone")
        return random_player(messages, sampling)

    done = run(settings, tmp_path / "resumed", ScriptedPolicy(failing), concurrency=5)
    assert 0 < done.failed < 12
    run(settings, tmp_path / "resumed", resume=True, concurrency=12)
    assert reads(tmp_path / "resumed") == reads(tmp_path / "whole")


def test_the_graph_sees_the_same_memory_as_the_bulk_driver(tmp_path: Path, earlier: Path) -> None:
    settings = config(scope="tasks", split="test", store=str(earlier), tasks=6)
    for through_graph in (False, True):
        run(settings, tmp_path / str(through_graph), through_graph=through_graph)
    assert reads(tmp_path / "True") == reads(tmp_path / "False")
    assert foreign(tmp_path / "True") != []


def test_every_read_is_timed(earlier: Path) -> None:
    assert check(earlier).ok
    seconds = [read["seconds"] for trial in read_trials(earlier) for read in trial["memory_reads"]]
    assert min(seconds) > 0


def test_a_chroma_directory_fills_a_memory_too(tmp_path: Path) -> None:
    memory = ChromaMemory(tmp_path / "store")
    memory.put(("anyone",), [make_record("x#0", "x", 0, "reflection", "look at the corners first", False)])
    memory.close()
    run(config(scope="tasks", store="../store", tasks=2), tmp_path / "run")
    assert set(foreign(tmp_path / "run")) == {"x#0/0/reflection"}


def test_a_run_of_before_these_settings_is_still_the_same_run(tmp_path: Path) -> None:
    plain = CollectConfig(env="minesweeper:4x4-3", tasks=2)
    assert not {"store", "visible"} & set(plain.model_dump(mode="json"))
    live = config(scope="tasks", visible="live")
    assert CollectConfig.model_validate(live.model_dump(mode="json")) == live


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "in-context", "scope": "tasks"}, "backend 'in-context' and scope 'tasks' exclude each other"),
        ({"visible": "live"}, "visible 'live' and scope 'trial' exclude each other"),
        ({"store": "x"}, "store 'x' and scope 'trial' exclude each other"),
        ({"contents": "none", "scope": "tasks"}, "contents 'none' and scope 'tasks' exclude each other"),
        ({"backend": "store"}, "needs an address"),
        ({"backend": "store:postgresql://me:secret@host/db"}, "PGPASSWORD"),
        ({"backend": "chromo"}, "did you mean 'chroma'"),
    ],
)
def test_what_cannot_work_is_refused_by_name_and_leaves_no_folder(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, MemoryConfigError), match=message) as refused:
        run(config(**changes), tmp_path / "run")
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("store", ["nowhere", "empty", "forgetful"])
def test_a_store_that_is_none_is_an_error_and_nothing_is_played(tmp_path: Path, store: str) -> None:
    (tmp_path / "empty").mkdir()
    run(config(backend="in-context", tasks=1), tmp_path / "forgetful")
    policy = ScriptedPolicy(random_player)
    with pytest.raises(ConfigError, match=r"chroma|Chroma"):
        run(config(scope="tasks", store=f"../{store}"), tmp_path / "run", policy)
    assert policy.seen == []


# -- on a server ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Any:
    running = Server(tmp_path / "server")
    yield running
    running.stop()


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


def test_a_langgraph_store_in_postgres_keeps_a_runs_memory_and_fills_anothers(tmp_path: Path) -> None:
    pgserver = pytest.importorskip("pgserver")
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
    finally:
        database.cleanup()
