"""The pages that people read, and what is in them: code, commands, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

from lamer_trainers.runfile import RunFile
from places import ROOT

DOCS = ROOT / "docs"
TRANSCRIPT = DOCS / "quickstart.md"
"""What a command printed is of its time."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVED = "http://127.0.0.1:8000"


class Block(NamedTuple):
    """A fenced block, and what stands right behind it as its output ("": nothing does)."""

    language: str
    text: str
    printed: str = ""


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page. A block of text that follows code without a word between is what it prints."""
    text = page.read_text()
    found = list(FENCE.finditer(text))
    for number, match in enumerate(found):
        language, code = match.groups()
        following = found[number + 1] if number + 1 < len(found) else None
        printed = ""
        if following is not None and language == "python" and following[1] == "text":
            printed = following[2] if not text[match.end() : following.start()].strip() else ""
        yield Block(language, code, printed)


def code(page: Path, language: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == language]


def without_output(page: Path) -> str:
    """A page's words, less what a command printed into it."""
    return re.sub(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", "", page.read_text(), flags=re.DOTALL)


def written_commands(text: str) -> list[list[str]]:
    """The words of every `lamer-graph ..` in a document's prose and consoles."""
    consoles = re.findall(r"^\$ (lamer-graph [^#\n]*)", text, flags=re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for line in [*consoles, *re.findall(r"`(lamer-graph\s[^`]+)`", prose)]]


def is_setting(name: str) -> bool:
    """Whether a run file has such a place."""
    fields: Any = RunFile.model_fields
    for part in name.split("."):
        if part not in fields:
            return False
        kind = fields[part].annotation
        models = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel)]
        fields = models[0].model_fields if models else {}
    return True
