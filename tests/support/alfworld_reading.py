"""The rules of ALFWorld read a second time, by names and without our engine's tables, to check the engine against.

For households where every object lies in one receptacle and every receptacle has a place of its own, as drawn ones are.
"""

from __future__ import annotations

from lamer_envs.alfworld.house import House

TREATMENTS = {"heat": ("microwave", "h"), "cool": ("fridge", "c"), "clean": ("sinkbasin", "w")}


class Reading:
    """One episode: where one stands, what one holds, what is open, where things lie, and what was done to them."""

    def __init__(self, h: House) -> None:
        self.kind, self.thing, self.target = h.kind, h.thing, h.target
        self.receptacles = {r.name: r for r in h.receptacles}
        self.objects = {o.name: o for o in h.objects}
        self.fits = h.fits
        self.here: str | None = None
        self.held: str | None = None
        self.open: set[str] = set()
        self.lies: dict[str, str | None] = {o.name: h.receptacles[o.where[0]].name for o in h.objects}
        self.lit: set[str] = set()
        self.done: dict[str, set[str]] = {verb: set() for verb in TREATMENTS}

    def admissible(self) -> set[str]:
        found = {"look", "inventory", "help"} | {f"go to {name}" for name in self.receptacles if name != self.here}
        found |= {f"examine {name}" for name in (self.here, self.held) if name is not None}
        if self.here is None:
            return found
        place = self.receptacles[self.here]
        reachable = not place.openable or place.name in self.open
        if place.openable:
            found.add(f"{'close' if reachable else 'open'} {place.name}")
        inside = [self.objects[name] for name, where in self.lies.items() if where == place.name]
        found |= {f"use {o.name}" for o in inside if "t" in o.flags}
        if self.held is None:
            found |= {f"take {o.name} from {place.name}" for o in inside if reachable and "p" in o.flags}
            return found
        held = self.objects[self.held]
        if reachable and self.fits(place.type, held.type):
            found.add(f"move {held.name} to {place.name}")
        for verb, (tool, flag) in TREATMENTS.items():
            if place.type == tool and flag in held.flags:
                found.add(f"{verb} {held.name} with {place.name}")
        return found

    def do(self, command: str) -> bool:
        """Carry out an admissible command; whether the task is then done."""
        verb, _, rest = command.partition(" ")
        if verb == "go":
            self.here = rest.removeprefix("to ")
        elif verb == "open":
            self.open.add(rest)
        elif verb == "close":
            self.open.remove(rest)
        elif verb == "use":
            self.lit.add(rest)
        elif verb == "take":
            self.held = rest.partition(" from ")[0]
            self.lies[self.held] = None
        elif verb == "move":
            name, _, where = rest.partition(" to ")
            self.lies[name], self.held = where, None
        elif verb in TREATMENTS:
            self.done[verb].add(rest.partition(" with ")[0])
            for other in {"heat": ("cool",), "cool": ("heat",)}.get(verb, ()):
                self.done[other].discard(rest.partition(" with ")[0])
        return self.won()

    def won(self) -> bool:
        wanted = [name for name, o in self.objects.items() if o.type == self.thing]
        if self.kind == "look":
            lamps = [name for name in self.lit if self.objects[name].type == self.target]
            return self.held in wanted and any(self.lies[lamp] == self.here for lamp in lamps)
        ready = [name for name in wanted if self.kind not in TREATMENTS or name in self.done[self.kind]]
        homes = [where for name in ready if (where := self.lies[name]) and self.receptacles[where].type == self.target]
        return len(homes) > (len(set(homes)) if self.kind == "pick2" else 0)
