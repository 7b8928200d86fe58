"""Which tasks of a run are one instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lamer_envs import make
from lamer_graph.evaluation.evaluate import note_instance


def test_an_old_log_that_names_a_path_as_its_instance_is_read_without_opening_it(tmp_path: Path) -> None:
    board = {"size": 4, "mines": [[2, 3]]}
    tasks: list[Any] = [
        {"id": "a", "seed": None, "instance": board},
        {"id": "b", "seed": None, "instance": str(tmp_path / "board.json")},
        {"id": "c", "seed": 7, "instance": None},
    ]
    found: dict[str, str] = {}
    for task in tasks:
        note_instance(make("minesweeper:4x4-3"), task, found)
    assert found.keys() == {"a", "c"}
