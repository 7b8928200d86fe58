"""What a warm start says of itself, beside its weights: the readings at its gates, also the missed ones."""

from __future__ import annotations

import json
from pathlib import Path

REPORT_FILE = "warmup.json"


def missed_gates(folder: str | Path) -> list[str]:
    """A line for each gate that the warm start in `folder` missed; none for a policy that was not made as one."""
    try:
        gates = json.loads((Path(folder) / REPORT_FILE).read_bytes())["gates"]
        return [
            f"{gate['name']} {gate['value']:.3f} where {gate['low']:g} to {gate['high']:g} is asked for"
            for gate in gates
            if not gate["passed"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
