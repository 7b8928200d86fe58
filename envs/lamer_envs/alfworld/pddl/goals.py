"""Goals of problems: conditions of and, or, not, imply, exists and forall over the domain's predicates.

What must stay true: a goal that is read is well-formed: predicates of the domain, arguments of the right number and
types, identifiers that are declared, variables that are bound. `pattern_of` says which of ALFWorld's six task types a
goal is, for experts and for texts, and whether it is that type's goal exactly, so that the type decides the win.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple, TypeAlias

from lamer_envs.alfworld.pddl.facts import ABLE, PREDICATES, WITHOUT_EFFECT, type_name
from lamer_envs.alfworld.pddl.syntax import Form, Word, bad, listed, near, parse, typed

_EVERY = {**PREDICATES, **WITHOUT_EFFECT}
_CONNECTIVES = ("and", "or", "not", "imply", "exists", "forall")


@dataclass(frozen=True, slots=True)
class Atom:
    """A predicate, or `=`, of identifiers and variables."""

    predicate: str
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class All:
    parts: tuple[Goal, ...]


@dataclass(frozen=True, slots=True)
class Some:
    parts: tuple[Goal, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Goal


@dataclass(frozen=True, slots=True)
class Exists:
    """`variables` with their types; every variable of a goal has a name of its own, such as "?o#2"."""

    variables: tuple[tuple[str, str], ...]
    part: Goal


Goal: TypeAlias = Atom | All | Some | Not | Exists
"""`imply` and `forall` are read as what they mean in these."""


def read_goal(form: Form, types: Mapping[str, str]) -> Goal:
    """The goal of `(:goal condition)`; `types` has the type of every declared identifier. Raises InstanceError."""
    if len(form) != 2 or not isinstance(form[1], Form):
        bad(form.line, "expected (:goal (and ..))")
    return _Reader(types).read(form[1], {})


class _Reader:
    def __init__(self, types: Mapping[str, str]) -> None:
        self.types = dict(types)
        """Of identifiers, and of the variables met so far."""
        self.met = 0

    def read(self, form: Form | Word, scope: Mapping[str, str]) -> Goal:
        if isinstance(form, Word) or not form.head:
            bad(form.line, "expected a condition such as (inReceptacle ?o ?r)")
        parts = form[1:]
        match form.head:
            case "and":
                return All(tuple(self.read(part, scope) for part in parts))
            case "or":
                return Some(tuple(self.read(part, scope) for part in parts))
            case "not":
                (part,) = self._parts(form, "(not condition)")
                return Not(self.read(part, scope))
            case "imply":
                first, second = self._parts(form, "(imply condition condition)")
                return Some((Not(self.read(first, scope)), self.read(second, scope)))
            case "exists" | "forall":
                names, part = self._parts(form, f"({form.head} (?x - type ..) condition)")
                if not isinstance(names, Form):
                    bad(form.line, f"expected ({form.head} (?x - type ..) condition)")
                inner, bound = self._bound(names, scope)
                found = self.read(part, inner)
                return Exists(bound, found) if form.head == "exists" else Not(Exists(bound, Not(found)))
        return self._atom(form, scope)

    def _parts(self, form: Form, right: str) -> list[Form | Word]:
        wanted = 1 if form.head == "not" else 2
        if len(form) != wanted + 1:
            bad(form.line, f"expected {right}")
        return form[1:]

    def _bound(self, names: Form, scope: Mapping[str, str]) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
        """The scope within a quantifier, and its variables."""
        inner, bound = dict(scope), []
        for name, type_ in typed(list(names)):
            if not name.startswith("?"):
                bad(name.line, f"'{name[:40]}' is no variable; write '?{name[:40]} - {type_}'")
            self.met += 1
            own = f"{name}#{self.met}"
            inner[name] = own
            self.types[own] = str(type_)
            bound.append((own, str(type_)))
        return inner, tuple(bound)

    def _atom(self, form: Form, scope: Mapping[str, str]) -> Atom:
        predicate = str(form.head)
        if predicate != "=" and predicate not in _EVERY:
            hint = near(predicate, [*_EVERY, *_CONNECTIVES])
            bad(form.line, f"the ALFRED domain has no predicate '{predicate[:40]}'{hint}")
        args = []
        for arg in form[1:]:
            if isinstance(arg, Form):
                bad(arg.line, f"({predicate} ..) takes names, not lists")
            if arg.startswith("?") and arg not in scope:
                bad(arg.line, f"the variable '{arg[:40]}' is not bound by an exists or forall around it")
            name = scope.get(arg, str(arg))
            if name not in self.types:
                bad(arg.line, f"'{arg[:60]}' is not declared in :objects{near(arg, self.types)}")
            args.append(name)
        given = tuple(self.types[name] for name in args)
        if predicate == "=":
            if len(given) != 2:
                bad(form.line, f"(= ..) takes two names, not {len(given)}")
        elif given != _EVERY[predicate]:
            bad(form.line, f"({predicate} ..) takes {listed(_EVERY[predicate])}, not {listed(given)}")
        return Atom(predicate, tuple(args))


# -- the six patterns -------------------------------------------------------------------------------------------------

_PLACED = "(objectType ?o THING) (receptacleType ?r TARGET) (inReceptacle ?o ?r)"
_LIT = "(objectType ?lamp TARGET) (toggleable ?lamp) (isToggled ?lamp) (atLocation ?a ?l)"
_HELD = "(exists (?o - object ?a - agent) (and (objectType ?o THING) (holds ?a ?o)))"


def _bring(extra: str) -> str:
    return f"(and (exists (?r - receptacle) (exists (?o - object) (and {_PLACED}{extra}))))"


def _look(extra: str) -> str:
    return f"(and (exists (?lamp - object ?r - receptacle ?a - agent ?l - location) (and {_LIT} {extra})) {_HELD})"


PATTERNS = {
    "pick": _bring(""),
    "look": _look("(receptacleAtLocation ?r ?l) (inReceptacle ?lamp ?r)"),
    "clean": _bring(" (cleanable ?o) (isClean ?o)"),
    "heat": _bring(" (heatable ?o) (isHot ?o)"),
    "cool": _bring(" (coolable ?o) (isCool ?o)"),
    "pick2": _bring(
        " (exists (?o2 - object) (and (not (= ?o ?o2)) (objectType ?o2 THING) (receptacleType ?r TARGET) "
        "(inReceptacle ?o2 ?r)))"
    ),
}
"""What each task type asks for, with THING and TARGET for its types."""
_OLDER_LOOK = _look("(objectAtLocation ?lamp ?l)").replace("?r - receptacle ", "")


class Pattern(NamedTuple):
    """A task type with the names of its types. `exact`: its goal is the very pattern, and no more or less."""

    kind: str
    thing: str
    target: str
    exact: bool


_Atoms = frozenset[tuple[str, ...]]


class _Wish(NamedTuple):
    """A goal that says that some things exist which fulfil some atoms; `=` there means that two things differ."""

    variables: tuple[tuple[str, str], ...]
    atoms: _Atoms


def pattern_of(goal: Goal, agent: str) -> Pattern | None:
    """The task type that a goal is of, None if of none. What can be done with a thing (`heatable`) may be left out of
    it or added, but is then not exact. There is one agent."""
    wish = _wish(goal, agent)
    if wish is None or len(wish.variables) > 4:
        return None
    found = [pattern for kind, form in _wishes() for pattern in _compared(kind, form, wish)]
    return max(found, key=lambda pattern: pattern.exact, default=None)


@lru_cache(maxsize=1)
def _wishes() -> list[tuple[str, _Wish]]:
    found = []
    for kind, text in [*PATTERNS.items(), ("look", _OLDER_LOOK)]:
        types = {"thing": "otype", "target": "otype" if kind == "look" else "rtype"}
        wish = _wish(_Reader(types).read(parse(text, "and", text), {}), "")
        assert wish is not None
        found.append((kind, wish))
    return found


def _compared(kind: str, form: _Wish, wish: _Wish) -> Iterator[Pattern]:
    """The pattern, for every way to match the variables of a wish with a form's."""
    if len(form.variables) != len(wish.variables):
        return
    for order in permutations(wish.variables):
        pairs = list(zip(order, form.variables, strict=True))
        if any(own[1] != formal[1] for own, formal in pairs):
            continue
        names = {own[0]: formal[0] for own, formal in pairs}
        said = _renamed(wish.atoms, names)
        types = {atom[1]: atom[2] for atom in said if atom[0] in ("objecttype", "receptacletype")}
        given = {atom[2]: types.get(atom[1], "") for atom in form.atoms if atom[0] in ("objecttype", "receptacletype")}
        meant = _renamed(form.atoms, given)
        if _without_able(said) == _without_able(meant):
            # The older form asks for a place of the lamp's own, which its pattern does not keep.
            exact = said == meant and not any(atom[0] == "objectatlocation" for atom in said)
            yield Pattern(kind, type_name(given["thing"]), type_name(given["target"]), exact)


def _renamed(atoms: _Atoms, names: Mapping[str, str]) -> _Atoms:
    found = ((predicate, *(names.get(arg, arg) for arg in args)) for predicate, *args in atoms)
    return frozenset(("=", *sorted(atom[1:])) if atom[0] == "=" else atom for atom in found)


def _without_able(atoms: _Atoms) -> _Atoms:
    return frozenset(atom for atom in atoms if atom[0] not in ABLE)


def _wish(goal: Goal, agent: str) -> _Wish | None:
    """The goal as a wish, its agents all the one there is, called ""; None if it is none."""
    variables: list[tuple[str, str]] = []
    atoms: set[tuple[str, ...]] = set()
    left = [goal]
    while left:
        match left.pop():
            case All(parts):
                left += parts
            case Exists(bound, part):
                variables += bound
                left.append(part)
            case Atom(predicate, args) if predicate != "=":
                atoms.add((predicate, *args))
            case Not(Atom("=", args)):
                atoms.add(("=", *args))
            case _:
                return None
    agents = {name: "" for name, type_ in variables if type_ == "agent"} | {agent: ""}
    others = tuple((name, type_) for name, type_ in variables if type_ != "agent")
    return _Wish(others, _renamed(frozenset(atoms), agents))
