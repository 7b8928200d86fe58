"""The page: one document with its style, its script and, as a file, its data; and writing that file.

What must stay true: nothing is loaded from anywhere, the one script and the one style are known by their hashes, and no
other runs (the content security policy has neither 'unsafe-inline' nor 'unsafe-eval'). Data stands in elements that no
browser executes, as JSON whose text cannot end them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from lamer_graph.errors import ConfigError, MissingLibraryError, RunLogError
from lamer_graph.report.book import Book
from lamer_graph.runlog import replacing
from lamer_graph.runlog.files import reason_of
from lamer_graph.trial.states import Json

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise MissingLibraryError(
        f"a page is made with jinja2, which is not here ({error}): pip install 'lamer-graph[viewer]'"
    ) from error

FOLDER = Path(__file__).resolve().parent / "page"
MODULES = ("dom", "data", "charts", "overview", "list", "turn", "trial", "task", "training", "app")
"""In the order in which one needs the other."""
MOST = 200
"""Trials that a file holds with their turns, unless told otherwise."""
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|let|class)\b)", re.MULTILINE)


@lru_cache(maxsize=1)
def script() -> str:
    """The modules of the page as one: imports of each other are left out, all names are different."""
    parts = []
    for name in MODULES:
        text = (FOLDER / f"{name}.js").read_text(encoding="utf-8")
        parts.append(_EXPORT.sub("", _IMPORT.sub("", text)))
    return "\n".join(parts)


@lru_cache(maxsize=1)
def style() -> str:
    return (FOLDER / "style.css").read_text(encoding="utf-8")


def policy(live: bool) -> str:
    """What the page may do: run its own script, be of its own style, and, `live`, ask its own server."""
    asks = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src 'sha256-{_digest(script())}'; style-src 'sha256-{_digest(style())}'; "
        f"connect-src {asks}; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def html(title: str, blocks: Iterable[tuple[str, Any]], live: bool) -> Iterator[str]:
    """The page in pieces. `blocks` are (id, data) for elements that hold JSON, made one at a time."""
    templates = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    yield from templates.get_template("page.html").generate(
        title=title,
        policy=policy(live),
        style=Markup(style()),
        script=Markup(script()),
        blocks=((id_, Markup(json_text(data))) for id_, data in blocks),
    )


def json_text(data: Any) -> str:
    """JSON that can stand in a script element: none of its characters ends or opens one, or breaks a line there."""
    text = orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS).decode()
    return (
        text.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def live_page(title: str) -> bytes:
    """The page of a server."""
    return "".join(html(title, [("page", {"live": True})], live=True)).encode()


def write_report(book: Book, out: Path, title: str, most: int = MOST, told: Callable[[int], None] | None = None) -> int:
    """Write the page of these runs to the file `out`, with the turns of up to `most` trials; how many it holds.

    Which trials: whole tasks in the order of the log, of all runs alike, so that they can be set beside each other.
    `told` is called after each. Raises RunLogError where no trial can be shown, ConfigError for a file that cannot be
    written.
    """
    if not sum(book.refresh()):
        raise RunLogError(_nothing(book))
    book.measure()
    held = book.held(most)
    page = {"live": False, "held": len(held), "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
    rows = [book.rows(run, 0, 1 << 40) for run in range(len(book.runs))]

    def blocks() -> Iterator[tuple[str, Json | list[Json]]]:
        yield "page", page
        yield "overview", book.overview()
        yield "rows", rows
        for done, (run, row) in enumerate(held, start=1):
            yield f"trial-{run}-{row}", book.trial(run, row)
            if told is not None:
                told(done)

    try:
        with replacing(out) as partial, partial.open("w", encoding="utf-8") as file:
            for piece in html(title, blocks(), live=False):
                file.write(piece)
    except OSError as error:
        raise ConfigError(f"cannot write {out} ({reason_of(error)}); choose another file") from error
    return len(held)


def _nothing(book: Book) -> str:
    problems = [problem for run in book.overview()["runs"] for problem in run["problems"]]
    reason = f": {problems[0]}" if problems else " yet"
    return f"{', '.join(str(run.folder) for run in book.runs)[:300]} holds no trial that can be shown{reason}"
