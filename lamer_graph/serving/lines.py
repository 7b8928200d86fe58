"""A server's own words, short enough for an error text and without its key."""

from __future__ import annotations

from pathlib import Path

LOG_TAIL_LINES = 3


def one_line(text: str) -> str:
    """The end of a text, on one line."""
    return " ".join(text.split())[-600:]


def log_tail(path: Path, api_key: str | None) -> str:
    """The last telling lines of the log at `path`."""
    try:
        lines = path.read_text(errors="replace")[-20_000:].splitlines()
    except OSError:
        return "and wrote no log"
    telling = [line for line in lines if "Error" in line or "error:" in line] or lines
    tail = one_line(" | ".join(telling[-LOG_TAIL_LINES:]))
    if api_key:
        tail = tail.replace(api_key, "***")
    return f"(log {path}): {tail}"
