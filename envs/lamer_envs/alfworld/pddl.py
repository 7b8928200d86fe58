"""Reads and writes PDDL problems of the ALFRED domain, the form in which official ALFWorld games keep their households.

What must stay true: reading a problem and playing it gives the admissible commands, names and wins that the original
gives for it; what cannot be read is refused with the line and the reason, never guessed at. A problem is data from
outside: bounded in size and depth, and its words become names only if they are plain identifiers.

Names follow the original: `Apple_bar__plus_01_dot_20` is "apple N", numbered per type from the last identifier in
sorted order down; identifiers without `_bar_` keep their own name with spaces for `_`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import get_close_matches
from typing import NamedTuple, NoReturn

from lamer_envs.alfworld.catalogue import fits
from lamer_envs.alfworld.generate import goal_words
from lamer_envs.alfworld.world import House, Object, Receptacle, house_text
from lamer_envs.errors import InstanceError

MAX_PROBLEM_CHARS = 1_000_000
MAX_DEPTH = 40
MAX_WORDS_CHARS = 300

_TYPES = ("agent", "location", "receptacle", "object", "rtype", "otype")
_MARKS = {"ishot": "H", "iscool": "C", "isclean": "W", "istoggled": "T", "issliced": "S"}
_ABLE = {"pickupable": "p", "heatable": "h", "coolable": "c", "cleanable": "w", "toggleable": "t", "sliceable": "s"}
_PREDICATES: dict[str, tuple[str, ...]] = {
    "atlocation": ("agent", "location"),
    "receptacleatlocation": ("receptacle", "location"),
    "objectatlocation": ("object", "location"),
    "receptacletype": ("receptacle", "rtype"),
    "objecttype": ("object", "otype"),
    "inreceptacle": ("object", "receptacle"),
    "cancontain": ("rtype", "otype"),
    "openable": ("receptacle",),
    "opened": ("receptacle",),
    "holds": ("agent", "object"),
    "holdsany": ("agent",),
    **dict.fromkeys((*_MARKS, *_ABLE), ("object",)),
}
_WITHOUT_EFFECT = {
    "isreceptacleobject", "inreceptacleobject", "isreceptacleobjectfull", "wasinreceptacle", "checked", "examined",
    "full", "moveable", "ison", "holdsanyreceptacleobject",
}  # fmt: skip
"""Predicates that no command of the six task types asks for."""

_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9_.-]*", re.ASCII)
_TOKEN = re.compile(r"[()]|[^\s()]+")


class Problem(NamedTuple):
    """A household's text (see world.House) and the name that each identifier of the problem is shown by."""

    house: str
    names: dict[str, str]


class _Word(str):
    """A lower-case word of the problem that knows its line."""

    __slots__ = ("line",)
    line: int


class _Form(list["_Form | _Word"]):
    """A parenthesised list that knows the line it opens on."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line

    @property
    def head(self) -> str:
        return self[0] if self and isinstance(self[0], _Word) else ""


def _bad(line: int, reason: str) -> NoReturn:
    raise InstanceError(f"PDDL problem, line {line}: {reason}")


# -- syntax -----------------------------------------------------------------------------------------------------------


def _parse(text: str) -> _Form:
    """The one outermost list of the text."""
    outer = _Form(1)
    stack = [outer]
    number = 0
    for number, line in enumerate(text.splitlines(), start=1):
        for match in _TOKEN.finditer(line.partition(";")[0]):
            token = match[0]
            if token == "(":
                if len(stack) > MAX_DEPTH:
                    _bad(number, f"lists are nested deeper than {MAX_DEPTH}")
                form = _Form(number)
                stack[-1].append(form)
                stack.append(form)
            elif token == ")":
                if len(stack) == 1:
                    _bad(number, "a ')' closes nothing")
                stack.pop()
            else:
                word = _Word(token.lower())
                word.line = number
                stack[-1].append(word)
    if len(stack) > 1:
        _bad(number, f"the text ends inside the list opened on line {stack[-1].line}; a ')' is missing")
    if len(outer) != 1 or not isinstance(outer[0], _Form) or outer[0].head != "define":
        _bad(1, "expected one '(define (problem NAME) ...)'")
    return outer[0]


def _typed(items: list[_Form | _Word]) -> Iterator[tuple[_Word, str]]:
    """The (name, type) pairs of a list such as `a b - receptacle c - object`."""
    waiting: list[_Word] = []
    after_dash = False
    for item in items:
        if isinstance(item, _Form):
            _bad(item.line, "a list of names and types holds no lists")
        if item == "-":
            after_dash = True
        elif after_dash:
            if item not in _TYPES:
                _bad(item.line, f"unknown type '{item[:40]}'; the ALFRED domain has {', '.join(_TYPES)}")
            for name in waiting:
                yield name, item
            waiting, after_dash = [], False
        else:
            waiting.append(item)
    if waiting:
        _bad(waiting[0].line, f"'{waiting[0][:60]}' has no type; write '{waiting[0][:60]} - object' or the like")


# -- facts ------------------------------------------------------------------------------------------------------------


class _Facts:
    """The declared identifiers and the initial facts, checked against the domain."""

    def __init__(self, objects: _Form, init: _Form) -> None:
        self.types: dict[str, str] = {}
        for name, type_ in _typed(objects[1:]):
            if not _IDENTIFIER.fullmatch(name):
                _bad(name.line, f"'{name[:60]}' is no identifier; use letters, digits and _")
            if self.types.setdefault(name, type_) != type_:  # official files declare some locations twice
                _bad(name.line, f"'{name[:60]}' is declared as {self.types[name]} and as {type_}")
        self.by_predicate: dict[str, list[list[_Word]]] = defaultdict(list)
        self.mentioned: set[str] = set()
        self.line = init.line
        for fact in init[1:]:
            self._add(fact)

    def _add(self, fact: _Form | _Word) -> None:
        if isinstance(fact, _Word) or not fact.head:
            _bad(fact.line, "expected a fact such as (openable fridge_1)")
        predicate, args = fact.head, fact[1:]
        if predicate == "=":
            return  # costs and distances
        for arg in args:
            if isinstance(arg, _Form):
                _bad(arg.line, f"({predicate} ..) takes names, not lists")
            if arg not in self.types:
                near = get_close_matches(arg, self.types, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                _bad(arg.line, f"'{arg[:60]}' is not declared in :objects{hint}")
            self.mentioned.add(arg)
        if predicate in _WITHOUT_EFFECT:
            return
        if predicate not in _PREDICATES:
            near = get_close_matches(predicate, [*_PREDICATES, *_WITHOUT_EFFECT], n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            _bad(fact.line, f"the ALFRED domain has no predicate '{predicate[:40]}'{hint}")
        wanted = _PREDICATES[predicate]
        given = tuple(self.types[arg] for arg in args if isinstance(arg, _Word))
        if given != wanted:
            _bad(fact.line, f"({predicate} ..) takes {_listed(wanted)}, not {_listed(given)}")
        self.by_predicate[predicate].append([arg for arg in args if isinstance(arg, _Word)])

    def single(self, predicate: str) -> dict[str, str]:
        """First argument to second, where each first has one."""
        found: dict[str, str] = {}
        for first, second in self.by_predicate[predicate]:
            if found.setdefault(first, second) != second:
                _bad(first.line, f"'{first[:60]}' has two values of {predicate}: '{found[first]}' and '{second}'")
        return found

    def holders(self, predicate: str) -> set[str]:
        return {str(args[0]) for args in self.by_predicate[predicate]}


def _listed(types: tuple[str, ...]) -> str:
    return f"({', '.join(types)})" if types else "nothing"


def shown_names(identifiers: set[str]) -> dict[str, str]:
    """The name that each identifier is shown by, as the original numbers them."""
    heads: dict[str, str] = {}
    for identifier in identifiers:
        head, found, _ = identifier.partition("_bar_")
        if found:
            heads[identifier] = head + ("basin" if "basin" in identifier and not head.endswith("basin") else "")
    left = Counter(heads.values())
    names = {}
    for identifier in sorted(identifiers):
        if identifier in heads:
            head = heads[identifier]
            names[identifier] = f"{head} {left[head]}"
            left[head] -= 1
        else:
            names[identifier] = " ".join(identifier.replace("_", " ").split())
    return names


# -- the goal ---------------------------------------------------------------------------------------------------------


class _Goal(NamedTuple):
    kind: str
    thing: str
    target: str


def _read_goal(form: _Form) -> _Goal:
    """The goal's kind and types, from the atoms under its `and`s and `exists`."""
    if len(form) != 2 or not isinstance(form[1], _Form):
        _bad(form.line, "expected (:goal (and ..))")
    atoms = sorted(_atoms(form[1], {}, Counter()))
    found: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for predicate, *args in atoms:
        found[predicate].append(tuple(args))
    types = {args[0]: _type_name(args[1]) for args in found["objecttype"] + found["receptacletype"]}
    shape = dict(Counter(predicate for predicate, *_ in atoms if predicate not in _ABLE))
    for marks, kind in (((), "pick"), (("isclean",), "clean"), (("ishot",), "heat"), (("iscool",), "cool")):
        if shape == {"inreceptacle": 1, "objecttype": 1, "receptacletype": 1} | dict.fromkeys(marks, 1):
            (thing, place) = found["inreceptacle"][0]
            if {thing, place} <= types.keys() and all(found[mark] == [(thing,)] for mark in marks):
                return _Goal(kind, types[thing], types[place])
    places = {place for _, place in found["inreceptacle"]}
    if set(shape) == {"inreceptacle", "objecttype", "receptacletype", "differ"} and shape["inreceptacle"] == 2:
        things = {thing for thing, _ in found["inreceptacle"]}
        kinds = {types.get(thing) for thing in things}
        if len(places) == 1 == len(kinds) and None not in kinds and {*found["differ"][0]} == things:
            return _Goal("pick2", types[min(things)], types[min(places)])
    if found["holds"] and found["istoggled"] and len(found["holds"]) == 1 == len(found["istoggled"]):
        ((_, thing),), ((lamp,),) = found["holds"], found["istoggled"]
        near = [{"receptacleatlocation", "inreceptacle"}, {"objectatlocation"}]
        rest = set(shape) - {"holds", "istoggled", "objecttype", "atlocation"}
        if rest in near and thing in types and lamp in types and thing != lamp and found["atlocation"]:
            return _Goal("look", types[thing], types[lamp])
    _bad(
        form.line,
        "the goal is none of the six of ALFWorld (pick, look, clean, heat, cool, pick two); it asks for "
        + (", ".join(sorted(shape))[:200] or "nothing"),
    )


def _atoms(form: _Form | _Word, scope: dict[str, str], count: Counter[str]) -> Iterator[tuple[str, ...]]:
    """The atoms of a conjunction, every variable renamed so that it is one of a kind."""
    if isinstance(form, _Word) or not form.head:
        _bad(form.line, "expected a condition such as (inReceptacle ?o ?r)")
    if form.head == "and":
        for part in form[1:]:
            yield from _atoms(part, scope, count)
    elif form.head == "exists":
        if len(form) != 3 or not isinstance(form[1], _Form):
            _bad(form.line, "expected (exists (?x - type ..) condition)")
        inner = dict(scope)
        for name, _ in _typed(form[1]):
            count[name] += 1
            inner[name] = f"{name}#{count[name]}"
        yield from _atoms(form[2], inner, count)
    elif form.head == "not" and len(form) == 2 and isinstance(form[1], _Form) and form[1].head == "=":
        yield ("differ", *_arguments(form[1], scope))
    elif form.head in _PREDICATES and len(form) - 1 == len(_PREDICATES[form.head]):
        yield (form.head, *_arguments(form, scope))
    else:
        _bad(form.line, f"goals of the six task types have no '{form.head[:40]}' with {len(form) - 1} arguments")


def _arguments(form: _Form, scope: dict[str, str]) -> list[str]:
    names = []
    for arg in form[1:]:
        if isinstance(arg, _Form):
            _bad(arg.line, f"({form.head} ..) takes names, not lists")
        if arg.startswith("?") and arg not in scope:
            _bad(arg.line, f"the variable '{arg[:40]}' is not bound by an exists around it")
        names.append(scope.get(arg, str(arg)))
    return names


def _type_name(word: str) -> str:
    return word[:-4] if word.endswith("type") and len(word) > 4 else word


# -- the household ----------------------------------------------------------------------------------------------------


def read_problem(text: str, words: str | None = None) -> Problem:
    """The household and goal of a PDDL problem of the ALFRED domain; `words` is the goal as a sentence.

    Raises InstanceError with the line and the reason.
    """
    if len(text) > MAX_PROBLEM_CHARS:
        _bad(1, f"the problem has {len(text)} characters; at most {MAX_PROBLEM_CHARS} are read")
    sections = {part.head: part for part in _parse(text)[1:] if isinstance(part, _Form)}
    for name in (":objects", ":init", ":goal"):
        if name not in sections:
            _bad(1, f"the problem has no ({name} ..)")
    facts = _Facts(sections[":objects"], sections[":init"])
    goal = _read_goal(sections[":goal"])
    names = {i: n for i, n in shown_names(facts.mentioned).items() if facts.types[i] in ("receptacle", "object")}
    for name, times in Counter(names.values()).items():
        if times > 1:
            _bad(sections[":objects"].line, f"{times} identifiers would all be shown as '{name}'")
    if facts.by_predicate["holds"] or facts.by_predicate["holdsany"]:
        _bad(facts.line, "an episode starts with empty hands; leave holds out of :init")
    agents = facts.single("atlocation")
    if len(agents) != 1:
        _bad(facts.line, f"expected (atLocation AGENT LOCATION) for one agent, found {len(agents)}")

    at = facts.single("receptacleatlocation")
    lies = {str(args[0]): str(args[1]) for args in facts.by_predicate["objectatlocation"]}
    used = sorted({*at.values(), *agents.values(), *lies.values()})
    places = {location: number for number, location in enumerate(used)}
    rtypes = {i: _type_name(t) for i, t in facts.single("receptacletype").items()}
    otypes = {i: _type_name(t) for i, t in facts.single("objecttype").items()}
    inside: dict[str, set[str]] = defaultdict(set)
    for thing, place in facts.by_predicate["inreceptacle"]:
        inside[thing].add(place)
    openable, opened = facts.holders("openable"), facts.holders("opened")
    flags = {flag: facts.holders(name) for name, flag in {**_ABLE, **_MARKS}.items()}
    flags["T"] &= flags["t"]

    ids = sorted((i for i in names if facts.types[i] == "receptacle"), key=lambda i: _order(names[i]))
    number = {i: n for n, i in enumerate(ids)}
    receptacles = [
        Receptacle(names[i], rtypes.get(i, "none"), places.get(at.get(i, "")), i in openable, i in opened) for i in ids
    ]
    movables = [i for i in names if facts.types[i] == "object" and (inside[i] or i in flags["s"])]
    objects = [
        Object(
            names[i],
            otypes.get(i, "none"),
            tuple(sorted(number[r] for r in inside[i])),
            "".join(flag for flag, holders in flags.items() if i in holders),
            places[lies[i]] if i in flags["s"] and i in lies else None,
        )
        for i in sorted(movables, key=lambda i: _order(names[i]))
    ]
    pairs = {(_type_name(r), _type_name(o)) for r, o in facts.by_predicate["cancontain"]}
    present = {(r.type, o.type) for r in receptacles for o in objects}
    table = "*"
    if any(((r, o) in pairs) != fits(r, o) for r, o in present):
        table = ",".join(sorted(f"{r}={o}" for r, o in pairs & present))
    (start,) = agents.values()
    said = one_line(words) if words else goal_words(*goal)
    return Problem(
        house_text((goal.kind, goal.thing, goal.target), said, places[start], receptacles, objects, table), names
    )


def one_line(words: str) -> str:
    """A sentence from outside as one bounded line without the full stop at its end."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())[:MAX_WORDS_CHARS].rstrip(". ")


def _order(name: str) -> tuple[str, int, str]:
    head, _, number = name.rpartition(" ")
    return (head, int(number), "") if number.isdecimal() else (name, 0, "")


# -- writing ----------------------------------------------------------------------------------------------------------

_TREATED = {"clean": ("cleanable", "isClean"), "heat": ("heatable", "isHot"), "cool": ("coolable", "isCool")}
_KNOWN_TYPES = (
    "SinkBasinType - rtype", "SinkType - rtype", "MicrowaveType - rtype", "FridgeType - rtype",
    "KnifeType - otype", "ButterKnifeType - otype",
)  # fmt: skip
"""Types that the original's domain mentions in its actions."""


def write_problem(h: House) -> str:
    """A household and its goal as a PDDL problem of the ALFRED domain; `read_problem` gives the same household."""
    ids = {name: _identifier(name) for name in h.names}
    declared = {ids[r.name]: "receptacle" for r in h.receptacles} | {ids[o.name]: "object" for o in h.objects}
    otypes = {o.type for o in h.objects} | {h.thing} | ({h.target} if h.kind == "look" else set())
    rtypes = {r.type for r in h.receptacles} | (set() if h.kind == "look" else {h.target})
    places = sorted({h.start, *h.reach, *(o.lies_at for o in h.objects if o.lies_at is not None)})
    facts = [f"(atLocation agent1 {_place(h.start)})"]
    for name, fillers in _gaps(h).items():
        declared[name] = fillers
        facts.append(f"(moveable {name})")
    for r in h.receptacles:
        facts.append(f"(receptacleType {ids[r.name]} {r.type}Type)")
        facts += [f"(receptacleAtLocation {ids[r.name]} {_place(r.place)})"] if r.place is not None else []
        facts += [f"(openable {ids[r.name]})"] if r.openable else []
        facts += [f"(opened {ids[r.name]})"] if r.opened else []
    flags = {flag: name for name, flag in {**_ABLE, **_MARKS}.items()}
    for o in h.objects:
        facts.append(f"(objectType {ids[o.name]} {o.type}Type)")
        facts += [f"({flags[flag]} {ids[o.name]})" for flag in o.flags]
        lies = {o.lies_at} if o.lies_at is not None else {h.receptacles[r].place for r in o.where}
        facts += [f"(inReceptacle {ids[o.name]} {ids[h.receptacles[r].name]})" for r in o.where]
        facts += [f"(objectAtLocation {ids[o.name]} {_place(at)})" for at in sorted(p for p in lies if p is not None)]
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
            f"(:goal {_goal_condition(h)})",
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


def _goal_condition(h: House) -> str:
    o, r = f"(objectType ?o {h.thing}Type)", f"(receptacleType ?r {h.target}Type)"
    if h.kind == "look":
        lamp = f"(objectType ?lamp {h.target}Type) (toggleable ?lamp) (isToggled ?lamp)"
        return (
            "(and (exists (?lamp - object ?r - receptacle ?a - agent ?l - location) "
            f"(and {lamp} (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?lamp ?r))) "
            f"(exists (?o - object ?a - agent) (and {o} (holds ?a ?o))))"
        )
    extra = ""
    if h.kind in _TREATED:
        able, done = _TREATED[h.kind]
        extra = f" ({able} ?o) ({done} ?o)"
    if h.kind == "pick2":
        extra = (
            f" (exists (?o2 - object) (and (not (= ?o ?o2)) (objectType ?o2 {h.thing}Type) {r} (inReceptacle ?o2 ?r)))"
        )
    return f"(and (exists (?r - receptacle) (exists (?o - object) (and {o} {r} (inReceptacle ?o ?r){extra}))))"
