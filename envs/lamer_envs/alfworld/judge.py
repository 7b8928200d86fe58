"""What texts tell of where things are: outcomes, trajectories, notes and reflections alike.

What must stay true: a place counts as seen with or without the wanted thing only where a text says so; what was wanted
is the household's thing, of any number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from lamer_envs.alfworld.house import House
from lamer_envs.base import State

SEEN = re.compile(r"(?:go to|open|examine) ([a-z]+ [0-9]+)(?:: | -> )(closed|has ([a-z0-9 ()]+))")
SEE = re.compile(r"(?:s(?:ee|aw)|found) (?:the |a )?([a-z]+) ([0-9]+) (?:in|on) (?:the )?([a-z]+ [0-9]+)")
IS_IN = re.compile(r"([a-z]+) ([0-9]+) (?:is|was|lies) (?:in|on|at) (?:the )?([a-z]+ [0-9]+)")
NONE_IN = re.compile(r"no ([a-z]+) in ([a-z]+ [0-9]+(?: and [a-z]+ [0-9]+)*)")


@dataclass
class Known:
    """What texts tell: places by things seen there, and places seen without the thing that is wanted."""

    wanted: str
    at: dict[str, str] = field(default_factory=dict)
    """Things of the wanted type, with the place."""
    without: list[str] = field(default_factory=list)

    def read(self, texts: Iterable[str]) -> Known:
        """Take in outcomes, trajectories and notes, oldest first."""
        for text in texts:
            for place, _, listed in SEEN.findall(text):
                names = [name for name in listed.split(" and ") if name]
                own = [name for name in names if name.split(" ")[0] == self.wanted]
                self.at |= dict.fromkeys(own, place)
                if names and not own:
                    self._empty(place)
            for thing, number, place in [*SEE.findall(text), *IS_IN.findall(text)]:
                if thing == self.wanted:
                    self.at[f"{thing} {number}"] = place
            for thing, places in NONE_IN.findall(text):
                for place in places.split(" and ") if thing == self.wanted else ():
                    self._empty(place)
        return self

    def _empty(self, place: str) -> None:
        if place not in self.without:
            self.without.append(place)


def is_true(h: House, start: State, text: str) -> bool:
    """Whether a text says where the wanted things are or are not, and says it as it was at the start."""
    known = Known(h.thing).read([text])
    lying = {place.name: inside(h, start, r) for r, place in enumerate(h.receptacles)}
    right = all(name in lying.get(place, ()) for name, place in known.at.items())
    empty = all(
        place in lying and all(name.split(" ")[0] != h.thing for name in lying[place]) for place in known.without
    )
    return bool(known.at or known.without) and right and empty


def inside(h: House, state: State, r: int) -> set[str]:
    """Names of what lies in a receptacle, be it open or closed."""
    return {thing.name for o, thing in enumerate(h.objects) if r in state["in"][o]}
