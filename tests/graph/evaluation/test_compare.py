"""Memory configurations side by side: identical prompts from every backend, honest differences, costs as logged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import ConfigError, PolicyConnectionError, RunLogError
from lamer_graph.evaluation.compare import compare, configurations
from lamer_graph.evaluation.stats import paired_difference, paired_test
from lamer_graph.runlog import read_trials
from scripted import ScriptedPolicy, memory_lines, random_player


def play(folder: Path, policy: Any = None, **changes: Any) -> Path:
    style = "standard" if policy is None else "compact"
    settings = CollectConfig(env="minesweeper:4x4-3", prompt_style=style, **{"split": "test", "tasks": 20, **changes})
    asyncio.run(collect(settings, policy or ScriptedPolicy(random_player), folder, concurrency=8))
    return folder


def prompts(folder: Path) -> dict[str, list[list[tuple[str, str]]]]:
    """Per trial, the messages of all its calls."""
    found = {}
    for trial in read_trials(folder):
        made = [turn["call"] for episode in trial["episodes"] for turn in episode["turns"]]
        made += [reflection["call"] for reflection in trial["reflections"]]
        found[trial["trial_id"]] = [
            [(role, trial["texts"][index]) for role, index in call["messages"]] for call in made
        ]
    return found


def played(folder: Path) -> dict[str, Any]:
    return {
        trial["trial_id"]: (
            [
                [(turn["action"], turn["reward"], turn["call"]["token_ids"]) for turn in episode["turns"]]
                for episode in trial["episodes"]
            ],
            [reflection["text"] for reflection in trial["reflections"]],
            [read["keys"] for read in trial["memory_reads"]],
        )
        for trial in read_trials(folder)
    }


@pytest.mark.parametrize("contents", ["trajectory", "reflection", "both"])
def test_in_context_and_chroma_ask_the_same_of_the_policy_word_by_word(tmp_path: Path, contents: str) -> None:
    for backend in ("in-context", "chroma"):
        play(tmp_path / backend, contents=contents, backend=backend)
    asked = prompts(tmp_path / "in-context")
    assert asked == prompts(tmp_path / "chroma")
    assert any(memory_lines(text) for calls in asked.values() for call in calls for _, text in call)
    assert played(tmp_path / "in-context") == played(tmp_path / "chroma")
    found = compare({backend: tmp_path / backend for backend in ("in-context", "chroma")})
    assert [one[:3] for one in found.rows[1].differences or []] == [(0, 0, 0)] * 3


def test_a_real_policy_plays_the_same_trials_whatever_the_backend(tmp_path: Path) -> None:
    from lamer_graph.policies.local import LocalPolicy
    from lamer_graph.policies.shipped import shipped_policy

    folder = shipped_policy("minesweeper:4x4-3")
    assert folder is not None
    for backend in ("in-context", "chroma"):
        play(tmp_path / backend, LocalPolicy(folder, deterministic=True), contents="both", backend=backend, tasks=8)
    assert prompts(tmp_path / "in-context") == prompts(tmp_path / "chroma")
    assert played(tmp_path / "in-context") == played(tmp_path / "chroma")


# -- which configurations ---------------------------------------------------------------------------------------------


def test_every_combination_comes_once_and_none_has_neither_backend_nor_scope() -> None:
    made = configurations(["reflection", "none"], ["in-context", "chroma"], ["trial"])
    assert [one.name for one in made] == ["reflection/in-context", "reflection/chroma", "none"]
    made = configurations(["none", "both"], ["chroma"], ["trial", "tasks"])
    assert [one.name for one in made] == ["none", "both/chroma", "both/chroma/tasks"]
    with pytest.raises(ConfigError, match="at least two"):
        configurations(["none"], ["in-context", "chroma"], ["trial", "tasks"])


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_costs_and_success_are_those_of_the_log(tmp_path: Path) -> None:
    for contents in ("none", "both"):
        play(tmp_path / contents, contents=contents, trials=3)
    found = compare({"none": tmp_path / "none", "both": tmp_path / "both"})
    assert found.reference == "none"
    none, both = found.rows
    assert none.differences is None
    assert none.latency_ms is None
    trials = list(read_trials(tmp_path / "both"))
    made = [turn["call"] for trial in trials for episode in trial["episodes"] for turn in episode["turns"]]
    made += [reflection["call"] for trial in trials for reflection in trial["reflections"]]
    solved = sum(trial["success"] for trial in trials)
    assert both.solved == solved > 0
    assert both.prompt_tokens is not None
    assert both.prompt_tokens.value == pytest.approx(sum(len(c["prompt_token_ids"]) for c in made) / len(made))
    tokens = sum(len(call["prompt_token_ids"]) + len(call["token_ids"]) for call in made)
    assert both.tokens_per_solved is not None
    assert both.tokens_per_solved.value == pytest.approx(tokens / solved)
    assert both.seconds_per_solved is not None
    assert both.seconds_per_solved.value == pytest.approx(sum(t["timings"]["seconds"] for t in trials) / solved)
    waits = [read["seconds"] for trial in trials for read in trial["memory_reads"] if read["episode"]]
    assert both.latency_ms is not None
    assert both.latency_ms.reads == len(waits)
    assert 1000 * min(waits) <= both.latency_ms.p50 <= both.latency_ms.p95 <= 1000 * max(waits)
    for k, difference in enumerate(both.differences or []):
        assert difference.value == pytest.approx(both.summary.pass_at[k].value - none.summary.pass_at[k].value)


def test_a_run_that_solved_nothing_has_no_cost_per_solved_trial(tmp_path: Path) -> None:
    lost = ScriptedPolicy(lambda messages, sampling: "<action>nowhere</action>")
    for contents in ("none", "trajectory"):
        play(tmp_path / contents, lost, contents=contents, tasks=3)
    for row in compare({name: tmp_path / name for name in ("none", "trajectory")}).rows:
        assert (row.solved, row.tokens_per_solved, row.seconds_per_solved) == (0, None, None)
        assert row.to_json()["tokens_per_solved"] is None


def test_only_runs_that_differ_in_memory_alone_are_compared(tmp_path: Path) -> None:
    runs = {"base": play(tmp_path / "base", tasks=3), "seed": play(tmp_path / "seed", tasks=3, seed=1)}
    with pytest.raises(ConfigError, match=r"base and seed differ in more than memory: seed is 0 in one and 1"):
        compare(runs)
    runs = {"base": tmp_path / "base", "gone": tmp_path / "gone"}
    with pytest.raises(RunLogError, match="gone"):
        compare(runs)
    with pytest.raises(ConfigError, match=r"'bass' is not among the configurations: base"):
        compare({"base": tmp_path / "base"}, "bass")


def test_trials_that_an_error_ended_are_in_no_number_and_are_counted(tmp_path: Path) -> None:
    calls = 0

    def failing(messages: Any, sampling: Any) -> str:
        nonlocal calls
        calls += 1
        if calls > 60:
            raise PolicyConnectionError("gone")
        return random_player(messages, sampling)

    play(tmp_path / "whole", contents="trajectory")
    settings = CollectConfig(env="minesweeper:4x4-3", split="test", tasks=20, contents="reflection")
    asyncio.run(collect(settings, ScriptedPolicy(failing), tmp_path / "part", concurrency=4))
    found = compare({"whole": tmp_path / "whole", "part": tmp_path / "part"})
    part = found.rows[1]
    assert part.summary.failed_trials > 0
    assert part.summary.trials + part.summary.failed_trials == 20
    assert {one.tasks for one in part.differences or []} == {part.summary.tasks}


# -- the test ---------------------------------------------------------------------------------------------------------

SHARES = st.dictionaries(st.text(max_size=3), st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=12)


@given(ours=SHARES, seed=st.integers(0, 3))
def test_a_p_value_agrees_with_its_interval_and_does_not_care_who_is_first(ours: dict[str, float], seed: int) -> None:
    import random

    rng = random.Random(seed)
    theirs = {task: rng.choice([0.0, 0.5, 1.0]) for task in ours}
    found, turned = paired_test(ours, theirs), paired_test(theirs, ours)
    assert found[:4] == paired_difference(ours, theirs)
    assert found.p == turned.p
    assert 0 < found.p <= 1
    if found.low > 0 or found.high < 0:
        assert found.p <= 0.06  # 2.5 % on a side of 2,000 draws, with one to spare
    if found.low < 0 < found.high:
        assert found.p >= 0.04


def test_a_p_value_is_uniform_enough_where_nothing_differs_and_small_where_much_does() -> None:
    import random

    rng = random.Random(7)
    rejected = 0
    for _ in range(60):
        ours = {str(task): float(rng.random() < 0.4) for task in range(60)}
        theirs = {str(task): float(rng.random() < 0.4) for task in range(60)}
        rejected += paired_test(ours, theirs).p <= 0.05
    assert 1 <= rejected <= 9  # 3 expected
    ours = {str(task): float(task % 10 < 6) for task in range(60)}
    theirs = {str(task): float(task % 10 < 2) for task in range(60)}
    assert paired_test(ours, theirs).p < 0.01
