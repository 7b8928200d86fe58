"""The command line in tests: in this process (the fixture `cli`) or in one of its own (`started`, `ended`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from typer.core import TyperCommand
from typer.main import get_command

from lamer_graph.cli import app
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


@cache
def leaf_commands() -> dict[str, TyperCommand]:
    """Every command that does something, by the words that call it."""
    found = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for sub, leaf in getattr(command, "commands", {"": command}).items():
            found[f"{name} {sub}".strip()] = leaf
    return found


def called(words: list[str]) -> tuple[str, list[str]]:
    """The command that these words call, "" if none, and what it is given."""
    name = next((name for name in leaf_commands() if words[: len(name.split())] == name.split()), "")
    return name, words[len(name.split()) :]


def keys(run: Path) -> list[tuple[str, int]]:
    return sorted((trial["task"]["id"], trial["trial"]) for trial in read_trials(run))


def started(tmp_path: Path, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lamer_graph.cli", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


_EACH = """
import sys
from lamer_graph.cli import main
for words in {calls!r}:
    try:
        main(list(words))
    except SystemExit as leave:
        print(leave.code)
print(*sorted({{"torch", "transformers", "trl", "datasets", "vllm"}} & sys.modules.keys()))
"""


def slow_imports(tmp_path: Path, calls: list[tuple[str, ...]]) -> tuple[list[int], list[str]]:
    """The exit codes of these calls, all in one process of their own, and what they loaded that takes seconds."""
    program = [sys.executable, "-c", _EACH.format(calls=calls)]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    *codes, modules = done.stdout.split("\n")[:-1]
    return [int(code) for code in codes], modules.split()


def ended(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=60)
    return Outcome(process.returncode, out, err)
