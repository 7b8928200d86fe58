"""The command line in tests: in this process (the fixture `cli`) or in one of its own (`started`, `ended`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lamer_graph.runlog import read_trials


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What `--json` printed: exactly one JSON document."""
        return json.loads(self.out)

    @property
    def error_line(self) -> str:
        """The one line on stderr."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("lamer-graph: ")
        assert "Traceback" not in self.err
        return self.err.strip()


Cli = Callable[..., Outcome]


def keys(run: Path) -> list[tuple[str, int]]:
    return sorted((trial["task"]["id"], trial["trial"]) for trial in read_trials(run))


def started(tmp_path: Path, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lamer_graph.cli", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def ended(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=60)
    return Outcome(process.returncode, out, err)
