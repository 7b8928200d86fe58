"""Households that stay: the same receptacles with the same things in them for many tasks, and a chore for each.

What must stay true: a household follows from its number and the rooms it may be alone, so that turns and splits leave
it as it is; its tasks differ in the goal and in nothing else; every chore that is handed out is not done yet, and full
knowledge does it within the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from lamer_envs.alfworld.catalogue import LAMP_PLACES, LAMPS, PLACES, ROOMS, THINGS
from lamer_envs.alfworld.experts import plan
from lamer_envs.alfworld.generate import (
    HIDDEN_SHARE,
    ROOMS_OF,
    between,
    fitting,
    furniture,
    goal_words,
    goals,
    pick,
    room_things,
)
from lamer_envs.alfworld.house import KINDS, House, Object, Receptacle, house_text
from lamer_envs.alfworld.world import goal_reached
from lamer_envs.parameters import generator

MOST_HOUSEHOLDS = 1000
_TYPES_OF_THINGS = (12, 16)
"""How many draws of a type of thing a household gets: more than a household of one task has, as any may be wanted."""


class Chore(NamedTuple):
    """A goal: its task type, and the types of its object and its target."""

    kind: str
    thing: str
    target: str


class Household(NamedTuple):
    """A room and all that is in it, without a goal."""

    room: str
    receptacles: tuple[Receptacle, ...]
    objects: tuple[Object, ...]

    def text(self, chore: Chore, wording: int = 0) -> str:
        """The text of the household with this chore, told in one of two ways."""
        words = goal_words(*chore, wording)
        return house_text(chore, words, len(self.receptacles), self.receptacles, self.objects)


def rooms_for(kinds: Sequence[str]) -> tuple[str, ...]:
    """The rooms in which chores of these task types are done."""
    return tuple(room for room in ROOMS if any(room in ROOMS_OF[kind] for kind in kinds))


@lru_cache(maxsize=MOST_HOUSEHOLDS)
def household(number: int, rooms: tuple[str, ...]) -> Household:
    """The household of this number, which is one of `rooms`."""
    rng = generator("alfworld", "household", number, *rooms)
    room = pick(rng, rooms)
    receptacles: list[Receptacle] = []
    by_type: dict[str, list[int]] = {}
    for name, least, most, openable in furniture(room):
        first, count = len(receptacles), between(rng, least, most)
        by_type[name] = list(range(first, first + count))
        receptacles += [Receptacle(f"{name} {n + 1}", name, first + n, openable, False) for n in range(count)]
    objects: list[Object] = []
    if stands := [i for place in LAMP_PLACES for i in by_type.get(place, ())]:
        for lamp in {pick(rng, LAMPS): None for _ in range(2)}:
            objects.append(Object(f"{lamp} 1", lamp, (pick(rng, stands),), "t"))
    others = room_things(room)
    for name in {pick(rng, others): None for _ in range(between(rng, *_TYPES_OF_THINGS))}:
        for n in range(between(rng, 1, 2)):
            kinds = [place for place in fitting(room, name) if by_type[place]]
            hidden = [place for place in kinds if PLACES[place].openable]
            if hidden and rng.random() < HIDDEN_SHARE:
                kinds = hidden
            if kinds:
                at = pick(rng, by_type[pick(rng, kinds)])
                objects.append(Object(f"{name} {n + 1}", name, (at,), "p" + THINGS[name].flags))
    return Household(room, tuple(receptacles), tuple(sorted(objects, key=lambda o: o.name)))


@lru_cache(maxsize=MOST_HOUSEHOLDS)
def chores(number: int, rooms: tuple[str, ...], limit: int) -> dict[str, tuple[Chore, ...]]:
    """What there is to do in a household by task type: not done yet, and done within `limit` commands by who knows all.

    Task types without a chore are left out.
    """
    home = household(number, rooms)
    types = {r.type for r in home.receptacles} | {o.type for o in home.objects}
    found: dict[str, tuple[Chore, ...]] = {}
    for kind in (kind for kind in KINDS if home.room in ROOMS_OF[kind]):
        asked = (Chore(kind, *goal) for goal in goals(kind, home.room) if types.issuperset(goal))
        if doable := tuple(chore for chore in asked if _doable(House(home.text(chore)), limit)):
            found[kind] = doable
    return found


def _doable(h: House, limit: int) -> bool:
    state = h.state()
    return not goal_reached(h, state) and 0 < len(plan(h, state) or ()) <= limit
