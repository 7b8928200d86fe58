"""Tasks that come in groups: what is recalled of other tasks is of the same field, of the same household."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lamer_envs import make
from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.runlog import read_trials
from memory_runs import kept
from scripted import ScriptedPolicy, random_player


@pytest.mark.parametrize(
    ("spec", "group"), [("minesweeper:4x4-3-family=0-2", "family"), ("alfworld:t4-pick-house=3", "household")]
)
def test_lessons_of_other_tasks_are_found_by_the_group_that_the_task_is_of(
    tmp_path: Path, spec: str, group: str
) -> None:
    settings = CollectConfig(
        env=spec, tasks=24, max_episodes=2, max_turns=1, backend="chroma", scope="tasks", visible="live", k=2
    )
    asyncio.run(collect(settings, ScriptedPolicy(random_player), tmp_path, concurrency=1))
    env, trials, records = make(spec), list(read_trials(tmp_path)), kept(tmp_path)
    of_trial = {trial["trial_id"]: env.reset(trial["task"]["seed"])[group] for trial in trials}
    assert set(of_trial.values()) == {0, 1, 2}
    for number, trial in enumerate(trials):
        group_s = {
            one["trial_id"] for one in trials[:number] if of_trial[one["trial_id"]] == of_trial[trial["trial_id"]]
        }
        for read in trial["memory_reads"]:
            by = {str(records[key].metadata["trial_id"]) for key in read["keys"]} - {trial["trial_id"]}
            assert len(by & group_s) == min(2, len(group_s))  # of others only what is lacking
