"""A run's folder: what lies where, whether a run may go on in it, and what a policy's folder needs beside its weights.

What must stay true: a folder never mixes two runs, and a checkpoint counts only if it was written whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from lamer_graph.policies.fingerprint import other_base, record_base
from lamer_graph.runlog import write_atomic
from lamer_trainers.errors import CheckpointError
from lamer_trainers.learning.saving import write_card
from lamer_trainers.runfile import RunFile

RUN, METRICS, CHECKPOINTS, COLLECTED, VALIDATION = "run.json", "metrics.jsonl", "checkpoints", "collected", "validation"


def claim(folder: Path, run: RunFile, resume: bool) -> None:
    """Write the run's description, or compare with the one that is there. Raises CheckpointError.

    A run may go on to more updates than it was begun with; the learning rate is from then on that of the longer run.
    """
    check_folder(folder, run, resume and (folder / RUN).exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / RUN, orjson.dumps(run.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
        record_base(folder, run.base)
    except OSError as error:
        raise CheckpointError(f"the run folder {folder} cannot be used ({error}); choose another") from None


def check_folder(folder: Path, run: RunFile, resume: bool, longer: bool = True) -> None:
    """Raises CheckpointError if the folder holds a run that this one is not a continuation of, `longer` or as long."""
    path, wanted = folder / RUN, run.model_dump(mode="json")
    try:
        if not path.exists():
            if resume:
                raise CheckpointError(f"{folder} holds no run to resume; leave --resume out to start one there")
            return
        # Read as a run file: fields that were added since have their defaults there.
        raw = orjson.loads(path.read_bytes())
        there = RunFile.model_validate(raw).model_dump(mode="json") if isinstance(raw, dict) else raw
    except ValidationError:
        there = raw  # of other settings at any rate; the difference is named below
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the run folder {folder} cannot be used ({error}); choose another") from None
    if not resume:
        raise CheckpointError(f"{folder} already holds a run; continue it with --resume or choose another name")
    there = _lengthened(there, run.optimise.updates) if longer else there
    if there != wanted:
        raise CheckpointError(f"{folder} holds a run of other settings ({_difference(there, wanted)}); name another")
    differing = other_base(folder, Path(run.base))
    if differing is not None:
        raise CheckpointError(
            f"{folder} holds a run that began with another policy than {run.policy} now is (its {differing} differs): "
            "put back the one that it began with, or name another folder"
        )


def _lengthened(there: Any, updates: int) -> Any:
    """The run that is there, if it goes on to so many updates."""
    match there:
        case {"optimise": {"updates": int(begun), **others}} if begun < updates:
            return {**there, "optimise": {"updates": updates, **others}}
    return there


def _difference(there: Any, wanted: Any, place: str = "") -> str:
    """The first place where two JSON values differ."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in {**there, **wanted}:
            if there.get(key) != wanted.get(key):
                return _difference(there.get(key), wanted.get(key), f"{place}.{key}".lstrip("."))
    return f"{place} is {json.dumps(there)} there, {json.dumps(wanted)} here"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole (its state file comes last and is valid JSON), if there is one."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            step = int(json.loads((path / "trainer_state.json").read_text())["global_step"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if path.name == f"checkpoint-{step}":
            found.append((step, path))
    return max(found)[1] if found else None


def steps_of(checkpoint: Path) -> int:
    """The optimiser steps after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def finish(folder: Path, run: RunFile, tokenizer: Any) -> None:
    """Put beside saved weights what a policy's folder needs to be played: its tokenizer, what it plays and how.

    The trainer's own arguments are taken away: they are a pickle, which nothing needs and nobody should load.
    """
    from transformers.trainer import TRAINING_ARGS_NAME

    (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    describe(folder, run)


def describe(folder: Path, run: RunFile) -> None:
    """Put beside saved weights what they play and how, and an adapter's base."""
    write_card(folder, run.card)
    if run.lora:
        record_base(folder, run.base)
