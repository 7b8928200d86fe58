"""The blocks of README.md and docs/, as a reader would try them: taken out, told apart, run, and compared.

What must stay true: a block runs unless a mark before it (`<!-- needs: .. -->`) says what it lacks here; the blocks of
a page run one after the other, in one namespace and one folder, which has the repository's `examples`.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import orjson
import pytest
import yaml
from pydantic import BaseModel

from lamer_graph.cli import main
from places import ROOT

NEEDS = {"server", "gpu", "network", "time", "yours"}
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
BLOCK = re.compile(
    r"(?:^ *<!-- needs: (?P<needs>\w+) -->\n)?^(?P<indent> *)```(?P<kind>[\w-]*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
GENERATED = re.compile(r"<!-- (?:quickstart|test): begin -->.*?<!-- \w+: end -->", re.DOTALL)


class Block(NamedTuple):
    """One fenced block; `needs` is what it lacks in a test, "" if nothing."""

    page: Path
    line: int
    kind: str
    text: str
    needs: str


class Said(NamedTuple):
    """A command of a console block and what the page says it prints."""

    command: str
    output: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page in order, but for what a command wrote there between markers."""
    text = page.read_text()
    hidden = [match.span() for match in GENERATED.finditer(text)]
    found = []
    for match in BLOCK.finditer(text):
        if any(start <= match.start() < end for start, end in hidden):
            continue
        indent = len(match["indent"])
        lines = "".join(line[indent:] if line.strip() else line for line in match["text"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match["kind"], lines, match["needs"] or ""))
    return found


def commands_of(block: Block) -> list[Said]:
    """The commands of a console block, without comments, each with the lines below it."""
    said: list[Said] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            said.append(Said(line[2:].split("  #")[0].strip(), ""))
        elif said:
            said[-1] = said[-1]._replace(output=said[-1].output + line + "\n")
    return said


def agrees(wanted: str, printed: str) -> bool:
    """Whether a text is what a page says; a line `..` stands for any lines, `..` within a line for anything there."""
    pattern = ""
    for line in wanted.strip("\n").split("\n"):
        if line.strip() == "..":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r".*?".join(re.escape(part) for part in line.rstrip().split("..")) + r"[ ]*\n"
    text = "".join(line.rstrip() + "\n" for line in printed.strip("\n").split("\n"))
    return re.fullmatch(pattern, text) is not None


class Reader:
    """Tries the blocks of a page in `folder`, in this process where that can be."""

    def __init__(self, folder: Path) -> None:
        self.here = folder
        self.names: dict[str, Any] = {"__name__": "page"}
        self.printed = ""
        (folder / "examples").symlink_to(ROOT / "examples")

    def try_out(self, block: Block) -> None:
        """Run it, or check it against what was printed before. Raises AssertionError where the page is wrong."""
        tries: dict[str, Callable[[Block], None]] = {
            "python": self._python,
            "output": self._output,
            "console": self._console,
            "yaml": self._yaml,
            "toml": lambda block: _entry_points(tomllib.loads(block.text)),
            "json": lambda block: orjson.loads(block.text),
            "text": lambda block: None,
        }
        place = f"{name_of(block.page)}:{block.line}"
        assert block.kind in tries, (
            f"{place}: a block of kind {block.kind!r} is not tried; known are {', '.join(tries)}"
        )
        try:
            tries[block.kind](block)
        except BaseException as error:
            error.add_note(f"the block at {place}")
            raise

    def _python(self, block: Block) -> None:
        file = re.match(r"# (\w+\.py)\n", block.text)
        if file:
            (self.here / file[1]).write_text(block.text)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block.text, f"{name_of(block.page)}:{block.line}", "exec"), self.names)
        self.printed = out.getvalue()

    def _output(self, block: Block) -> None:
        assert agrees(block.text, self.printed), f"the page says\n{block.text}\nbut printed was\n{self.printed}"

    def _yaml(self, block: Block) -> None:
        from lamer_trainers.runfile import load_run

        file = re.match(r"# (\w+\.yaml)\b", block.text)
        if file:
            (self.here / file[1]).write_text(block.text)
            load_run(self.here / file[1])
        for name in settings_in(yaml.safe_load(block.text)):
            assert is_setting(name), f"a run file has no {name}"

    def _console(self, block: Block) -> None:
        for command, wanted in commands_of(block):
            printed = self._run(shlex.split(command))
            assert not wanted or agrees(wanted, printed), f"{command}\nprints\n{printed}\nand not\n{wanted}"

    def _run(self, words: list[str]) -> str:
        if words[0] == "cp":
            shutil.copy(*words[1:])
            return ""
        if words[0] == "python":
            done = subprocess.run(
                [sys.executable, *words[1:]], capture_output=True, text=True, timeout=240, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout
        assert words[0] == "lamer-graph", f"{words[0]} is not run in tests: mark the block"
        out, err = io.StringIO(), io.StringIO()
        said = (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err))
        with said[0], said[1], pytest.raises(SystemExit) as leave:
            main(words[1:])
        assert not leave.value.code, err.getvalue()
        return out.getvalue()


def settings_in(given: Any, before: str = "") -> Iterator[str]:
    """The dotted names of what a run file, or a part of one, sets; texts and template arguments are free."""
    for name, value in given.items():
        if isinstance(value, dict) and name not in ("texts", "template"):
            yield from settings_in(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def is_setting(name: str) -> bool:
    """Whether a run file has such a place."""
    from lamer_trainers.runfile import RunFile

    fields: Any = RunFile.model_fields
    for part in name.split("."):
        if part not in fields:
            return False
        kind = fields[part].annotation
        models = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel)]
        fields = models[0].model_fields if models else {}
    return True


def _entry_points(given: dict[str, Any]) -> None:
    """An entry point on a page is of a group that this project reads."""
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(given["project"]["entry-points"]) <= set(ours)
