"""The rules of an ALFWorld household: what each command needs and what it changes, and when the goal is reached.

What must stay true: `admissible` lists a command if and only if `play` accepts it, and both agree with the original's
planning domain (ALFWorld, Shridhar et al., arXiv 2010.03768; its commands as TextWorld offers them). A household is
immutable and held by its text; a state is that text plus what has changed, JSON-plain, and never mutated here.

Facts of the original that are easy to get wrong, all kept: going to the place where one stands is not offered;
several receptacles can share a place, and then all of them are in reach; opening is not needed to heat, cool or clean;
`use` turns a lamp on and never off, and is offered behind a closed door too; only an object in the hand can be
examined; an object may be listed in two receptacles.
"""

from __future__ import annotations

import re
from typing import Any

from lamer_envs.alfworld import condition
from lamer_envs.alfworld.house import House
from lamer_envs.base import MAX_ACTION_CHARS

_TWO = {"take": " from ", "move": " to ", "heat": " with ", "cool": " with ", "clean": " with ", "slice": " with "}
_ONE = ("go to ", "open ", "close ", "examine ", "use ")
_ALONE = ("look", "inventory", "help")
_PUT = re.compile(r" (?:in/on|in|on|into|onto) ")
_KNIVES = ("knife", "butterknife")

# -- commands ---------------------------------------------------------------------------------------------------------


def canonical(answer: str) -> str | None:
    """A command in lower case with single spaces, None if it has not the form of one.

    The older `put O in/on X` (also `in`, `on`, `into`, `onto`) becomes `move O to X`; None where it could be read in
    two ways, as in "put pen 1 in box in drawer 1".
    """
    if len(answer) > MAX_ACTION_CHARS:
        return None
    text = " ".join(answer.lower().split())
    if text in _ALONE:
        return text
    if text.startswith("put "):
        parts = _PUT.split(text[4:])
        text = f"move {parts[0]} to {parts[1]}" if len(parts) == 2 else ""
    verb, _, rest = text.partition(" ")
    if verb in _TWO:
        first, found, second = rest.partition(_TWO[verb])
        return text if found and first and second else None
    return text if text.startswith(_ONE) else None


def play(h: House, state: dict[str, Any], command: str) -> dict[str, Any] | None:
    """The state after a canonical command, None if it is not admissible. `state` is left as it is."""
    if state["won"]:
        return None
    verb, _, rest = command.partition(" ")
    change = _ONE_ARGUMENT[verb](h, state, rest) if verb in _ONE_ARGUMENT else None
    if verb in _TWO:
        change = _two_arguments(h, state, verb, rest)
    elif command in _ALONE:
        change = {}
    if change is None:
        return None
    after = {**state, **change}
    if h.notes:
        after["notes"] = _noted(h, state, after, command)
    after["won"] = goal_reached(h, after)
    return after


def _noted(h: House, state: dict[str, Any], after: dict[str, Any], command: str) -> dict[str, list[Any]]:
    """What an accepted command adds to the notes of a goal that asks for them, by the effects of the original's domain:
    `checked` receptacles, lamps that are `on` (every use flips), the places of objects' `lies` (taking and putting)."""
    notes: dict[str, list[Any]] = state["notes"]
    verb, _, rest = command.partition(" ")
    if "checked" in notes and verb in ("open", "examine") and (r := h.names.get(rest, -1)) >= 0:
        notes = {**notes, "checked": _with(notes["checked"], r)}
    if "on" in notes and verb == "use":
        o = -1 - h.names[rest]
        notes = {**notes, "on": [x for x in notes["on"] if x != o] if o in notes["on"] else _with(notes["on"], o)}
    if "lies" in notes and verb in ("take", "move"):
        o = after["held"] if verb == "take" else state["held"]
        places = [place for place in notes["lies"][o] if place != state["at"]] + [state["at"]] * (verb == "move")
        notes = {**notes, "lies": [*notes["lies"][:o], sorted(places), *notes["lies"][o + 1 :]]}
    return notes


def _in_reach(h: House, state: dict[str, Any], name: str) -> int | None:
    """The receptacle of this name, if one stands at it."""
    i = h.names.get(name, -1)
    return i if i >= 0 and h.receptacles[i].place == state["at"] else None


def _accessible(h: House, state: dict[str, Any], i: int) -> bool:
    return not h.receptacles[i].openable or i in state["open"]


def _go(h: House, state: dict[str, Any], rest: str) -> dict[str, Any] | None:
    i = h.names.get(rest[3:], -1) if rest.startswith("to ") else -1
    place = h.receptacles[i].place if i >= 0 else None
    return None if place is None or place == state["at"] else {"at": place}


def _open(h: House, state: dict[str, Any], name: str) -> dict[str, Any] | None:
    i = _in_reach(h, state, name)
    if i is None or _accessible(h, state, i):
        return None
    return {"open": sorted([*state["open"], i])}


def _close(h: House, state: dict[str, Any], name: str) -> dict[str, Any] | None:
    i = _in_reach(h, state, name)
    if i is None or not h.receptacles[i].openable or i not in state["open"]:
        return None
    return {"open": [x for x in state["open"] if x != i]}


def _examine(h: House, state: dict[str, Any], name: str) -> dict[str, Any] | None:
    i = h.names.get(name)
    if i is None:
        return None
    here = h.receptacles[i].place == state["at"] if i >= 0 else state["held"] == -1 - i
    return {} if here else None


def _use(h: House, state: dict[str, Any], name: str) -> dict[str, Any] | None:
    i = h.names.get(name, 0)
    if i >= 0 or "t" not in h.objects[o := -1 - i].flags:
        return None
    if not any(h.receptacles[r].place == state["at"] for r in state["in"][o]):
        return None
    return {"lit": _with(state["lit"], o)}


_ONE_ARGUMENT = {"go": _go, "open": _open, "close": _close, "examine": _examine, "use": _use}


def _with(marked: list[int], o: int) -> list[int]:
    return marked if o in marked else sorted([*marked, o])


def _two_arguments(h: House, state: dict[str, Any], verb: str, rest: str) -> dict[str, Any] | None:
    """`verb O .. X`. A name may hold the separating word, so every way to split is tried; names decide."""
    words = rest.split(_TWO[verb])
    for cut in range(1, len(words)):
        first, second = (h.names.get(_TWO[verb].join(part)) for part in (words[:cut], words[cut:]))
        if first is None or second is None or first >= 0:
            continue
        o = -1 - first
        if verb == "slice":
            return _slice(h, state, o, -1 - second) if second < 0 else None
        if second >= 0 and h.receptacles[second].place == state["at"]:
            return _handle(h, state, verb, o, second)
    return None


def _handle(h: House, state: dict[str, Any], verb: str, o: int, r: int) -> dict[str, Any] | None:
    """Take, move, heat, cool or clean object `o` at receptacle `r`, which is in reach."""
    thing = h.objects[o]
    if verb == "take":
        if state["held"] is not None or "p" not in thing.flags:
            return None
        if r not in state["in"][o] or not _accessible(h, state, r):
            return None
        return {"held": o, "in": _placed(state, o, [x for x in state["in"][o] if x != r])}
    if state["held"] != o:
        return None
    if verb == "move":
        if r not in h.accepts(thing.type) or not _accessible(h, state, r):
            return None
        return {"held": None, "in": _placed(state, o, _with(state["in"][o], r))}
    flag = {"heat": "h", "cool": "c", "clean": "w"}[verb]
    if flag not in thing.flags or r not in h.tools[flag]:
        return None
    if verb == "clean":
        return {"clean": _with(state["clean"], o)}
    gains, loses = ("hot", "cool") if verb == "heat" else ("cool", "hot")
    return {gains: _with(state[gains], o), loses: [x for x in state[loses] if x != o]}


def _placed(state: dict[str, Any], o: int, where: list[int]) -> list[list[int]]:
    return [*state["in"][:o], where, *state["in"][o + 1 :]]


def _slice(h: House, state: dict[str, Any], o: int, knife: int) -> dict[str, Any] | None:
    if state["held"] != knife or h.objects[knife].type not in _KNIVES or not _sliceable_here(h, state, o):
        return None
    return {"cut": _with(state["cut"], o)}


def _sliceable_here(h: House, state: dict[str, Any], o: int) -> bool:
    """The original asks where the object lies, not whether the receptacle is open."""
    if "s" not in h.objects[o].flags or o == state["held"]:
        return False
    where: list[int] = state["in"][o]
    if where == list(h.objects[o].where):
        return bool(h.objects[o].lies_at == state["at"])
    return any(h.receptacles[r].place == state["at"] for r in where)


def contents(state: dict[str, Any], r: int) -> list[int]:
    """The objects in or on receptacle `r`, seen or not."""
    return [o for o, where in enumerate(state["in"]) if r in where]


def local_commands(h: House, state: dict[str, Any]) -> list[str]:
    """The admissible commands that act on what is here, in a fixed order; empty once the goal is reached."""
    if state["won"]:
        return []
    found, hands, opened = [], state["held"], state["open"]
    held = h.objects[hands] if hands is not None else None
    seen: list[str] = []
    for r in h.reach.get(state["at"], ()):
        place = h.receptacles[r]
        free = True
        if place.openable:
            free = r in opened
            found.append(("close " if free else "open ") + place.name)
        if held is None:
            if free:
                found += [
                    f"take {o.name} from {place.name}"
                    for o, where in zip(h.objects, state["in"], strict=True)
                    if r in where and "p" in o.flags
                ]
        else:
            if free and r in h.accepts(held.type):
                found.append(f"move {held.name} to {place.name}")
            for verb, flag in (("heat", "h"), ("cool", "c"), ("clean", "w")):
                if r in h.tools[flag] and flag in held.flags:
                    found.append(f"{verb} {held.name} with {place.name}")
        found += ["use " + h.objects[o].name for o in h.switches if r in state["in"][o]]
        seen.append("examine " + place.name)
    if held is not None:
        if h.can_slice and held.type in _KNIVES:
            found += [
                f"slice {o.name} with {held.name}"
                for i, o in enumerate(h.objects)
                if "s" in o.flags and _sliceable_here(h, state, i)
            ]
        seen.append("examine " + held.name)
    return list(dict.fromkeys(found)) + seen


def admissible(h: House, state: dict[str, Any]) -> list[str]:
    """Every command that `play` accepts now, in canonical form and in a fixed order."""
    if state["won"]:
        return []
    return [*local_commands(h, state), *h.go(state["at"])[0], *_ALONE]


# -- the goal ---------------------------------------------------------------------------------------------------------


def goal_reached(h: House, state: dict[str, Any]) -> bool:
    """Whether the state fulfils the goal: its condition where it has one, else what its kind asks for."""
    if h.condition is not None:
        return condition.holds(h.condition, state)
    where = state["in"]
    if h.kind == "look":
        held = state["held"]
        return held in h.goal_objects and any(
            h.objects[o].type == h.target and any(h.receptacles[r].place == state["at"] for r in where[o])
            for o in state["lit"]
        )
    ready = ready_objects(h, state)
    if h.kind == "pick2":
        placed = [r for o in ready for r in where[o] if r in h.goal_receptacles]
        return len(placed) > len(set(placed))
    return any(r in h.goal_receptacles for o in ready for r in where[o])


def ready_objects(h: House, state: dict[str, Any]) -> list[int]:
    """Objects of the goal's type that need no further treatment (heating, cooling, cleaning)."""
    need = {"heat": ("hot", "h"), "cool": ("cool", "c"), "clean": ("clean", "w")}.get(h.kind)
    if need is None:
        return list(h.goal_objects)
    return [o for o in state[need[0]] if o in h.goal_objects and need[1] in h.objects[o].flags]
