"""Scripted players of ALFWorld: one that knows everything, one that knows what it has seen, one of middling skill.

What must stay true: `plan` wins from every state from which its kind of plan can win, and says None otherwise, so for
every goal that is of none of the six task types (no expert knows those); what it says was played and does win;
`Explorer` and `weak` use only what the policy reads: the goal, the names of receptacles, what stands open where they
are, what they carry, and the commands at hand.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import permutations
from typing import Any

from lamer_envs.alfworld.catalogue import LAMP_PLACES, fits
from lamer_envs.alfworld.house import House
from lamer_envs.alfworld.world import contents, local_commands, play, ready_objects

WEAK_SKILL = 0.75
"""Share of the weak player's turns that do the sensible thing; the others are any command but `help`."""

_TREATMENTS = {"heat": ("heat", "h", "hot"), "cool": ("cool", "c", "cool"), "clean": ("clean", "w", "clean")}

# -- full knowledge ---------------------------------------------------------------------------------------------------


class _Walk:
    """Commands being collected, with the place and the doors as they then are. `fail` marks a way that is barred."""

    def __init__(self, h: House, state: dict[str, Any]) -> None:
        self.h, self.at, self.open = h, state["at"], set(state["open"])
        self.commands: list[str] = []
        self.fail = False

    def reach(self, r: int) -> None:
        place = self.h.receptacles[r]
        if place.place is None:
            self.fail = True
        elif place.place != self.at:
            self.at = place.place
            self.commands.append("go to " + place.name)

    def enter(self, r: int) -> None:
        self.reach(r)
        if self.h.receptacles[r].openable and r not in self.open:
            self.open.add(r)
            self.commands.append("open " + self.h.receptacles[r].name)

    def take(self, o: int, where: list[int]) -> None:
        if "p" not in self.h.objects[o].flags or not where:
            self.fail = True
            return
        r = min(where, key=self._doors)
        self.enter(r)
        self.commands.append(f"take {self.h.objects[o].name} from {self.h.receptacles[r].name}")

    def put(self, o: int, r: int) -> None:
        if r not in self.h.accepts(self.h.objects[o].type):
            self.fail = True
            return
        self.enter(r)
        self.commands.append(f"move {self.h.objects[o].name} to {self.h.receptacles[r].name}")

    def _doors(self, r: int) -> tuple[bool, bool, bool]:
        """Cheapest first: in reach, standing open, reachable at all."""
        place = self.h.receptacles[r]
        return place.place is None, place.place != self.at, place.openable and r not in self.open


def plan(h: House, state: dict[str, Any]) -> list[str] | None:
    """The shortest of the straightforward ways to win (fetch, treat, bring), None if there is none.

    Its last command is the one that wins. Empty if the episode is won already.
    """
    if state["won"]:
        return []
    ways = sorted((walk.commands for walk in _ways(h, state) if not walk.fail), key=len)
    plans = (_until_won(h, state, commands) for commands in ways)  # a goal may ask for more than its kind says
    return next((found for found in plans if found is not None), None)


def _until_won(h: House, state: dict[str, Any], commands: list[str]) -> list[str] | None:
    """The commands up to the one that wins; a household may be won on the way, by luck."""
    now: dict[str, Any] | None = state
    for number, command in enumerate(commands, start=1):
        now = play(h, now, command) if now is not None else None
        if now is not None and now["won"]:
            return commands[:number]
    return None


def _ways(h: House, state: dict[str, Any]) -> Iterator[_Walk]:
    targets = sorted(h.goal_receptacles)
    things = sorted(h.goal_objects)
    if h.kind == "pick2":
        for r in targets:
            lying = {o for o in things if r in state["in"][o]}
            for pair in permutations(things, 2):
                yield from _bring(h, state, [o for o in pair if o not in lying], r, None)
        return
    for o in things:
        if h.kind == "look":
            for lamp, thing in enumerate(h.objects):
                if thing.type == h.target and "t" in thing.flags:
                    for r in state["in"][lamp]:
                        yield from _look(h, state, o, lamp, r)
            continue
        treated = o in ready_objects(h, state)
        tools: list[int | None] = [None]
        if not treated:
            flag = _TREATMENTS[h.kind][1]
            tools = list(h.tools[flag]) if flag in h.objects[o].flags else []
        for way in tools:
            for r in targets:
                yield from _bring(h, state, [o], r, way)


def _hands_free(h: House, state: dict[str, Any], o: int | None) -> Iterator[_Walk]:
    """Walks that begin with nothing in the hand but possibly `o`: one for each place to put something else down."""
    held = state["held"]
    if held is None or held == o:
        yield _Walk(h, state)
        return
    for r in sorted(h.accepts(h.objects[held].type)):
        walk = _Walk(h, state)
        walk.put(held, r)
        yield walk


def _bring(h: House, state: dict[str, Any], things: list[int], r: int, tool: int | None) -> Iterator[_Walk]:
    """Bring `things` to receptacle `r`, each by way of `tool` where one is given."""
    if not things and state["held"] is None:
        return
    for walk in _hands_free(h, state, things[0] if things else None):
        for o in things:
            if state["held"] != o:
                walk.take(o, state["in"][o])
            if tool is not None:
                walk.reach(tool)
                walk.commands.append(f"{h.kind} {h.objects[o].name} with {h.receptacles[tool].name}")
            walk.put(o, r)
        yield walk


def _look(h: House, state: dict[str, Any], o: int, lamp: int, r: int) -> Iterator[_Walk]:
    for walk in _hands_free(h, state, o):
        if state["held"] != o:
            walk.take(o, state["in"][o])
        walk.reach(r)
        if lamp not in state["lit"]:
            walk.commands.append("use " + h.objects[lamp].name)
        yield walk


# -- only what has been seen ------------------------------------------------------------------------------------------


class Explorer:
    """An expert without foreknowledge: it looks for what it needs, likely places first, and remembers what it saw.

    One per episode; `act(house, state)` is called with each state in turn. It wins every task that `plan` wins from its
    start, if it is given the turns: at most two for each receptacle, and those of the plan.
    """

    def __init__(self) -> None:
        self.seen: dict[int, list[int]] = {}
        """Contents of the receptacles that have stood open before us."""
        self.useless: set[int] = set()
        """Objects that turned out not to be takeable or not to serve."""
        self.refused: set[tuple[str, int]] = set()
        """Types of objects, and receptacles that did not take them."""

    def act(self, h: House, state: dict[str, Any]) -> str:
        """The next command."""
        for r in h.reach.get(state["at"], ()):
            if not h.receptacles[r].openable or r in state["open"]:
                self.seen[r] = contents(state, r)
        offered = local_commands(h, state)
        if state["held"] is not None:
            return self._carry(h, state, offered, state["held"])
        for o, r in self._wanted(h):
            if (command := f"take {h.objects[o].name} from {h.receptacles[r].name}") in offered:
                return command
            if (step := self._towards(h, state, r)) is not None:
                return step
            self.useless.add(o)
        return self._search(h, state, h.thing, offered)

    def _wanted(self, h: House) -> list[tuple[int, int]]:
        """Known objects that are worth fetching, with where they are."""
        base = self._base(h) if h.kind == "pick2" else None
        known = ((o, r) for r, inside in self.seen.items() for o in inside)
        return [(o, r) for o, r in known if o in h.goal_objects and o not in self.useless and r != base]

    def _base(self, h: House) -> int | None:
        """Where both objects of a pair go: where one is already, else the first receptacle of the right type."""
        open_to_us = (r for r in sorted(h.goal_receptacles) if (h.thing, r) not in self.refused)
        choices = [r for r in open_to_us if h.receptacles[r].place is not None]
        return max(choices, key=lambda r: sum(o in h.goal_objects for o in self.seen.get(r, ())), default=None)

    def _carry(self, h: House, state: dict[str, Any], offered: list[str], o: int) -> str:
        name = h.objects[o].name
        serves = o in h.goal_objects and o not in self.useless
        if serves and h.kind == "look":
            for r, inside in self.seen.items():
                for lamp in inside:
                    if h.objects[lamp].type == h.target:
                        return self._towards(h, state, r, open_it=False) or "use " + h.objects[lamp].name
            return self._search(h, state, h.target, offered)
        if serves and h.kind in _TREATMENTS and o not in state[_TREATMENTS[h.kind][2]]:
            verb, flag, _ = _TREATMENTS[h.kind]
            tool = next((r for r in h.tools[flag] if h.receptacles[r].place is not None), None)
            if tool is not None:
                if (step := self._towards(h, state, tool, open_it=False)) is not None:
                    return step
                if (command := f"{verb} {name} with {h.receptacles[tool].name}") in offered:
                    return command
            self.useless.add(o)
            serves = False
        while serves and (base := self._base(h)) is not None:
            if (step := self._towards(h, state, base)) is not None:
                return step
            if (command := f"move {name} to {h.receptacles[base].name}") in offered:
                return command
            self.refused.add((h.thing, base))
        return self._put_down(h, state, offered, o)

    def _put_down(self, h: House, state: dict[str, Any], offered: list[str], o: int) -> str:
        """Get rid of what is carried: here if it fits, else at the next place, usual ones for its type first."""
        name, type_ = h.objects[o].name, h.objects[o].type
        for command in offered:
            if command.startswith(f"move {name} to "):
                return command
        self.refused |= {(type_, r) for r in h.reach.get(state["at"], ()) if r in self.seen}
        left = [i for i, r in enumerate(h.receptacles) if r.place is not None and (type_, i) not in self.refused]
        usual = min(left, key=lambda i: (not fits(h.receptacles[i].type, type_), i), default=None)
        return "look" if usual is None else self._towards(h, state, usual) or "look"

    def _towards(self, h: House, state: dict[str, Any], r: int, open_it: bool = True) -> str | None:
        """The next command on the way to having `r` open before us, None once it is."""
        place = h.receptacles[r]
        if place.place != state["at"]:
            return "go to " + place.name
        if open_it and place.openable and r not in state["open"]:
            return "open " + place.name
        return None

    def _search(self, h: House, state: dict[str, Any], wanted: str, offered: list[str]) -> str:
        """Look into the next receptacle that has not been seen open, likely ones first."""
        unseen = [i for i, r in enumerate(h.receptacles) if i not in self.seen and r.place is not None]
        if not unseen:
            return "look"
        r = min(unseen, key=lambda i: (not _likely(h.receptacles[i].type, wanted), i))
        return self._towards(h, state, r) or "look"


def _likely(receptacle_type: str, wanted: str) -> bool:
    return fits(receptacle_type, wanted) or (wanted.endswith("lamp") and receptacle_type in LAMP_PLACES)


# -- middling skill ---------------------------------------------------------------------------------------------------


def weak(h: House, state: dict[str, Any], rng: random.Random) -> str:
    """The next command of a player without memory: sensible where it stands, and it searches likely places at random.

    Raises ValueError when the episode is over.
    """
    offered = local_commands(h, state)
    going = h.go(state["at"])[0]
    everything = [*offered, *going, "look", "inventory"]
    if state["won"]:
        raise ValueError("the episode is over: no command is left")
    if rng.random() >= WEAK_SKILL:
        return rng.choice(everything)
    useful = [command for command in offered if _serves(h, state, command)]
    if useful:
        return useful[0]
    held = state["held"]
    if held is None or h.kind == "look":
        wanted = h.thing if held is None else h.target
        kinds = [r for r in h.receptacles if _likely(r.type, wanted)]
    elif h.kind in _TREATMENTS and held not in state[_TREATMENTS[h.kind][2]]:
        kinds = [h.receptacles[r] for r in h.tools[_TREATMENTS[h.kind][1]]]
    else:
        kinds = [h.receptacles[r] for r in h.goal_receptacles]
    names = {"go to " + r.name for r in kinds}
    return rng.choice([command for command in going if command in names] or going or everything)


def _serves(h: House, state: dict[str, Any], command: str) -> bool:
    """Whether a command that is offered here is a sensible next one for the goal."""
    verb, _, rest = command.partition(" ")
    held = state["held"]
    if verb == "take":
        o = -1 - h.names[rest.partition(" from ")[0]]
        placed = any(r in h.goal_receptacles for r in state["in"][o])
        return o in h.goal_objects and not (placed and h.kind in ("pick", "pick2"))
    if verb == "open":
        r = h.names[rest]
        return held is None or (r in h.goal_receptacles and held in ready_objects(h, state))
    if verb == "move":
        r = h.names[rest.partition(" to ")[2]]
        return held not in h.goal_objects or (r in h.goal_receptacles and held in ready_objects(h, state))
    if verb == "use":
        return h.kind == "look" and held in h.goal_objects and h.objects[-1 - h.names[rest]].type == h.target
    return verb == h.kind and held in h.goal_objects and held not in state[_TREATMENTS[h.kind][2]]
