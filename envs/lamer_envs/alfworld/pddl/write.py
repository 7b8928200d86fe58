"""Writes a household and its goal as a problem of the ALFRED domain, for TextWorld to load.

What must stay true: reading what was written gives the household again.
"""

from __future__ import annotations

from lamer_envs.alfworld.condition import Condition
from lamer_envs.alfworld.house import NOTHING, House
from lamer_envs.alfworld.pddl.facts import ABLE, MARKS
from lamer_envs.alfworld.pddl.goals import PATTERNS

_KNOWN_TYPES = (
    "SinkBasinType - rtype", "SinkType - rtype", "MicrowaveType - rtype", "FridgeType - rtype",
    "KnifeType - otype", "ButterKnifeType - otype",
)  # fmt: skip
"""Types that the original's domain mentions in its actions."""


def write_problem(h: House) -> str:
    """A household and its goal as a PDDL problem of the ALFRED domain; `read_problem` gives the same household."""
    ids = {name: _identifier(name) for name in h.names}
    declared = {ids[r.name]: "receptacle" for r in h.receptacles} | {ids[o.name]: "object" for o in h.objects}
    look = h.kind == "look"
    otypes = {*(o.type for o in h.objects), h.thing, h.target if look else h.thing} - {NOTHING}
    rtypes = ({r.type for r in h.receptacles} | (set() if look else {h.target})) - {NOTHING}
    lying = {place for places in h.notes.get("lies", ()) for place in places}
    places = sorted({h.start, *h.reach, *lying, *(o.lies_at for o in h.objects if o.lies_at is not None)})
    facts = [f"(atLocation agent1 {_place(h.start)})"]
    for name, fillers in _gaps(h).items():
        declared[name] = fillers
        facts.append(f"(moveable {name})")
    for r in h.receptacles:
        facts.append(f"(receptacleType {ids[r.name]} {r.type}Type)")
        facts += [f"(receptacleAtLocation {ids[r.name]} {_place(r.place)})"] if r.place is not None else []
        facts += [f"(openable {ids[r.name]})"] if r.openable else []
        facts += [f"(opened {ids[r.name]})"] if r.opened else []
    flags = {flag: name for name, flag in {**ABLE, **MARKS}.items()}
    for n, o in enumerate(h.objects):
        facts.append(f"(objectType {ids[o.name]} {o.type}Type)")
        facts += [f"({flags[flag]} {ids[o.name]})" for flag in o.flags]
        lies = {o.lies_at} if o.lies_at is not None else {h.receptacles[r].place for r in o.where}
        lies = set(h.notes["lies"][n]) if "lies" in h.notes else lies
        facts += [f"(inReceptacle {ids[o.name]} {ids[h.receptacles[r].name]})" for r in o.where]
        facts += [f"(objectAtLocation {ids[o.name]} {_place(at)})" for at in sorted(p for p in lies if p is not None)]
    facts += [f"(checked {ids[h.receptacles[r].name]})" for r in h.notes.get("checked", ())]
    facts += [f"(isOn {ids[h.objects[o].name]})" for o in h.notes.get("on", ())]
    facts += [f"(canContain {r}Type {o}Type)" for r in sorted(rtypes) for o in sorted(otypes) if h.fits(r, o)]
    lines = [
        "agent1 - agent",
        *(f"{name} - {type_}" for name, type_ in sorted(declared.items())),
        *(f"{_place(place)} - location" for place in places),
        *sorted({f"{t}type - rtype" for t in rtypes} | {f"{t}type - otype" for t in otypes}
                | {known.lower() for known in _KNOWN_TYPES}),
    ]  # fmt: skip
    return "\n".join(
        (
            "(define (problem household)",
            "(:domain alfred)",
            "(:objects",
            *lines,
            ")",
            "(:init",
            *facts,
            ")",
            f"(:goal {_goal_condition(h, ids)})",
            ")",
            "",
        )
    )


def _identifier(name: str) -> str:
    head, _, number = name.rpartition(" ")
    if not number.isdecimal() or " " in head:
        return name.replace(" ", "_")
    rank = f"{10_000 - int(number):05d}"  # numbers go down as identifiers go up
    return f"{head[:-5]}_bar_{rank}_bar_{head}" if head.endswith("basin") else f"{head}_bar_{rank}"


def _gaps(h: House) -> dict[str, str]:
    """Identifiers of things that a household leaves out but numbers count, with their types."""
    found: dict[str, str] = {}
    for things, type_ in ((h.receptacles, "receptacle"), (h.objects, "object")):
        highest: dict[str, int] = {}
        for thing in things:
            head, _, number = thing.name.rpartition(" ")
            if number.isdecimal() and " " not in head:
                highest[head] = max(highest.get(head, 0), int(number))
        for head, most in highest.items():
            missing = (f"{head} {n}" for n in range(1, most + 1) if f"{head} {n}" not in h.names)
            found |= {_identifier(name): type_ for name in missing}
    return found


def _place(number: int | None) -> str:
    return f"loc_bar_{number:03d}"


def _goal_condition(h: House, ids: dict[str, str]) -> str:
    if h.condition is None:
        return PATTERNS[h.kind].replace("THING", f"{h.thing}Type").replace("TARGET", f"{h.target}Type")
    return _written(h.condition, [ids[r.name] for r in h.receptacles], [ids[o.name] for o in h.objects])


_OF_MARKS = {
    "open": "opened", "checked": "checked", "hot": "isHot", "cool": "isCool", "clean": "isClean", "lit": "isToggled",
    "cut": "isSliced", "on": "isOn",
}  # fmt: skip


def _written(condition: Condition, receptacles: list[str], objects: list[str]) -> str:
    """A condition on states as PDDL."""
    if isinstance(condition, bool):
        return "(and)" if condition else "(or)"
    head, *rest = condition
    match head:
        case "and" | "or" | "not":
            return f"({head} {' '.join(_written(part, receptacles, objects) for part in rest)})"
        case "at":
            return f"(atLocation agent1 {_place(rest[0])})"
        case "held":
            return f"(holds agent1 {objects[rest[0]]})"
        case "hands":
            return "(holdsAny agent1)"
        case "in":
            return f"(inReceptacle {objects[rest[0]]} {receptacles[rest[1]]})"
        case "lies":
            return f"(objectAtLocation {objects[rest[0]]} {_place(rest[1])})"
    return f"({_OF_MARKS[head]} {(receptacles if head in ('open', 'checked') else objects)[rest[0]]})"
