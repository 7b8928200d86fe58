"""Where the suite's own files lie."""

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parent.parent
OLD_RUNS = ROOT / "tests" / "data" / "old_runs"
