"""How much of a household task is done: the share of its sub-goals that a state meets.

What must stay true: 1 if and only if the goal is reached (`world.goal_reached`), for the six task types and for any
condition; a pure function of the state, which may look where the policy has not.

Sub-goals of the types: pick: a wanted thing is got (held, or where it belongs), and put there; clean, heat, cool: got,
treated, and put there treated; pick2: both things got and put, counted in the one receptacle where most is done; look:
a wanted thing is held, and a lamp is lit here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lamer_envs.alfworld.condition import Condition, holds
from lamer_envs.alfworld.house import House
from lamer_envs.alfworld.world import ready_objects

_TREATED = ("heat", "cool", "clean")


def sub_goals(h: House, state: dict[str, Any]) -> float:
    """The share of sub-goals that are met, in [0, 1]."""
    if h.condition is not None:
        return share(h.condition, state)
    where, held = state["in"], state["held"]
    if h.kind == "look":
        lit = any(
            h.objects[o].type == h.target and any(h.receptacles[r].place == state["at"] for r in where[o])
            for o in state["lit"]
        )
        return ((held in h.goal_objects) + lit) / 2
    if h.kind == "pick2":
        return max((_pair(h, state, r) for r in h.goal_receptacles), default=0.0)
    ready = set(ready_objects(h, state))
    best = 0.0
    for o in h.goal_objects:
        put = any(r in h.goal_receptacles for r in where[o])
        got, done = put or held == o, put and o in ready
        met = [got, o in ready, done] if h.kind in _TREATED else [got, done]
        best = max(best, sum(met) / len(met))
    return best


def _pair(h: House, state: dict[str, Any], r: int) -> float:
    """Of two things that belong together in `r`: got and put, twice."""
    met = (2 if r in state["in"][o] else int(state["held"] == o) for o in h.goal_objects)
    return sum(sorted(met, reverse=True)[:2]) / 4


def share(condition: Condition, state: Mapping[str, Any]) -> float:
    """How much of a condition holds: of `and` the mean, of `or` the best, of all else whether it does."""
    if not isinstance(condition, bool) and condition[0] in ("and", "or"):
        parts = [share(part, state) for part in condition[1:]]
        if condition[0] == "and":
            return sum(parts) / len(parts) if parts else 1.0
        return max(parts, default=0.0)
    return float(holds(condition, state))
