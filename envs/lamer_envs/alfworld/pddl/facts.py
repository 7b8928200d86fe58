"""What a problem of the ALFRED domain declares and says of the start, and the names that its identifiers are shown by.

What must stay true: every predicate that commands ask for is checked for its arguments' types; the words of a problem
become names only if they are plain identifiers. Names follow the original: `Apple_bar__plus_01_dot_20` is "apple N",
numbered per type from the last identifier in sorted order down; identifiers without `_bar_` keep their own name with
spaces for `_`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from lamer_envs.alfworld.pddl.syntax import Form, Word, bad, listed, near, typed

MARKS = {"ishot": "H", "iscool": "C", "isclean": "W", "istoggled": "T", "issliced": "S"}
ABLE = {"pickupable": "p", "heatable": "h", "coolable": "c", "cleanable": "w", "toggleable": "t", "sliceable": "s"}
PREDICATES: dict[str, tuple[str, ...]] = {
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
    **dict.fromkeys((*MARKS, *ABLE), ("object",)),
}
WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    "inreceptacleobject": ("object", "object"),
    "wasinreceptacle": ("object", "receptacle"),
    "checked": ("receptacle",),
    "examined": ("location",),
    "full": ("receptacle",),
    "holdsanyreceptacleobject": ("agent",),
    **dict.fromkeys(("isreceptacleobject", "isreceptacleobjectfull", "moveable", "ison"), ("object",)),
}
"""Predicates that no command asks for; only goals may. Official files are free with them, so facts are not checked."""

_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9_.-]*", re.ASCII)


class Facts:
    """The declared identifiers and the initial facts, checked against the domain.

    `types` has every identifier's type, `all` every fact, `by_predicate` the arguments of those that commands ask for.
    """

    def __init__(self, objects: Form, init: Form) -> None:
        self.types: dict[str, str] = {}
        for name, type_ in typed(objects[1:]):
            if not _IDENTIFIER.fullmatch(name):
                bad(name.line, f"'{name[:60]}' is no identifier; use letters, digits and _")
            if self.types.setdefault(name, type_) != type_:  # official files declare some locations twice
                bad(name.line, f"'{name[:60]}' is declared as {self.types[name]} and as {type_}")
        self.by_predicate: dict[str, list[list[Word]]] = defaultdict(list)
        self.all: set[tuple[str, ...]] = set()
        self.mentioned: set[str] = set()
        self.line = init.line
        for fact in init[1:]:
            self._add(fact)

    def _add(self, fact: Form | Word) -> None:
        if isinstance(fact, Word) or not fact.head:
            bad(fact.line, "expected a fact such as (openable fridge_1)")
        predicate, args = fact.head, fact[1:]
        if predicate == "=":
            return  # costs and distances
        for arg in args:
            if isinstance(arg, Form):
                bad(arg.line, f"({predicate} ..) takes names, not lists")
            if arg not in self.types:
                bad(arg.line, f"'{arg[:60]}' is not declared in :objects{near(arg, self.types)}")
            self.mentioned.add(arg)
        self.all.add((predicate, *map(str, args)))
        if predicate in WITHOUT_EFFECT:
            return
        if predicate not in PREDICATES:
            hint = near(predicate, [*PREDICATES, *WITHOUT_EFFECT])
            bad(fact.line, f"the ALFRED domain has no predicate '{predicate[:40]}'{hint}")
        wanted = PREDICATES[predicate]
        given = tuple(self.types[arg] for arg in args if isinstance(arg, Word))
        if given != wanted:
            bad(fact.line, f"({predicate} ..) takes {listed(wanted)}, not {listed(given)}")
        self.by_predicate[predicate].append([arg for arg in args if isinstance(arg, Word)])

    def single(self, predicate: str) -> dict[str, str]:
        """First argument to second, where each first has one."""
        found: dict[str, str] = {}
        for first, second in self.by_predicate[predicate]:
            if found.setdefault(first, second) != second:
                bad(first.line, f"'{first[:60]}' has two values of {predicate}: '{found[first]}' and '{second}'")
        return found

    def holders(self, predicate: str) -> set[str]:
        return {str(args[0]) for args in self.by_predicate[predicate]}


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


def type_name(word: str) -> str:
    """The name of a type: `AppleType` is "apple"."""
    return word[:-4] if word.endswith("type") and len(word) > 4 else word
