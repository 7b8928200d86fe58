"""What the suite writes and reads: texts and namespaces that a store is likely to mistake, and records of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lamer_memory.base import Kind, MemoryBackend, MemoryRecord, MetadataValue, Namespace, ScoredRecord, record_key

MakeBackend = Callable[[], MemoryBackend]

HERE: Namespace = ("team", "run", "trial-1")
ODD = "\x00 \ud83d \ufffd"
"""What no database takes as it is, and what would take its place."""
MEGABYTE = "The mine was at (3, 4). \u2014 \U0001f4a3\n" * 40_000

TEXTS = {
    "empty": "",
    "spaces": "  \t leading and trailing \n\n ",
    "line ends": "one\r\ntwo\rthree\nfour\u2028five\u2029six\x85seven\x0b",
    "quotes": """'single' "double" `back` \\ \\n $1 %s {0} {{x}} --; DROP TABLE records;""",
    "markup": "<action>(1, 2)</action><remark>&amp;</remark>\x1b[31m",
    "unicode": "\u00e9 \u4f60\u597d \u0634\u0643\u0631 \U0001f469\u200d\U0001f680 \ufeff \uffff",
    "not normalised": "e\u0301 and \u00e9, \u212b and \u00c5",
    "control": "\x00 \x01 \x1f \x7f",
    "what only looks like control": "\\x00 \\u0000 \ufffd",
    "lone surrogates": "half \ud83d of a pair, \udca3 the other; \x00",
    "a megabyte": MEGABYTE,
}

# Each pair is distinct and looks equal once someone joins, splits, trims or folds it.
LOOKALIKES: list[tuple[Namespace, Namespace]] = [
    (("a", "b"), ("a/b",)),
    (("a", "b"), ("ab",)),
    (("a", "b"), ("a.b",)),
    (("a", "b"), ("a:b",)),
    (("a", "b"), ("a|b",)),
    (("a", "b"), ("a\x1fb",)),
    (("a", "b"), ("a\x00b",)),
    (("a", "b"), ("('a', 'b')",)),
    (("a", "b"), ('["a","b"]',)),
    (("a", "b/c"), ("a/b", "c")),
    (("a.b", "c"), ("a", "b.c")),
    (("a", "b"), ("b", "a")),
    (("a",), ("A",)),
    (("a",), ("a ",)),
    (("a",), ("a", "")),
    ((), ("",)),
    (("a%2Fb",), ("a/b",)),
    (("a_b",), ("a-b",)),
    (("e\u0301",), ("\u00e9",)),
    (("x" * 600 + "1",), ("x" * 600 + "2",)),
    (("..",), (".",)),
]

HOSTILE = [
    *(
        "",
        " ",
        "a",
        "A",
        "a ",
        "a/b",
        "a.b",
        "a:b",
        "a|b",
        "b",
        "/",
        ".",
        "..",
        "*",
        "%",
        "_",
        "?",
        "[",
        "=",
        "~",
        "~2e~",
    ),
    *("\x00", "\x1f", "\\", "'", '"', "%2F", "\u00e9", "e\u0301", "\ud800", "\ufffd", "langgraph", "lamer-memory"),
    *("x" * 5_000, "x" * 4_999 + "y"),
]
"""Labels that a separator, an escape, a pattern, a fold or a bound of some store would mistake."""


def a_record(number: int = 0, text: str | None = None, **changes: Any) -> MemoryRecord:
    """The record of episode `number` of a trial, with any field changed."""
    kind: Kind = changes.pop("kind", "reflection")
    metadata: dict[str, MetadataValue] = changes.pop("metadata", {})
    fields: dict[str, Any] = {
        "key": record_key("trial-1", number, kind),
        "task_id": "minesweeper:6x6-3#7",
        "episode": number,
        "text": f"text {number}" if text is None else text,
        "success": False,
        **changes,
    }
    return MemoryRecord(kind=kind, metadata=metadata, **fields)


def keys_of(found: list[ScoredRecord]) -> list[str]:
    return [entry.record.key for entry in found]


def texts_of(found: list[ScoredRecord]) -> list[str]:
    return [entry.record.text for entry in found]


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Run `work(0..count-1)` in threads that start together; the first error is raised."""
    start = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
