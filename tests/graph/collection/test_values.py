"""What a run's trials come to is noted at the records that they saw, and decides what later ones see."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chroma_server import Server
from lamer_graph.collection.collect import Shard
from lamer_graph.collection.config import CollectConfig
from lamer_graph.collection.run_memory import Heritage
from lamer_graph.collection.values import outcomes_of, settle_run
from lamer_graph.errors import PolicyConnectionError
from lamer_graph.runlog import check, read_trials
from lamer_memory import MemoryConfigError, value_of
from lamer_memory.utility import held_back
from memory_runs import config, kept, run
from scripted import ScriptedPolicy, cautious_player, is_reflection

OTHER = "Another task, "
BOARD = {"env": "minesweeper:5x5-1", "scope": "tasks"}


def misled(messages: Any, sampling: Any) -> str:
    """Plays well, but nonsense where it reads of another task."""
    if not is_reflection(messages) and OTHER in messages[-1]["content"]:
        return "<action>as they did</action>"
    return cautious_player(messages, sampling)


def helped(messages: Any, sampling: Any) -> str:
    """Plays nonsense, but well where it reads of another task."""
    if is_reflection(messages) or OTHER in messages[-1]["content"]:
        return cautious_player(messages, sampling)
    return "<action>where to begin</action>"


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A memory of 12 tasks, whose records nobody has measured."""
    run(config(**BOARD, max_episodes=2), tmp_path / "filled", ScriptedPolicy(helped))
    return tmp_path / "filled"


def measuring(filled: Path, **changes: Any) -> CollectConfig:
    split = {"split": "val", "tasks": 12, "trials": 4, "store": str(filled), "max_episodes": 1}
    return config(**{**BOARD, **split, "control": 0.5, **changes})


def values(folder: Path) -> dict[str, Any]:
    return {key: value_of(record) for key, record in kept(folder).items()}


def others_seen(folder: Path) -> Counter[bool]:
    """Of all trials, how many saw a record of another task."""
    found: Counter[bool] = Counter()
    for trial in read_trials(folder):
        own = f"{trial['trial_id']}/"
        found[any(not key.startswith(own) for read in trial["memory_reads"] for key in read["keys"])] += 1
    return found


def test_half_of_each_tasks_trials_see_nothing_of_other_tasks_and_the_log_says_what_they_would_have(
    tmp_path: Path, filled: Path
) -> None:
    settings = measuring(filled)
    run(settings, tmp_path / "run", ScriptedPolicy(misled))
    assert check(tmp_path / "run").ok
    groups: dict[str, list[Any]] = {}
    for trial in read_trials(tmp_path / "run"):
        (read,) = trial["memory_reads"]
        held = held_back(0.5, settings.seed, trial["task"]["id"], trial["trial"])
        assert (len(read["keys"]), len(read.get("held", []))) == ((0, 3) if held else (3, 0))
        groups.setdefault(trial["task"]["id"], []).append(tuple(read.get("held") or read["keys"]))
    assert all(len(group) == 4 and len(set(group)) == 1 for group in groups.values()), "all look up the same"


@pytest.mark.parametrize(("player", "sign"), [(misled, -1), (helped, 1)])
def test_records_get_the_value_that_they_have_and_the_next_run_acts_on_it(
    tmp_path: Path, filled: Path, player: Any, sign: int
) -> None:
    run(measuring(filled), tmp_path / "measured", ScriptedPolicy(player))
    known = {key: value for key, value in values(tmp_path / "measured").items() if value.known}
    assert len(known) >= 3
    assert all(value.controlled and value.mean * sign > 0.2 for value in known.values())
    assert not any(value.known for value in values(filled).values()), "a store that fills another is only read"
    later = {"store": str(tmp_path / "measured"), "control": 0.0, "trials": 1, "tasks": 30, "split": "test"}
    run(measuring(filled, **later, select="value"), tmp_path / "later", ScriptedPolicy(player))
    share = others_seen(tmp_path / "later")[True] / 30
    assert share < 0.25 if sign < 0 else share == 1
    run(measuring(filled, **later), tmp_path / "similar", ScriptedPolicy(player))
    assert others_seen(tmp_path / "similar")[True] == 30


def test_values_are_the_same_however_often_the_run_was_cut_short_and_resumed(tmp_path: Path, filled: Path) -> None:
    settings = measuring(filled)
    run(settings, tmp_path / "whole", ScriptedPolicy(misled), concurrency=1)
    calls = 0

    def failing(messages: Any, sampling: Any) -> str:
        nonlocal calls
        calls += 1
        if calls % 37 == 0:
            raise PolicyConnectionError("gone")
        return misled(messages, sampling)

    for _ in range(4):  # values are noted after each: what is missing is played again, and noted again
        run(settings, tmp_path / "resumed", ScriptedPolicy(failing), resume=True)
    run(settings, tmp_path / "resumed", ScriptedPolicy(misled), resume=True)
    settle_run(settings, tmp_path / "resumed")
    assert values(tmp_path / "resumed") == values(tmp_path / "whole")
    assert any(value.known for value in values(tmp_path / "whole").values())


def test_values_go_on_from_run_to_run_and_are_counted_on(tmp_path: Path, filled: Path) -> None:
    heritage = Heritage(1000, None)
    run(measuring(filled), tmp_path / "one", ScriptedPolicy(misled), heritage=heritage)
    first = {key: value.n for key, value in values(tmp_path / "one").items() if value.known}
    again = measuring(filled, store=str(tmp_path / "one"))
    run(again, tmp_path / "two", ScriptedPolicy(misled), heritage=heritage)
    second = {key: value.n for key, value in values(tmp_path / "two").items() if key in first}
    assert len(second) >= 3, "those of equal words are one"
    assert second == {key: 2 * first[key] for key in second}


def test_a_run_that_holds_nothing_back_measures_from_its_mean_and_says_that_it_is_no_comparison(
    tmp_path: Path, filled: Path
) -> None:
    run(measuring(filled, control=0.0, select="ucb"), tmp_path / "run", ScriptedPolicy(helped))
    known = [value for value in values(tmp_path / "run").values() if value.known]
    assert known
    assert not any(value.controlled for value in known)


def test_outcomes_do_not_depend_on_the_order_of_the_log(tmp_path: Path, filled: Path) -> None:
    run(measuring(filled), tmp_path / "run", ScriptedPolicy(misled))
    trials = list(read_trials(tmp_path / "run"))

    def found(some: list[Any]) -> dict[str, Any]:
        told = outcomes_of(some, 4, controlled=True)
        return {key: (sorted(one.shown), sorted(one.held)) for key, one in told.items()}

    assert found(trials) == found(trials[::-1])


# -- as it is played --------------------------------------------------------------------------------------------------


def test_a_live_memory_learns_values_while_it_is_played(tmp_path: Path) -> None:
    live = config(**BOARD, tasks=40, visible="live", select="value", control=0.25, max_episodes=2)
    run(live, tmp_path / "run", ScriptedPolicy(misled), concurrency=1)
    assert any(value.known for value in values(tmp_path / "run").values())
    seen = []
    for trial in read_trials(tmp_path / "run"):
        own = f"{trial['trial_id']}/"
        seen.append(any(not key.startswith(own) for key in trial["memory_reads"][0]["keys"]))
    assert sum(seen[30:]) < sum(seen[1:11])


def test_trials_that_are_played_together_on_one_server_are_all_counted_and_none_twice(
    tmp_path: Path, server: Server
) -> None:
    """They enter what they came to at the same records; each record ends at the sum of all entries."""
    live = config(**BOARD, tasks=12, trials=4, backend=f"chroma:{server.url}", visible="live", control=0.5)
    run(live, tmp_path / "run", ScriptedPolicy(misled), concurrency=8)
    again = run(live, tmp_path / "run", ScriptedPolicy(misled), resume=True)
    assert again.finished == 0
    looked_up: Counter[str] = Counter()
    for trial in read_trials(tmp_path / "run"):
        own = f"{trial['trial_id']}/"
        for key in {k for read in trial["memory_reads"] for k in (*read["keys"], *read.get("held", ()))}:
            looked_up[key] += not key.startswith(own)
    from lamer_memory import ChromaMemory
    from lamer_memory.hygiene import all_namespaces, read_all

    memory = ChromaMemory(server.url)
    found = {r.key: value_of(r).n for space in all_namespaces(memory) for r in read_all(memory, space)}
    memory.close()
    assert {key: n for key, n in found.items() if n} == {key: n for key, n in looked_up.items() if n and key in found}


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"select": "value"}, {"control": 0.5}, {"lessons": "all"}])
def test_what_is_about_other_tasks_is_refused_where_they_are_not_seen(tmp_path: Path, changes: Any) -> None:
    with pytest.raises(MemoryConfigError, match="and scope 'trial' exclude each other"):
        run(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_shard_leaves_the_values_to_whoever_sees_the_whole_log(tmp_path: Path, filled: Path) -> None:
    settings = measuring(filled)
    run(settings, tmp_path / "run", ScriptedPolicy(misled), shard=Shard(0, 2))
    assert not any(value.known for value in values(tmp_path / "run").values())
    run(settings, tmp_path / "run", ScriptedPolicy(misled), shard=Shard(1, 2), resume=True)
    settle_run(settings, tmp_path / "run")
    assert any(value.known for value in values(tmp_path / "run").values())


# -- lessons of successes ---------------------------------------------------------------------------------------------


def winner(messages: Any, sampling: Any) -> str:
    """Plays well, and says of an attempt whether it was told that it had succeeded."""
    if is_reflection(messages):
        return f"<remark>{'again' if 'has succeeded' in messages[-1]['content'] else 'otherwise'}</remark>"
    return cautious_player(messages, sampling)


@pytest.mark.parametrize("through_graph", [False, True])
def test_a_won_trial_is_reflected_on_where_that_is_asked_for_and_other_tasks_see_it(
    tmp_path: Path, through_graph: bool
) -> None:
    settings = config(**BOARD, lessons="all", contents="both")
    run(settings, tmp_path / "run", ScriptedPolicy(winner), through_graph=through_graph)
    assert check(tmp_path / "run").ok
    trials = list(read_trials(tmp_path / "run"))
    assert sum(trial["success"] for trial in trials) >= 3
    for trial in trials:
        said = [made["text"] for made in trial["reflections"]]
        failed = len(trial["episodes"]) - trial["success"]
        assert said[:failed] == ["otherwise"] * min(failed, 2)
        assert said[failed:] == ["again"] * trial["success"]
    told = {record.key: record for record in kept(tmp_path / "run").values() if record.text == "again"}
    assert len(told) == sum(trial["success"] for trial in trials)
    assert all(record.success and record.kind == "reflection" for record in told.values())
    later = config(**BOARD, split="test", tasks=4, store=str(tmp_path / "run"), outcomes="solved")
    run(later, tmp_path / "later", ScriptedPolicy(winner))
    shown = {key for trial in read_trials(tmp_path / "later") for key in trial["memory_reads"][0]["keys"]}
    assert shown & set(told)


def test_a_reflection_on_a_win_is_no_sample_of_its_own_trial(tmp_path: Path) -> None:
    from lamer_trainers.learning.samples import samples_of

    run(config(**BOARD, lessons="all"), tmp_path / "run", ScriptedPolicy(winner))
    run(config(**BOARD), tmp_path / "plain", ScriptedPolicy(winner))
    with_lessons, without = (samples_of(read_trials(tmp_path / name)) for name in ("run", "plain"))
    assert sorted(one.place for one in with_lessons) == sorted(one.place for one in without)
