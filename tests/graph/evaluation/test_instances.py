"""Which tasks of a run are one instance."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer_graph.collection.config import CollectConfig
from lamer_graph.evaluation import evaluate


def test_an_old_log_that_names_a_path_as_its_instance_is_read_without_opening_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = {"size": 4, "mines": [[2, 3]]}
    tasks = [
        {"id": "a", "seed": None, "instance": board},
        {"id": "b", "seed": None, "instance": str(tmp_path / "board.json")},
        {"id": "c", "seed": 7, "instance": None},
    ]
    monkeypatch.setattr(evaluate, "read_trials", lambda _folder: [{"task": task} for task in tasks])
    found = evaluate.instances_of(CollectConfig(env="minesweeper:4x4-3", policy="any", tasks=3), tmp_path)
    assert found.keys() == {"a", "c"}
