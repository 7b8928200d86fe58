"""A run log as a Parquet table: one row per policy call, written through `datasets`.

What must stay true: a row carries the exact tokens and logprobs of the log, in the order of the log, and the file
appears whole or not at all. Turns that no policy was called for have no row. Memory use does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value

from lamer_graph.errors import RunLogError
from lamer_graph.runlog.files import reason_of, replacing
from lamer_graph.runlog.lines import read_trials, well_formed

CHUNK = 1000
"""Rows that are in memory at once."""

FEATURES = Features(
    {
        "trial_id": Value("string"),
        "task_id": Value("string"),
        "env": Value("string"),
        "seed": Value("int64"),
        "split": Value("string"),
        "trial": Value("int64"),
        "config_hash": Value("string"),
        "contents": Value("string"),
        "kind": Value("string"),  # "action" or "reflection"
        "episode": Value("int64"),
        "turn": Value("int64"),  # null for a reflection
        "messages": List({"role": Value("string"), "content": Value("string")}),
        "text": Value("string"),
        "prompt_token_ids": List(Value("int64")),
        "token_ids": List(Value("int64")),
        "logprobs": List(Value("float64")),
        "policy_version": Value("string"),
        "finish_reason": Value("string"),
        "sampling_seed": Value("int64"),
        "dropped": Value("int64"),
        "observation": Value("string"),  # `Env.observe` before the turn; null for a reflection, like the four below
        "action": Value("string"),
        "valid": Value("bool"),
        "plan": Value("string"),  # of an episode's first turn, with strategy "plan"
        "reward": Value("float64"),
        "episode_success": Value("bool"),
        "trial_success": Value("bool"),
        "error": Value("string"),  # the type of the error that ended the trial; its calls may be in a later trial again
        "branch": Value("string"),  # a re-roll's: "TRIAL_ID EPISODE.TURN" where it was begun; null of all others
        "extra": Value("string"),  # the user's own fields as JSON; null where there are none
    }
)


def call_rows(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a run: per trial its turns in order, each episode's followed by the reflection on it."""
    for trial in read_trials(folder):
        reflections = {reflection["episode"]: reflection for reflection in trial["reflections"]}
        for number, episode in enumerate(trial["episodes"]):
            for position, turn in enumerate(episode["turns"]):
                if turn["call"] is not None:
                    answer = {name: turn[name] for name in ("text", "observation", "action", "valid", "reward")}
                    told = {"turn": position, **answer, "plan": turn.get("plan")}
                    yield {**_row(trial, number, turn["call"]), "kind": "action", **told}
            reflection = reflections.get(number)
            if reflection is not None and reflection["call"] is not None:
                blank = dict.fromkeys(("turn", "observation", "action", "valid", "plan", "reward"))
                row = _row(trial, number, reflection["call"])
                yield {**row, "kind": "reflection", "text": reflection["text"], **blank}


def export_parquet(folder: str | Path, out: str | Path) -> int:
    """Write all policy calls of the run in `folder` to the Parquet file `out`, replacing it; the number of rows.

    `datasets.load_dataset("parquet", data_files=out)` reads it back with these features. Raises RunLogError where the
    log is missing or damaged, or `out` cannot be written.
    """
    out = Path(out)
    rows, count = call_rows(folder), 0
    try:
        with well_formed(folder), replacing(out) as partial, pq.ParquetWriter(partial, FEATURES.arrow_schema) as writer:
            while chunk := list(islice(rows, CHUNK)):
                writer.write_table(_table(chunk))
                count += len(chunk)
    except OSError as error:
        raise RunLogError(f"cannot write {out} ({reason_of(error)}); choose another file") from error
    return count


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Raises TypeError for a value that is not of its column's type."""
    try:
        return Dataset.from_list(rows, features=FEATURES).data.table.select(FEATURES.arrow_schema.names)
    except pa.ArrowException as error:
        raise TypeError(str(error)) from error


def _branch(trial: dict[str, Any]) -> str | None:
    begun = trial.get("branch")
    return None if begun is None else f"{begun['trial_id']} {begun['episode']}.{begun['turn']}"


def _row(trial: dict[str, Any], episode: int, call: dict[str, Any]) -> dict[str, Any]:
    texts, task = trial["texts"], trial["task"]
    return {
        "trial_id": trial["trial_id"],
        "task_id": task["id"],
        "env": task["env"],
        "seed": task["seed"],
        "split": task["split"],
        "trial": trial["trial"],
        "config_hash": trial["config_hash"],
        "contents": trial["memory"].get("contents"),
        "episode": episode,
        "messages": [{"role": role, "content": texts[index]} for role, index in call["messages"]],
        "prompt_token_ids": call["prompt_token_ids"],
        "token_ids": call["token_ids"],
        "logprobs": call["logprobs"],
        "policy_version": call["policy_version"],
        "finish_reason": call["finish_reason"],
        "sampling_seed": call["seed"],
        "dropped": call["dropped"],
        "episode_success": trial["episodes"][episode]["success"],
        "trial_success": trial["success"],
        "error": None if trial["error"] is None else trial["error"]["type"],
        "branch": _branch(trial),
        "extra": orjson.dumps(trial["extra"]).decode() if trial.get("extra") else None,
    }
