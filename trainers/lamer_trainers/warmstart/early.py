"""A warm start's rows by method: the teacher's alone (`bc`), or with what branches off its way showed (`iwm`, `sr`).

What must stay true: all methods have the same number of rows and the same teacher; `bc` has exactly the rows that it
had before there were others; the rows of a method follow from its seed and from what its policy and explainer said.

- `iwm`, implicit world modelling (arXiv 2510.08558, section 4.2): a third of the rows ask what will be seen after an
  action, the teacher's or another; the policy is fitted to those first, then to the teacher's answers (two stages).
- `sr`, self-reflection (section 4.3): in up to a third of the rows an explanation stands before the teacher's action;
  they are mixed with the teacher's plain answers (one stage). Explained are states where the outcomes speak for it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from lamer_graph.errors import ConfigError
from lamer_graph.types import stable_seed
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.saving import write_table
from lamer_trainers.warmstart.branches import BRANCHES, Branched, Proposer, Sampled, branch, moments, world_rows
from lamer_trainers.warmstart.explaining import Explainer, holds
from lamer_trainers.warmstart.teachers import Row, Teacher, rows

Method = Literal["bc", "iwm", "sr"]
SHARE = 1 / 3
"""Of the rows: of world modelling, or at most of explanations."""
AT_A_TIME = 64
"""States that are branched together."""
PATIENCE = 8
"""Explanations are asked for of up to so many times as many states as there are to be."""
Kind = Literal["expert", "world", "reflection"]


@dataclass(frozen=True, slots=True)
class Early:
    """The method, and how many other actions are tried at a state."""

    method: Method = "bc"
    branches: int = BRANCHES

    def __post_init__(self) -> None:
        if self.method not in ("bc", "iwm", "sr"):
            raise ConfigError(f"unknown method '{self.method}'; choose one of: bc, iwm, sr")
        if self.branches < 1:
            raise ConfigError(f"branches are at least 1, not {self.branches}")


IMITATION = Early()


@dataclass
class Prepared:
    """The rows of a warm start: stages in their order, rows by kind for export, and what is to be said of them."""

    stages: list[list[Row]]
    kinds: dict[Kind, list[Row]]
    told: dict[str, Any] = field(default_factory=dict)


def prepared(
    early: Early,
    teacher: Teacher,
    count: int,
    seed: int,
    *,
    proposer: Proposer | None = None,
    explainer: Explainer | None = None,
) -> Prepared:
    """`count` rows of a method. `proposer` is asked by `iwm` and `sr`, `explainer` by `sr`. Raises PolicyError."""
    if early.method == "bc":
        taught = rows(teacher, count, seed)
        return Prepared([taught], {"expert": taught})
    assert proposer is not None
    part = round(count * SHARE)
    if early.method == "iwm":
        world = _world(early, teacher, part, seed, proposer)
        taught = rows(teacher, count - len(world), seed)
        told = {"world": len(world), "expert": len(taught), **_branching(early, proposer)}
        return Prepared([world, taught], {"world": world, "expert": taught}, told)
    assert explainer is not None
    explained, tried = _explained(early, teacher, part, seed, proposer, explainer)
    if part and not explained:
        raise TrainingDataError(
            f"none of {tried} explanations by {explainer.name} states something true of what was seen, and nothing "
            "false: let a stronger model explain (--explainer URL), or the script (--explainer scripted)"
        )
    taught = rows(teacher, count - len(explained), seed)
    both = [*taught, *explained]
    random.Random(stable_seed("joint", seed)).shuffle(both)
    told = {
        "reflection": len(explained),
        "expert": len(taught),
        "explainer": explainer.name,
        "asked": tried,
        "kept": len(explained),
        **_branching(early, proposer),
    }
    return Prepared([both], {"reflection": explained, "expert": taught}, told)


def _branching(early: Early, proposer: Proposer) -> dict[str, Any]:
    """Who proposed the other actions."""
    if isinstance(proposer, Sampled):
        return {"branches": early.branches, "proposed": proposer.proposed, "drawn": proposer.drawn}
    return {"branches": early.branches}


def _world(early: Early, teacher: Teacher, count: int, seed: int, proposer: Proposer) -> list[Row]:
    found: list[Row] = []
    way = moments(teacher, seed)
    while len(found) < count:
        noted = list(islice(way, AT_A_TIME))
        for moment, others in zip(noted, proposer.propose(noted, early.branches), strict=True):
            found += world_rows(teacher, branch(teacher, moment, others))
    random.Random(stable_seed("world", seed)).shuffle(found)
    return found[:count]


def _explained(
    early: Early, teacher: Teacher, count: int, seed: int, proposer: Proposer, explainer: Explainer
) -> tuple[list[Row], int]:
    """Rows with an explanation that holds, and how many explanations were asked for."""
    found: list[Row] = []
    tried, seen, way = 0, 0, moments(teacher, seed)
    while len(found) < count and seen < PATIENCE * count + AT_A_TIME:
        noted = list(islice(way, AT_A_TIME))
        seen += len(noted)
        branched = [
            branch(teacher, moment, others)
            for moment, others in zip(noted, proposer.propose(noted, early.branches), strict=True)
        ]
        telling = [case for case in branched if case.tells]
        tried += len(telling)
        said = explainer.explain(telling)
        found += [_row(teacher, case, text) for case, text in zip(telling, said, strict=True) if holds(text, case)]
    return found[:count], tried


def _row(teacher: Teacher, case: Branched, text: str) -> Row:
    """What was asked, answered by the explanation and then the action."""
    between = " " if teacher.compact else "\n"
    return Row(case.messages, f"{text}{between}{teacher.prompts.action_answer(case.expert.action)}")


# -- data sets --------------------------------------------------------------------------------------------------------


def export(made: Prepared, folder: Path) -> dict[str, int]:
    """Write a Parquet file per kind of row into a new or empty `folder`; how many rows each has.

    Columns `prompt` and `completion` are messages, as TRL's SFTTrainer reads them. Raises CheckpointError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for kind, own in made.kinds.items():
        if own:
            write_table(Dataset.from_list([_record(row) for row in own]), folder / f"{kind}.parquet")
    return {kind: len(own) for kind, own in made.kinds.items()}


def _record(row: Row) -> dict[str, Any]:
    return {
        "prompt": [dict(message) for message in row.messages],
        "completion": [{"role": "assistant", "content": row.answer}],
        "forbidden": list(row.forbidden),
        "ties": list(row.ties),
    }


def check_export(folder: Path | None) -> None:
    """Raises ConfigError for a folder that holds something already."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder; choose another for --export")


def to_json(made: Sequence[Sequence[Row]]) -> list[list[Any]]:
    """Rows as JSON keeps them, for a fit that may be cut short."""
    return [[list(row) for row in stage] for stage in made]


def from_json(kept: Sequence[Sequence[Any]]) -> list[list[Row]]:
    """The inverse of `to_json`."""
    return [[Row(messages, answer, tuple(bad), tuple(ties)) for messages, answer, bad, ties in stage] for stage in kept]
