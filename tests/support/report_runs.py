"""Runs on disk for tests of the page: trials that were really played, by a player who needs no policy."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lamer_envs import make

Json = dict[str, Any]
ENV = "minesweeper:4x4-3"
CONFIG: Json = {
    "env": ENV,
    "policy": "player",
    "split": "test",
    "tasks": 6,
    "contents": "reflection",
    "max_episodes": 3,
    "prompt_style": "compact",
}
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> javascript:alert(3) \u202etxt.exe\u202c \u2028 ]]>"
)


def a_call(text: str, observation: int = 1, version: str = "player", dropped: int = 0) -> Json:
    """A call whose tokens are the bytes of its text, drawn with ever smaller probability."""
    ids = list(text.encode()[:40]) or [0]
    return {
        "messages": [["system", 0], ["user", observation]],
        "prompt_token_ids": [1, 2, 3],
        "token_ids": ids,
        "logprobs": [-0.05 * place for place in range(len(ids))],
        "policy_version": version,
        "finish_reason": "stop",
        "seed": 2**62 + 1,
        "dropped": dropped,
        "seconds": 0.01,
    }


def played(
    seed: int,
    index: int = 0,
    *,
    env: str = ENV,
    episodes: int = 3,
    remark: str = "mind the corner",
    version: str = "player",
    dropped: int = 0,
    good: bool | None = None,
    error: str | None = None,
) -> Json:
    """A trial of random play; with `good` the expert's, from the episode on that the index says."""
    rng = random.Random(f"{seed} {index}")
    board = make(env)
    start = board.reset(seed)
    task = f"{board.spec}/{seed}"
    name = f"{task}#{index}"
    texts: list[str] = ["the rules"]
    made, reflections, reads, writes = [], [], [], []
    for number in range(episodes):
        state, turns, won, done = start, [], False, False
        plan = board.solve(start) if good and number >= index % episodes else None
        while not done and len(turns) < board.max_turns:
            choices = board.admissible(state)
            action = plan[len(turns)] if plan else rng.choice([*choices, "(9, 9)"])
            observation = board.observe(state)
            texts.append(f"Episode {number + 1} turn {len(turns) + 1}\n{observation}")
            step = board.step(state, action)
            text = f"<action>{action}</action>"
            call = a_call(text, len(texts) - 1, version, dropped)
            turns.append(
                {"observation": observation, "action": action, "reward": step.reward, "valid": step.valid}
                | {"text": text, "call": call}
            )
            state, won, done = step.state, step.success, step.done
        reward = sum(turn["reward"] for turn in turns)
        made.append({"turns": turns, "success": won, "reward": reward, "truncated": not done})
        keys = [f"{name}/{past}/reflection" for past in range(number)]
        reads.append({"episode": number, "keys": keys, "seconds": 0.001})
        if won or number + 1 == episodes:
            break
        said = f"{remark}, attempt {number + 1}"
        reflections.append({"episode": number, "text": said, "valid": True, "call": a_call(said, 1, version)})
        writes.append({"episode": number, "keys": [f"{name}/{number}/reflection"]})
    return {
        "schema_version": 1,
        "trial_id": name,
        "task": {"id": task, "env": board.spec, "seed": seed, "instance": None, "split": "test"},
        "trial": index,
        "config_hash": "0" * 16,
        "memory": {"contents": "reflection", "backend": "in-context", "scope": "trial", "k": 3, "max_chars": 2000},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64, "seed": 0},
        "texts": texts,
        "episodes": made,
        "reflections": reflections,
        "memory_reads": reads,
        "memory_writes": writes,
        "success": any(episode["success"] for episode in made),
        "timings": {"started": "2026-11-03T10:00:00.000000+00:00", "seconds": 1.5, "policy_seconds": 1.2},
        "error": None if error is None else {"type": error, "message": "the server is gone", "episode": 0, "turn": 1},
    }


def written(folder: Path, trials: Iterable[Json], **config: Any) -> Path:
    """A run with these trials, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"schema_version": 1, "config": {**CONFIG, **config}, "sampled_by": []}
    (folder / "run.json").write_text(json.dumps(told))
    with (folder / "trials.jsonl").open("wb") as file:
        for trial in trials:
            file.write(line(trial))
    return folder


def line(trial: Json) -> bytes:
    return json.dumps(trial, ensure_ascii=False).encode() + b"\n"


def add(folder: Path, trials: Sequence[Json]) -> None:
    """What a run that goes on writes."""
    with (folder / "trials.jsonl").open("ab") as file:
        for trial in trials:
            file.write(line(trial))


def a_training(folder: Path, updates: int = 4, tasks: int = 2, group: int = 3) -> Path:
    """A training's folder: a log for every update, and a line of metrics."""
    folder.mkdir(parents=True)
    optimise = {"updates": 2 * updates, "algorithm": "gigpo", "normalise": "mean", "gamma_step": 0.9, "credit": "paper"}
    collect = {**CONFIG, "split": "train", "trials": group}
    (folder / "run.json").write_text(json.dumps({"collect": collect, "optimise": optimise}))
    for number in range(updates):
        place = folder / "collected" / f"update-{number:05d}"
        trials = [
            played(10 * number + task, index, good=True, version=f"policy-v{number:04d}")
            for task in range(tasks)
            for index in range(group)
        ]
        written(place, trials)
        an_update(folder, number + 1)
    return folder


def an_update(folder: Path, update: int, **more: Any) -> None:
    """The line of metrics of an update that has ended."""
    shares = {f"batch/pass@{k}": min(1.0, 0.2 * k + 0.05 * update) for k in (1, 2, 3)}
    told = {"update": update, **shares, "loss": -0.01 * update, "entropy": math.exp(-update / 9), "batch/invalid": 0.1}
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(json.dumps(told | more).encode() + b"\n")
