"""ALFWorld's planning domain a second time: a set of facts that commands change, and goals evaluated by trying all.

Shares nothing with `lamer_envs.alfworld` but the names that identifiers are shown by: problems are read by another
reader, commands have the effects that the domain lists, and quantifiers try every declared thing.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any

TYPES = {"agent", "location", "receptacle", "object", "rtype", "otype"}


def lists(text: str) -> Any:
    """Nested lists of lower-case words."""
    text = re.sub(r";.*", "", text).lower()
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    return stack[0][0]


def typed(words: list[str]) -> list[tuple[str, str]]:
    found, waiting = [], []
    for at, word in enumerate(words):
        if word == "-":
            found += [(name, words[at + 1]) for name in waiting]
            waiting = []
        elif words[at - 1] != "-" or at == 0:
            waiting.append(word)
    return found


class Facts:
    """One game: what is declared, what is true now, and the goal."""

    def __init__(self, problem: str, names: dict[str, str]) -> None:
        parts = {part[0]: part[1:] for part in lists(problem)[1:]}
        self.of_type: dict[str, set[str]] = {type_: set() for type_ in TYPES}
        for name, type_ in typed(parts[":objects"]):
            self.of_type[type_].add(name)
        self.true = {tuple(fact) for fact in parts[":init"] if fact[0] != "="}
        (self.goal,) = parts[":goal"]
        self.ids = {name: identifier for identifier, name in names.items()}
        self.agent = next(fact[1] for fact in self.true if fact[0] == "atlocation")

    def holds(self, goal: Any = None, bound: dict[str, str] | None = None) -> bool:
        goal, bound = (self.goal if goal is None else goal), bound or {}
        head, *rest = goal
        if head == "and":
            return all(self.holds(part, bound) for part in rest)
        if head == "or":
            return any(self.holds(part, bound) for part in rest)
        if head == "not":
            return not self.holds(rest[0], bound)
        if head == "imply":
            return not self.holds(rest[0], bound) or self.holds(rest[1], bound)
        if head in ("exists", "forall"):
            names, types = zip(*typed(rest[0]), strict=True)
            things = product(*(self.of_type[type_] for type_ in types))
            tried = (self.holds(rest[1], {**bound, **dict(zip(names, some, strict=True))}) for some in things)
            return any(tried) if head == "exists" else all(tried)
        args = [bound.get(arg, arg) for arg in rest]
        return args[0] == args[1] if head == "=" else (head, *args) in self.true

    def do(self, command: str) -> None:
        """The effects of a command that is admissible."""
        verb, _, rest = command.partition(" ")
        true, agent = self.true, self.agent
        here = next(fact[2] for fact in true if fact[:2] == ("atlocation", agent))
        words = rest.removeprefix("to ")
        for separator in (" from ", " to ", " with "):
            if verb in ("take", "move", "heat", "cool", "clean", "slice"):
                words = words.replace(separator, "|", 1)
        first, *more = [self.ids.get(word, "") for word in words.split("|")]
        if verb == "go":
            true -= {("atlocation", agent, here)}
            true |= {("atlocation", agent, next(f[2] for f in true if f[:2] == ("receptacleatlocation", first)))}
        elif verb == "open":
            true |= {("opened", first), ("checked", first)}
        elif verb == "close":
            true -= {("opened", first)}
        elif verb == "examine":
            true |= {("checked", first)}
        elif verb == "use":
            flipped = {("ison", first)}
            self.true = (true - flipped if flipped <= true else true | flipped) | {("istoggled", first)}
        elif verb == "take":
            true -= {("inreceptacle", first, more[0]), ("objectatlocation", first, here)}
            true |= {("holds", agent, first), ("holdsany", agent)}
        elif verb == "move":
            true |= {("inreceptacle", first, more[0]), ("objectatlocation", first, here)}
            true -= {("holds", agent, first), ("holdsany", agent)}
        elif verb in ("heat", "cool"):
            gained, lost = ("ishot", "iscool") if verb == "heat" else ("iscool", "ishot")
            true |= {(gained, first)}
            true -= {(lost, first)}
        elif verb in ("clean", "slice"):
            true |= {("isclean" if verb == "clean" else "issliced", first)}
