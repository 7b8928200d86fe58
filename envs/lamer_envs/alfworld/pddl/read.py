"""Reads a whole problem: the household, and its goal.

What must stay true: reading a problem and playing it gives the admissible commands, names and wins that the original
gives for it; what cannot be read is refused with the line and the reason, never guessed at.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, NamedTuple

from lamer_envs.alfworld.catalogue import fits
from lamer_envs.alfworld.condition import Condition
from lamer_envs.alfworld.generate import goal_words
from lamer_envs.alfworld.house import NOTHING, OTHER, Object, Receptacle, house_text
from lamer_envs.alfworld.pddl.facts import ABLE, MARKS, Facts, shown_names, type_name
from lamer_envs.alfworld.pddl.goals import Pattern, pattern_of, read_goal
from lamer_envs.alfworld.pddl.ground import Numbers, ground
from lamer_envs.alfworld.pddl.syntax import MAX_PROBLEM_CHARS, Form, Word, bad, parse

MAX_WORDS_CHARS = 300


class Problem(NamedTuple):
    """A household's text (see house.House) and the name that each identifier of the problem is shown by."""

    house: str
    names: dict[str, str]


def read_problem(text: str, words: str | None = None) -> Problem:
    """The household and goal of a PDDL problem of the ALFRED domain; `words` is the goal as a sentence.

    Raises InstanceError with the line and the reason.
    """
    if len(text) > MAX_PROBLEM_CHARS:
        bad(1, f"the problem has {len(text)} characters; at most {MAX_PROBLEM_CHARS} are read")
    sections = {
        part.head: part for part in parse(text, "define", "(define (problem NAME) ...)")[1:] if isinstance(part, Form)
    }
    for name in (":objects", ":init", ":goal"):
        if name not in sections:
            bad(1, f"the problem has no ({name} ..)")
    facts = Facts(sections[":objects"], sections[":init"])
    goal = read_goal(sections[":goal"], facts.types)
    names = {i: n for i, n in shown_names(facts.mentioned).items() if facts.types[i] in ("receptacle", "object")}
    for name, times in Counter(names.values()).items():
        if times > 1:
            bad(sections[":objects"].line, f"{times} identifiers would all be shown as '{name}'")
    if facts.by_predicate["holds"] or facts.by_predicate["holdsany"]:
        bad(facts.line, "an episode starts with empty hands; leave holds out of :init")
    agents = facts.single("atlocation")
    if len(agents) != 1:
        bad(facts.line, f"expected (atLocation AGENT LOCATION) for one agent, found {len(agents)}")

    at = facts.single("receptacleatlocation")
    lies = {str(args[0]): str(args[1]) for args in facts.by_predicate["objectatlocation"]}
    used = sorted({*at.values(), *agents.values(), *lies.values()})
    places = {location: number for number, location in enumerate(used)}
    rtypes = {i: type_name(t) for i, t in facts.single("receptacletype").items()}
    otypes = {i: type_name(t) for i, t in facts.single("objecttype").items()}
    inside: dict[str, set[str]] = defaultdict(set)
    for thing, place in facts.by_predicate["inreceptacle"]:
        inside[thing].add(place)
    openable, opened = facts.holders("openable"), facts.holders("opened")
    flags = {flag: facts.holders(name) for name, flag in {**ABLE, **MARKS}.items()}
    flags["T"] &= flags["t"]

    ids = sorted((i for i in names if facts.types[i] == "receptacle"), key=lambda i: _order(names[i]))
    number = {i: n for n, i in enumerate(ids)}
    receptacles = [
        Receptacle(names[i], rtypes.get(i, "none"), places.get(at.get(i, "")), i in openable, i in opened) for i in ids
    ]
    movables = [i for i in names if facts.types[i] == "object" and (inside[i] or i in flags["s"])]
    movables.sort(key=lambda i: _order(names[i]))
    objects = [
        Object(
            names[i],
            otypes.get(i, "none"),
            tuple(sorted(number[r] for r in inside[i])),
            "".join(flag for flag, holders in flags.items() if i in holders),
            places[lies[i]] if i in flags["s"] and i in lies else None,
        )
        for i in movables
    ]
    pairs = {(type_name(r), type_name(o)) for r, o in facts.by_predicate["cancontain"]}
    present = {(r.type, o.type) for r in receptacles for o in objects}
    table = "*"
    if any(((r, o) in pairs) != fits(r, o) for r, o in present):
        table = ",".join(sorted(f"{r}={o}" for r, o in pairs & present))
    ((agent, start),) = agents.items()
    pattern = pattern_of(goal, agent) or Pattern(OTHER, NOTHING, NOTHING, False)
    asked: tuple[Condition, dict[str, list[Any]]] | tuple[()] = ()
    if not pattern.exact:
        things = {i: n for n, i in enumerate(movables)}
        asked = ground(
            goal, Numbers(facts, agent, places, number, things, receptacles, objects), sections[":goal"].line
        )
    said = words or (
        goal_words(*pattern[:3]) if pattern.exact else f"make true: {_spoken(sections[':goal'][1], names)}"
    )
    kind = (pattern.kind, pattern.thing, pattern.target)
    return Problem(house_text(kind, one_line(said), places[start], receptacles, objects, table, *asked), names)


def _spoken(part: Form | Word, names: dict[str, str]) -> str:
    """A condition as it is written, things by the names that they are shown by."""
    if isinstance(part, Word):
        return names.get(part, str(part))
    return f"({' '.join(_spoken(each, names) for each in part)})"


def one_line(words: str) -> str:
    """A sentence from outside as one bounded line without the full stop at its end."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())[:MAX_WORDS_CHARS].rstrip(". ")


def _order(name: str) -> tuple[str, int, str]:
    head, _, number = name.rpartition(" ")
    return (head, int(number), "") if number.isdecimal() else (name, 0, "")
