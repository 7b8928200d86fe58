"""Conditions on a state: goals beyond the six patterns, with everything in them that cannot change worked out already.

What must stay true: a condition is JSON, bounded by who makes it (pddl/ground.py), and `holds` reads nothing but the
state. It is true, false, or one of

    ["and", condition, ..]  ["or", condition, ..]  ["not", condition]
    ["at", place]           where one stands
    ["held", object]        ["hands"]: something is held
    ["in", object, receptacle]
    [mark, number]          number is in the state's list: open, hot, cool, clean, lit, cut; in its notes: checked, on
    ["lies", object, place] in the notes: where the planning domain says that an object is (`objectAtLocation`)

with the state's numbers. Notes are kept only in households whose goal asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Condition = bool | Sequence[Any]
"""Tuples while it is made, lists once it was JSON."""
NOTES = ("checked", "on", "lies")


def holds(condition: Condition, state: Mapping[str, Any]) -> bool:
    """Whether the state fulfils the condition."""
    if isinstance(condition, bool):
        return condition
    head, *rest = condition
    match head:
        case "and":
            return all(holds(part, state) for part in rest)
        case "or":
            return any(holds(part, state) for part in rest)
        case "not":
            return not holds(rest[0], state)
        case "at":
            return bool(state["at"] == rest[0])
        case "held":
            return bool(state["held"] == rest[0])
        case "hands":
            return state["held"] is not None
        case "in" | "lies":
            where = state["in"] if head == "in" else state["notes"]["lies"]
            return rest[1] in where[rest[0]]
    return rest[0] in (state["notes"] if head in NOTES else state)[head]


def atoms(condition: Condition) -> Iterator[Sequence[Any]]:
    """What a condition is made of: those within it that have no parts."""
    if not isinstance(condition, bool):
        if condition[0] in ("and", "or", "not"):
            for part in condition[1:]:
                yield from atoms(part)
        else:
            yield condition
