"""A goal worked out for one household: every variable replaced by the things there are, what cannot change left out.

What must stay true: the condition that comes out holds in a state exactly where the goal does, by the effects of the
original's planning domain; the work and the result are bounded, and a goal beyond the bounds is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from lamer_envs.alfworld.condition import Condition, atoms
from lamer_envs.alfworld.house import Object, Receptacle
from lamer_envs.alfworld.pddl.facts import MARKS, Facts, type_name
from lamer_envs.alfworld.pddl.goals import All, Atom, Exists, Goal, Not, Some
from lamer_envs.alfworld.pddl.syntax import bad

MAX_STEPS = 200_000
"""Predicates looked at while a goal is worked out."""
MAX_ATOMS = 4_000
"""Predicates that are left of it, to be looked at after every command."""

_STATE_MARKS = {"ishot": "hot", "iscool": "cool", "isclean": "clean", "istoggled": "lit", "issliced": "cut"}
assert _STATE_MARKS.keys() == MARKS.keys()


class Numbers(NamedTuple):
    """How a state numbers the things of a problem; `agent` is the one that plays."""

    facts: Facts
    agent: str
    places: Mapping[str, int]
    receptacles: Mapping[str, int]
    objects: Mapping[str, int]
    every_receptacle: list[Receptacle]
    every_object: list[Object]


def ground(goal: Goal, numbers: Numbers, line: int) -> tuple[Condition, dict[str, list[Any]]]:
    """The condition on states that a goal comes to, and what its notes are at the start. Raises InstanceError."""
    condition = _Grounding(numbers, line).work_out(goal, {}, True)
    if sum(1 for _ in atoms(condition)) > MAX_ATOMS:
        bad(line, f"the goal is too large: more than {MAX_ATOMS} facts of this household decide it")
    return condition, _notes(condition, numbers)


def _notes(condition: Condition, numbers: Numbers) -> dict[str, list[Any]]:
    needed = {atom[0] for atom in atoms(condition)}
    notes: dict[str, list[Any]] = {}
    for note, predicate, known in (
        ("checked", "checked", numbers.receptacles),
        ("on", "ison", numbers.objects),
    ):
        if note in needed:
            notes[note] = sorted(n for name, n in known.items() if (predicate, name) in numbers.facts.all)
    if "lies" in needed:
        lies: list[list[int]] = [[] for _ in numbers.every_object]
        for thing, place in numbers.facts.by_predicate["objectatlocation"]:
            if thing in numbers.objects and place in numbers.places:
                lies[numbers.objects[thing]].append(numbers.places[place])
        notes["lies"] = [sorted(set(places)) for places in lies]
    return notes


class _Grounding:
    def __init__(self, numbers: Numbers, line: int) -> None:
        self.numbers, self.line = numbers, line
        self.facts = numbers.facts
        self.pairs = {(args[0], args[1]) for args in self.facts.by_predicate["cancontain"]}
        self.of_type: dict[str, list[str]] = defaultdict(list)
        for name, type_ in self.facts.types.items():
            self.of_type[type_].append(name)
        self.steps = 0

    def work_out(self, goal: Goal, bound: dict[str, str], wanted: bool) -> Condition:
        """The condition that `goal` is `wanted`: true or false."""
        match goal:
            case Not(part):
                return self.work_out(part, bound, not wanted)
            case All(parts):
                return _join(wanted, (self.work_out(part, bound, wanted) for part in parts))
            case Some(parts):
                return _join(not wanted, (self.work_out(part, bound, wanted) for part in parts))
            case Exists(variables, part):
                every = self._bindings(variables, part, bound)
                return _join(not wanted, (self.work_out(part, binding, wanted) for binding in every))
            case Atom(predicate, args):
                value = self._value(predicate, tuple(bound.get(arg, arg) for arg in args))
                if isinstance(value, bool):
                    return value is wanted
                return value if wanted else ("not", value)

    def _bindings(
        self, variables: tuple[tuple[str, str], ...], part: Goal, bound: dict[str, str]
    ) -> Iterator[dict[str, str]]:
        """Every choice of things for the variables that does not make `part` false from the start."""
        if not variables:
            yield bound
            return
        (name, type_), *rest = variables
        # One thing stands for all where it does not matter which.
        for thing in self.of_type[type_][: None if name in _mentioned(part) else 1]:
            inner = {**bound, name: thing}
            if self._decided(part, inner) is not False:
                yield from self._bindings(tuple(rest), part, inner)

    def _decided(self, goal: Goal, bound: Mapping[str, str]) -> bool | None:
        """What a goal is whatever is done and whatever its free variables are; None if that is open."""
        match goal:
            case Not(part):
                value = self._decided(part, bound)
                return None if value is None else not value
            case All(parts) | Some(parts):
                settles = isinstance(goal, Some)
                values = []
                for part in parts:
                    values.append(self._decided(part, bound))
                    if values[-1] is settles:
                        return settles
                return None if None in values else not settles
            case Atom(predicate, args):
                names = [bound.get(arg, arg) for arg in args]
                if any("#" in name for name in names):
                    return None
                found = self._value(predicate, tuple(names))
                return found if isinstance(found, bool) else None
        return None

    def _value(self, predicate: str, args: tuple[str, ...]) -> Condition:
        """What an atom of identifiers is in every state, or the condition that it comes to."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            bad(
                self.line,
                f"the goal is too large: it takes more than {MAX_STEPS} steps to work out for this household; "
                "use fewer variables in one exists or forall, and say of which type each thing is",
            )
        if predicate == "=":
            return args[0] == args[1]
        changing = self._changing(predicate, args)
        return (predicate, *args) in self.facts.all if changing is None else changing

    def _changing(self, predicate: str, args: tuple[str, ...]) -> Condition | None:
        """The condition of an atom that commands can change, None for one that stays as it starts."""
        n = self.numbers
        if predicate in ("atlocation", "holds", "holdsany"):
            if args[0] != n.agent:
                return None
            if predicate == "holdsany":
                return ("hands",)
            known, atom = (n.places, "at") if predicate == "atlocation" else (n.objects, "held")
            return (atom, known[args[1]]) if args[1] in known else None
        if predicate in ("opened", "checked"):
            r = n.receptacles.get(args[0])
            able = r is not None and (predicate == "checked" or n.every_receptacle[r].openable)
            return ("open" if predicate == "opened" else "checked", r) if able else None
        o = n.objects.get(args[0]) if args else None
        if o is None:
            return None
        thing = n.every_object[o]
        if predicate == "inreceptacle":
            return self._inside(o, args[1])
        if predicate == "objectatlocation":
            return ("lies", o, n.places[args[1]]) if "p" in thing.flags and args[1] in n.places else None
        if predicate in ("istoggled", "ison") and "t" not in thing.flags:
            return None
        if predicate in _STATE_MARKS:
            return (_STATE_MARKS[predicate], o)
        return ("on", o) if predicate == "ison" else None

    def _inside(self, o: int, receptacle: str) -> Condition | None:
        """An object that cannot be taken stays, and one goes only where it fits."""
        thing, r = self.numbers.every_object[o], self.numbers.receptacles.get(receptacle)
        if r is None or "p" not in thing.flags:
            return None
        place = self.numbers.every_receptacle[r]
        fits = any((type_name(a), type_name(b)) == (place.type, thing.type) for a, b in self.pairs)
        return ("in", o, r) if r in thing.where or (fits and place.place is not None) else None


@lru_cache(maxsize=256)
def _mentioned(goal: Goal) -> frozenset[str]:
    """The names that a goal's atoms hold."""
    match goal:
        case Atom(_, args):
            return frozenset(args)
        case Not(part) | Exists(_, part):
            return _mentioned(part)
        case All(parts) | Some(parts):
            return frozenset().union(*map(_mentioned, parts))


def _join(conjunction: bool, parts: Iterator[Condition]) -> Condition:
    """All of the parts, or some of them, without what does not matter."""
    head = "and" if conjunction else "or"
    kept: dict[Condition, None] = {}
    for part in parts:
        if isinstance(part, bool):
            if part is not conjunction:
                return part
        else:
            kept |= dict.fromkeys(part[1:] if part[0] == head else [part])
    if len(kept) < 2:
        return next(iter(kept), conjunction)
    return (head, *kept)
