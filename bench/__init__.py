"""Benchmarks: each `bench_*.py` measures and returns table rows from `rows()`; `python -m bench` runs them all."""

from __future__ import annotations

from typing import Any


def row(name: str, value: float, unit: str, target: str = "", note: str = "") -> dict[str, Any]:
    """A line of the table. `target` is what the value is held to, `>= NUMBER` or `<= NUMBER`; "" for one that is shown
    beside a ratio."""
    return {"name": name, "value": value, "unit": unit, "target": target, "note": note}
