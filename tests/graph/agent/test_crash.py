"""A trial killed with SIGKILL anywhere under SqliteSaver, durability="sync", finishes as if nothing had happened.

Its log line too: all tokens of the calls that were made before the kill and after it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from places import SUPPORT

SCRIPT = SUPPORT / "kill_agent.py"


def play(database: Path, point: str, strategy: str = "lamer") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(database), point, strategy]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    done = play(tmp_path_factory.mktemp("whole") / "checkpoints.sqlite", "none")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "point", ["act:1", "act:3", "act:8", "act:12", "reflect:1", "reflect:2", "remember:1", "remember:2"]
)
def test_a_killed_trial_resumes_in_a_new_process_to_the_uninterrupted_result(
    point: str, uninterrupted: str, tmp_path: Path
) -> None:
    database = tmp_path / "checkpoints.sqlite"
    killed = play(database, point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = play(database, "none")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == uninterrupted


def test_a_killed_trial_goes_on_with_its_plan(tmp_path: Path) -> None:
    def database(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name / "checkpoints.sqlite"

    whole = play(database("whole"), "none", "plan")
    assert whole.returncode == 0, whole.stderr
    assert '"plan": "plan ' in whole.stdout
    for point in ("act:2", "act:8", "remember:1"):
        kept = database(point.replace(":", "-"))
        assert play(kept, point, "plan").returncode == -signal.SIGKILL
        resumed = play(kept, "none", "plan")
        assert resumed.returncode == 0, resumed.stderr
        assert resumed.stdout == whole.stdout


@pytest.mark.slow
def test_a_trial_killed_again_and_again_still_finishes_the_same(uninterrupted: str, tmp_path: Path) -> None:
    database = tmp_path / "checkpoints.sqlite"
    kills = 0
    while (done := play(database, "act:2")).returncode == -signal.SIGKILL:
        kills += 1
        assert kills < 40
    assert kills >= 5
    assert done.stdout == uninterrupted
