"""Trials in the form of the run log, for tests of the log and of what reads it."""

from pathlib import Path

from lamer_graph.runlog import RunLog, read_trials

CONFIG = {"env": "minesweeper:6x6-3", "episodes": 3, "sampling": {"temperature": 1.0, "top_k": 0}}


def a_call(tokens=(5, 6, 2), texts=(0, 1), version="policy-v0001"):
    return {
        "messages": [["system", texts[0]], ["user", texts[1]]],
        "prompt_token_ids": [1, 2, 3, 4],
        "token_ids": list(tokens),
        "logprobs": [-0.5] * len(tokens),
        "policy_version": version,
        "finish_reason": "stop",
        "seed": 2**61,
        "dropped": 0,
        "seconds": 0.02,
    }


def a_turn(action="(1, 2)", call=True, reward=-0.1):
    return {
        "observation": "? ?\n? ?",
        "action": action,
        "reward": reward,
        "valid": action is not None,
        "text": f"<action>{action}</action>",
        "call": a_call() if call else None,
    }


def a_trial(task="minesweeper:6x6-3#7", index=0, note=""):
    """Two episodes, the first one lost, with a reflection between them."""
    return {
        "trial_id": f"{task}/{index}",
        "task": {"id": task, "env": "minesweeper:6x6-3", "seed": 7, "instance": None, "split": "train"},
        "trial": index,
        "config_hash": "0123456789abcdef",
        "memory": {"contents": "reflection", "backend": "in-context", "scope": "trial", "k": 3, "max_chars": 2000},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64, "seed": None},
        "texts": ["the rules", f"the board {note}"],
        "episodes": [
            {"turns": [a_turn(), a_turn(None)], "success": False, "reward": -0.2, "truncated": True},
            {"turns": [a_turn("(2, 2)", reward=10)], "success": True, "reward": 10, "truncated": False},
        ],
        "reflections": [{"episode": 0, "text": f"mind (1, 2) {note}", "valid": True, "call": a_call((7, 2))}],
        "memory_reads": [{"episode": 1, "keys": [f"{task}/{index}/0/reflection"]}],
        "memory_writes": [{"episode": 0, "keys": [f"{task}/{index}/0/reflection"]}],
        "success": True,
        "timings": {"started": "2026-11-03T10:00:00.000+00:00", "seconds": 1.5, "policy_seconds": 1.2},
        "error": None,
    }


def logged(folder):
    return [(trial["task"]["id"], trial["trial"]) for trial in read_trials(folder)]


def a_named(task, index):
    """The least that a line must say."""
    return {"trial_id": f"{task}#{index}", "task": {"id": task}, "trial": index}


def lines_of(folder):
    return (Path(folder) / "trials.jsonl").read_bytes()


def filled(folder, count=3):
    with RunLog.create(folder, CONFIG) as log:
        for index in range(count):
            log.append(a_trial(index=index))
    return folder
