"""Draws households with a goal: a room, its receptacles, a target, and other things that are in the way.

What must stay true: the draw depends on its arguments alone; nothing in a drawn household fulfils the goal yet; full
knowledge wins within the limit, because everything that the goal needs is put there and the number of commands is known
in advance: SHORTEST, plus one for each closed receptacle on the way.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import TypeVar

from lamer_envs.alfworld.catalogue import (
    BATHROOM,
    BEDROOM,
    KITCHEN,
    LAMP_PLACES,
    LAMPS,
    LIVING,
    PLACES,
    ROOMS,
    THINGS,
    fits,
)
from lamer_envs.alfworld.house import Object, Receptacle, house_text

T = TypeVar("T")

PLAN_LIMIT = 10
"""Commands that full knowledge needs at most: the paper's turn budget."""

SHORTEST = {"pick": 4, "look": 4, "clean": 6, "heat": 6, "cool": 6, "pick2": 8}
"""Commands that full knowledge needs if nothing on the way is closed."""

ROOMS_OF = {
    "pick": ROOMS,
    "look": (LIVING, BEDROOM),
    "clean": (KITCHEN, BATHROOM),
    "heat": (KITCHEN,),
    "cool": (KITCHEN,),
    "pick2": ROOMS,
}
"""Where each task type is set."""

TREATMENT = {"heat": "h", "cool": "c", "clean": "w"}
_STATION = {"heat": "microwave", "cool": "fridge", "clean": "sinkbasin"}
HIDDEN_SHARE = 0.7
"""How often the wanted thing is put behind a door if it fits behind one, so that looking is part of the task."""

WORDS = {
    "pick": ("put {a_thing} in or on {a_target}", "bring {a_thing} to {a_target}"),
    "look": ("look at {a_thing} in the light of {a_target}", "hold {a_thing} up to {a_target} that is on"),
    "clean": ("put a clean {thing} in or on {a_target}", "clean {a_thing}, then bring it to {a_target}"),
    "heat": ("put a hot {thing} in or on {a_target}", "heat {a_thing}, then bring it to {a_target}"),
    "cool": ("put a cool {thing} in or on {a_target}", "cool {a_thing}, then bring it to {a_target}"),
    "pick2": (
        "put {a_thing} and a second one in or on one {target}",
        "bring {a_thing} and a second one to the same {target}",
    ),
}
"""The goal in words, by task type."""


def goal_words(kind: str, thing: str, target: str, wording: int = 0) -> str:
    """The goal as a sentence without full stop, in one of the two wordings of its kind."""
    return WORDS[kind][wording].format(
        thing=thing, target=target, a_thing=with_article(thing), a_target=with_article(target)
    )


def with_article(noun: str) -> str:
    """ "an apple", "a mug"."""
    return ("an " if noun[:1] in "aeiou" else "a ") + noun


@lru_cache(maxsize=64)
def goals(kind: str, room: str) -> tuple[tuple[str, str], ...]:
    """Every (object type, target type) that `kind` can ask for in `room`, in a fixed order."""
    flag = TREATMENT.get(kind, "")
    things = [name for name, thing in THINGS.items() if room in thing.rooms and flag in thing.flags]
    if kind == "look":
        return tuple((thing, lamp) for thing in things for lamp in LAMPS)
    places = [name for name, place in PLACES.items() if room in place.counts]
    return tuple((thing, place) for thing in things for place in places if fits(place, thing))


@lru_cache(maxsize=64)
def furniture(room: str) -> tuple[tuple[str, int, int, bool], ...]:
    return tuple((name, *p.counts[room], p.openable) for name, p in sorted(PLACES.items()) if room in p.counts)


@lru_cache(maxsize=1024)
def fitting(room: str, thing: str) -> tuple[str, ...]:
    """The receptacle types of a room that take an object type."""
    return tuple(name for name, *_ in furniture(room) if fits(name, thing))


@lru_cache(maxsize=64)
def room_things(room: str) -> tuple[str, ...]:
    return tuple(name for name, thing in THINGS.items() if room in thing.rooms)


def draw_household(kind: str, rng: random.Random, limit: int = PLAN_LIMIT) -> str:
    """The text of a new household whose goal is of `kind` and takes at most `limit` >= SHORTEST[kind] commands."""
    room = pick(rng, ROOMS_OF[kind])
    while True:
        thing, target = pick(rng, goals(kind, room))
        drawn = _draw(kind, room, thing, target, limit, rng)
        if drawn is not None:
            receptacles, objects = drawn
            words = goal_words(kind, thing, target, int(rng.random() * 2))
            return house_text((kind, thing, target), words, len(receptacles), receptacles, objects)


def _draw(
    kind: str, room: str, thing: str, target: str, limit: int, rng: random.Random
) -> tuple[list[Receptacle], list[Object]] | None:
    """One attempt; None where the plan would be too long or the thing could lie nowhere but where it must go."""
    needed = {target, _STATION.get(kind, target)}
    receptacles: list[Receptacle] = []
    by_type: dict[str, list[int]] = {}
    for name, least, most, openable in furniture(room):
        count = max(between(rng, least, most), name in needed)
        by_type[name] = list(range(len(receptacles), len(receptacles) + count))
        receptacles += [
            Receptacle(f"{name} {n + 1}", name, len(receptacles) + n, openable, False) for n in range(count)
        ]
    objects: list[Object] = []
    numbers: dict[str, int] = {}

    def put(name: str, where: list[int], flags: str) -> int:
        numbers[name] = numbers.get(name, 0) + 1
        at = pick(rng, where)
        objects.append(Object(f"{name} {numbers[name]}", name, (at,), flags))
        return at

    def spots(name: str, avoid: str, hidden_share: float) -> list[int]:
        kinds = [p for p in fitting(room, name) if by_type[p] and p != avoid]
        if hidden_share and (hidden := [p for p in kinds if PLACES[p].openable]) and rng.random() < hidden_share:
            kinds = hidden
        return by_type[pick(rng, kinds)] if kinds else []

    flags = "p" + THINGS[thing].flags
    homes = []
    pair = kind == "pick2"
    for _ in range(between(rng, 1, 2) + pair):
        where = spots(thing, "" if kind == "look" else target, HIDDEN_SHARE)
        if not where:
            return None
        homes.append(put(thing, where, flags))
    closed = [{home for home in some if receptacles[home].openable} for some in combinations(homes, 1 + pair)]
    if SHORTEST[kind] + min(map(len, closed)) + (kind != "look" and PLACES[target].openable) > limit:
        return None
    lamp = target if kind == "look" else pick(rng, LAMPS)
    stands = [i for place in LAMP_PLACES for i in by_type.get(place, ())]
    if stands and (kind == "look" or rng.random() < 0.5):
        put(lamp, stands, "t")
    others = room_things(room)
    for name in {pick(rng, others): None for _ in range(between(rng, 6, 12))}:
        if name == thing:
            continue
        for _ in range(between(rng, 1, 2)):
            if where := spots(name, "", 0.0):
                put(name, where, "p" + THINGS[name].flags)
    objects.sort(key=lambda o: o.name)
    return receptacles, objects


def pick(rng: random.Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def between(rng: random.Random, least: int, most: int) -> int:
    return least + int(rng.random() * (most - least + 1))
