"""The check of a new GPU runs in its small form: every row is measured, and what is left out is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_small_form_measures_every_row(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "gpu_check.py"), "--small", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["what"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    assert "calls/s" in rows["tiny shape: LocalPolicy"]["measured"]
    for what in ("tiny shape: LoRA update", "a shipped policy: loop, mean of 2 updates"):
        for part in ("calls", "collecting", "training"):
            row = rows[f"{what}, {part}"]
            assert float(row["measured"].split()[0]) > 0
            assert " to " in row["says"]
    # Random weights answer nothing that is valid: every turn is used, as in the upper end of the plan.
    row = rows["tiny shape: LoRA update, calls"]
    assert row["measured"] == row["says"].split()[-1]
    assert rows["tiny shape: peak memory"]["measured"].endswith("so far")
    assert not any(tmp_path.iterdir())
