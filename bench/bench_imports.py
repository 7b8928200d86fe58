"""What it costs to import the project and to start its command line.

Fresh interpreters, ours and the baseline alternating, best of seven: the best is what the code costs, the rest is what
else the machine was doing. The baseline is what any LangGraph application with a model server imports anyway.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import row

ROUNDS = 7
OURS = "lamer_graph, lamer_memory, lamer_envs"
BASELINE = "langgraph.graph, openai"


def import_time(modules: str) -> float:
    """Seconds that `import modules` takes in a fresh interpreter, its start not counted."""
    code = f"import time; start = time.perf_counter()\nimport {modules}\nprint(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def help_time() -> float:
    """Seconds of wall clock that `lamer-graph --help` takes, interpreter start included."""
    command = [str(Path(sys.executable).parent / "lamer-graph"), "--help"]
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - started


def rows() -> list[dict[str, Any]]:
    ours, baseline, shown = [], [], []
    for _ in range(ROUNDS):
        ours.append(import_time(OURS))
        baseline.append(import_time(BASELINE))
        shown.append(help_time())
    return [
        row("import of our packages / baseline", min(ours) / min(baseline), "x", "<= 1.5"),
        row(f"import {OURS}", min(ours), "s"),
        row(f"import {BASELINE}", min(baseline), "s"),
        row("lamer-graph --help", min(shown), "s", "<= 1"),
    ]
