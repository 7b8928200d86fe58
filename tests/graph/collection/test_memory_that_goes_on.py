"""A run that goes on from another begins with what is left of that one's memory, and a dropped memory is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lamer_graph.collection.run_memory import Heritage, copied_of, drop_run_memory
from lamer_graph.errors import ConfigError, PolicyConnectionError
from lamer_graph.runlog import read_trials
from lamer_memory import ChromaMemory
from lamer_memory.hygiene import read_all
from memory_runs import ALL, config, foreign, kept, reads, run
from scripted import ScriptedPolicy, random_player


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
