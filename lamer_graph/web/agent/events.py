"""What an agent does while it works, in lines for a person: the events of `with_retries` and `create_lamer_agent`."""

from __future__ import annotations

from typing import Any

import orjson

from lamer_graph.apps.lessons import shortened

MAX_LINE = 2_000


def told(event: Any) -> str | None:
    """The event as a line, None for what is none of ours."""
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    line = {"turn": _turn, "attempt": _ended, "episode": _ended, "reflection": _reflection}.get(event["event"])
    return None if line is None else shortened(line(event), MAX_LINE) + "\n"


def _number(event: dict[str, Any]) -> int:
    return int(event.get("attempt", event.get("episode", 0) + 1))


def _turn(event: dict[str, Any]) -> str:
    number = _number(event)
    if "action" in event:
        outcome = str(event.get("outcome") or event.get("observation") or "").strip()
        return f"[{number}] {event['action']} -> {outcome}"
    calls = [
        f"{call['name']}({orjson.dumps(call['args'], default=str).decode()})" for call in event.get("tool_calls", ())
    ]
    said = [event["text"]] if event.get("text") else []
    return f"[{number}] {event.get('type')}: {' '.join([*said, *calls])}"


def _ended(event: dict[str, Any]) -> str:
    came = "solved" if event["success"] else "not solved"
    why = event.get("feedback") or ""
    return f"[{_number(event)}] {came}{': ' if why else ''}{why}"


def _reflection(event: dict[str, Any]) -> str:
    return f"[{_number(event)}] learnt: {event['text']}"
