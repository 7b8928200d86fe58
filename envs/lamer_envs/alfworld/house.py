"""A household with its goal: the static part of a task, and the text that holds it.

What must stay true: a household is immutable and follows from its text alone, so that a state, which holds the text,
plays on in any process; a text that was written once reads the same for ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

from lamer_envs.alfworld.catalogue import fits
from lamer_envs.alfworld.condition import Condition

KINDS = ("pick", "look", "clean", "heat", "cool", "pick2")
"""The six task types. `look`'s target is a type of lamp, every other's a type of receptacle."""
OTHER = "other"
"""The kind of any other goal. Its object type and target are NOTHING, which no type is called."""
NOTHING = "-"

_APPLIANCES = {"microwave": "h", "fridge": "c", "sinkbasin": "w", "sink": "w"}
_MARKS = {"hot": "H", "cool": "C", "clean": "W", "lit": "T", "cut": "S"}


class Receptacle(NamedTuple):
    """`place` numbers where one stands to reach it, None if it cannot be reached."""

    name: str
    type: str
    place: int | None
    openable: bool
    opened: bool


class Object(NamedTuple):
    """`flags`, each optional: p(ickupable) h(eatable) c(oolable) w(ashable: cleanable) t(oggleable) s(liceable), and
    how it starts: H(ot) C(ool) W(ashed) T(urned on) S(liced). `where` numbers the receptacles that hold it."""

    name: str
    type: str
    where: tuple[int, ...]
    flags: str
    lies_at: int | None = None


class House:
    """A household with its goal: the static part of a task, built from its text.

    Text, a line each: `kind object-type target-type`; the goal in words; the starting place; the receptacles as
    `name=type@place+flags`; the objects as `name=type@receptacles+flags@place`; what fits (`*` for the catalogue's
    table, else `receptacle-type=object-type,..`). A type is left out where it is the name without its number. Where the
    goal is not exactly that of its kind, one more line has `condition`, which then decides the win, and `notes`, what
    it needs to know beyond the usual state (see condition.py), as JSON.
    """

    def __init__(self, text: str) -> None:
        head, self.words, start, places, things, table, *goal = text.split("\n")
        self.text = text
        asked = json.loads(goal[0]) if goal else {}
        self.condition: Condition | None = asked.get("condition")
        self.notes: dict[str, list[Any]] = asked.get("notes", {})
        self.kind, self.thing, self.target = head.split(" ")
        self.start = int(start)
        self.receptacles = [_read_receptacle(part) for part in places.split(";") if part]
        self.objects = [_read_object(part) for part in things.split(";") if part]
        # Receptacles by number from 0, objects from -1 downwards.
        self.names = {r.name: i for i, r in enumerate(self.receptacles)}
        self.names |= {o.name: -1 - i for i, o in enumerate(self.objects)}
        # Receptacles in reach of each place.
        self.reach: dict[int, tuple[int, ...]] = {}
        self.tools: dict[str, list[int]] = {"h": [], "c": [], "w": []}
        for i, r in enumerate(self.receptacles):
            if r.place is not None:
                self.reach[r.place] = (*self.reach.get(r.place, ()), i)
            if r.type in _APPLIANCES:
                self.tools[_APPLIANCES[r.type]].append(i)
        self.goal_objects = frozenset(i for i, o in enumerate(self.objects) if o.type == self.thing)
        self.goal_receptacles = frozenset(i for i, r in enumerate(self.receptacles) if r.type == self.target)
        self.switches = [i for i, o in enumerate(self.objects) if "t" in o.flags]
        self.can_slice = any("s" in o.flags for o in self.objects)
        self._pairs = None if table == "*" else frozenset(table.split(","))
        self._accepts: dict[str, frozenset[int]] = {}
        self._go: dict[int, tuple[list[str], str]] = {}
        self._fresh: dict[str, Any] = {
            "house": text,
            "at": self.start,
            "held": None,
            "open": [i for i, r in enumerate(self.receptacles) if r.opened],
            "in": [],
            **{key: [i for i, o in enumerate(self.objects) if flag in o.flags] for key, flag in _MARKS.items()},
            "won": False,
        }

    def state(self) -> dict[str, Any]:
        """The state in which an episode starts."""
        state = {key: value.copy() if type(value) is list else value for key, value in self._fresh.items()}
        state["in"] = [list(o.where) for o in self.objects]
        if self.notes:
            state["notes"] = deepcopy(self.notes)
        return state

    def fits(self, receptacle_type: str, object_type: str) -> bool:
        """Whether objects of a type may be put in or on receptacles of a type."""
        if self._pairs is None:
            return fits(receptacle_type, object_type)
        return f"{receptacle_type}={object_type}" in self._pairs

    def accepts(self, object_type: str) -> frozenset[int]:
        """The receptacles that objects of this type may be put in or on."""
        found = self._accepts.get(object_type)
        if found is None:
            found = frozenset(i for i, r in enumerate(self.receptacles) if self.fits(r.type, object_type))
            self._accepts[object_type] = found
        return found

    def go(self, place: int) -> tuple[list[str], str]:
        """The `go to` commands from a place, and the same in short for people and policies."""
        found = self._go.get(place)
        if found is None:
            others = [r.name for r in self.receptacles if r.place is not None and r.place != place]
            found = self._go[place] = (["go to " + name for name in others], shorten(others))
        return found


@lru_cache(maxsize=2048)
def house(text: str) -> House:
    """The household of this text; kept for as long as it is in use, so that a turn does not read it again."""
    return House(text)


def house_text(
    goal: tuple[str, str, str],
    words: str,
    start: int,
    receptacles: Sequence[Receptacle],
    objects: Sequence[Object],
    table: str = "*",
    condition: Condition | None = None,
    notes: dict[str, list[Any]] | None = None,
) -> str:
    """The text that `House` reads. Names, types and words must be free of the characters that separate fields."""
    places = []
    for r in receptacles:
        flags = ("o" if r.openable else "") + ("O" if r.opened else "")
        places.append(f"{_titled(r.name, r.type)}@{'' if r.place is None else r.place}+{flags}")
    things = []
    for o in objects:
        where = ",".join(map(str, o.where))
        lies = "" if o.lies_at is None else f"@{o.lies_at}"
        things.append(f"{_titled(o.name, o.type)}@{where}+{o.flags}{lies}")
    lines = [" ".join(goal), words, str(start), ";".join(places), ";".join(things), table]
    if condition is not None:
        lines.append(json.dumps({"condition": condition, "notes": notes or {}}, separators=(",", ":")))
    return "\n".join(lines)


def _titled(name: str, type_: str) -> str:
    return name if name.rpartition(" ")[0] == type_ else f"{name}={type_}"


def _split_title(text: str) -> tuple[str, str]:
    name, given, type_ = text.partition("=")
    return name, type_ if given else name.rpartition(" ")[0]


@lru_cache(maxsize=4096)  # the same few thousand parts make up all drawn households
def _read_receptacle(part: str) -> Receptacle:
    title, _, rest = part.partition("@")
    place, _, flags = rest.partition("+")
    return Receptacle(*_split_title(title), int(place) if place else None, "o" in flags, "O" in flags)


@lru_cache(maxsize=16384)
def _read_object(part: str) -> Object:
    title, _, rest = part.partition("@")
    where, _, flags = rest.partition("+")
    flags, _, lies = flags.partition("@")
    held_by = tuple(int(i) for i in where.split(",")) if where else ()
    return Object(*_split_title(title), held_by, flags, int(lies) if lies else None)


def shorten(names: Sequence[str]) -> str:
    """Names in a few words: "cabinet 1-3, fridge 1"; only runs of consecutive numbers are joined."""
    parts = []
    heads = [(head if number.isdecimal() else "", number, name)
             for name in names for head, _, number in [name.rpartition(" ")]]  # fmt: skip
    for head, group in groupby(heads, key=lambda h: h[0]):
        run = list(group)
        if not head:
            parts += [name for _, _, name in run]
            continue
        numbers = [int(number) for _, number, _ in run]
        first = numbers[0]
        for n, following in zip(numbers, [*numbers[1:], None], strict=True):
            if following != n + 1:
                parts.append(f"{head} {first}" if first == n else f"{head} {first}-{n}")
                first = following if following is not None else n
    return ", ".join(parts)
