"""ALFWorld's teacher: it searches, treats and brings, heeds what its memory saw, and is careless in some episodes.

What must stay true: it acts on what the policy reads, that is the goal, what stands open before it, and the outcomes in
this episode's history and in its memory; reflections alone may be checked against the household. A place where memory
or history saw the wanted thing is gone to first, and one that was seen without it is not searched again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from lamer_envs.alfworld.catalogue import LAMP_PLACES, LAMPS, PLACES, THINGS, fits
from lamer_envs.alfworld.env import Alfworld
from lamer_envs.alfworld.house import KINDS, House, house
from lamer_envs.alfworld.judge import Known
from lamer_envs.alfworld.world import local_commands
from lamer_envs.base import State
from lamer_graph.trial.prompts import Remembered
from lamer_memory import Contents
from lamer_trainers.warmstart.teachers import Attempt, Choice, Moment, Row, Teacher
from lamer_trainers.warmstart.tiny import Piece

SKILL = 0.7
CARE = 0.6
"""How often a careless episode does the sensible thing; else anything that can be done here, or it goes anywhere."""
SLIP = 0.04
TRUE, VAGUE = 0.5, 0.25
"""Shares of reflections that say truly what was seen, and that say nothing of use; the others name a wrong place."""
VAGUE_REMARKS = {
    "be quicker": "I should be quicker.",
    "look in more places": "I should look in more places.",
    "open what is closed": "I should open what is closed.",
}
"""Notes of no use, and how they are told."""
WALKS_KEPT = 0.6
STRAYS = 0.1
"""How often a walk does not go on in the order of the list."""
EVERYWHERE = frozenset(
    f"go to {name} {n}"
    for name, place in PLACES.items()
    for n in range(1, max(1, *(high for _, high in place.counts.values())) + 1)
)
"""Every place of every household; those that this one has not are forbidden, so that names are read and not guessed."""
MOST_LISTED = 6
"""Places that a remark lists as searched in vain, the last ones."""
COPIES = 3
VERBS = ("go to", "open", "close", "take", "move", "examine", "use", "heat", "cool", "clean", "look", "inventory")
BETWEEN = (
    *(
        " from",
        " to",
        " with",
        " in",
        " and",
        ": has",
        " has",
        ": closed",
        " closed",
        ": nothing happens",
        ": task done",
    ),
    *(" nothing", " (on)", " (hot)", " (cool)", " (clean)", "go", "; has", "; closed", "; can", "; hold", "; at"),
    *("; at start", "see", " see", "no", " no"),
)
"""What stands between names."""
TREATMENTS = {"heat": ("h", "hot"), "cool": ("c", "cool"), "clean": ("w", "clean")}


class AlfworldTeacher(Teacher):
    """Teacher of drawn households, of whatever task types the environment has."""

    env: Alfworld
    skill = SKILL

    def pieces(self) -> list[Piece]:
        # A name always carries the space before it, so that the token that is read is the one to write.
        found = [Piece(text) for remark in VAGUE_REMARKS for text in (remark, f" {remark}")]
        found += [Piece(text) for text in BETWEEN]
        found += [Piece(f"{before}{verb}", (verb,)) for verb in VERBS for before in ("", " ")]
        found += [Piece(f"; {kind}", ("task", kind)) for kind in KINDS]
        found += [Piece(f" {mark}", (mark,)) for mark in ("hot", "cool", "clean")]
        for name in (*THINGS, *LAMPS):
            found.append(Piece(f" {name}", (name,)))
            found += [Piece(f" {name} {n}", ("thing", name, f"copy {n}")) for n in range(1, COPIES + 1)]
        for name, place in PLACES.items():
            most = max(1, *(high for _, high in place.counts.values()))
            found.append(Piece(f" {name}", (name,)))
            found += [Piece(f" {name} {n}", ("place", name, f"place {n}")) for n in range(1, most + 1)]
        return found

    def sentence(self, note: str) -> str:
        if note in VAGUE_REMARKS:
            return VAGUE_REMARKS[note]
        if note.startswith("see "):
            return f"I saw {note.removeprefix('see ')}. Go there first."
        return f"There is {note}. Look elsewhere."

    def trial(
        self,
        start: State,
        contents: Contents,
        rng: random.Random,
        note: Callable[[Moment], object] = lambda moment: None,
    ) -> Iterator[Row]:
        """As everywhere, with fewer rows that only walk (seven in ten would) and so more of the others."""
        for row in super().trial(start, contents, rng, note):
            if not row.answer.startswith("<action>go to ") or rng.random() < WALKS_KEPT:
                yield row

    # -- play ---------------------------------------------------------------------------------------------------------

    def choose(self, attempt: Attempt, rng: random.Random) -> Choice:
        h, state = house(attempt.state["house"]), attempt.state
        action, forbidden = self._sensible(h, attempt, rng)
        if not attempt.skilled and rng.random() >= CARE:
            # Any verb, then the first thing it can be done to: what was drawn freely could not be read off the page.
            first = {command.partition(" ")[0]: command for command in reversed(local_commands(h, state))}
            anything = [*first.values(), self._go(h, state, [r.name for r in h.receptacles], rng)]
            others = [command for command in anything if command not in forbidden]
            action = rng.choice(others or [action])
        if not action.startswith("go to "):
            return Choice(action)  # what is forbidden are ways to go, not going as such
        # Where all else was searched in vain one goes to such a place after all.
        absent = sorted(EVERYWHERE - set(h.go(state["at"])[0]))
        return Choice(action, (*(wrong for wrong in forbidden if wrong != action), *absent))

    def slip(self, attempt: Attempt, rng: random.Random) -> str | None:
        if rng.random() >= SLIP:
            return None
        return rng.choice(self._anything(house(attempt.state["house"]), attempt.state))

    def _anything(self, h: House, state: State) -> list[str]:
        return [*local_commands(h, state), *h.go(state["at"])[0]]

    def _sensible(self, h: House, attempt: Attempt, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """A good command, and those that what is known forbids."""
        state = attempt.state
        offered = local_commands(h, state)
        held = state["held"]
        if held is None:
            return self._fetch(h, attempt, offered, rng)
        name, type_ = h.objects[held].name, h.objects[held].type
        if type_ != h.thing:
            down = [command for command in offered if command.startswith(f"move {name} to ")]
            usual = [r.name for r in h.receptacles if fits(r.type, type_)]
            return (down[0] if down else self._go(h, state, usual, rng)), ()
        if h.kind == "look":
            using = [command for command in offered if command.startswith(f"use {h.target} ")]
            return (using[0], ()) if using else self._search(h, attempt, h.target, offered, rng)
        if h.kind in TREATMENTS and held not in state[TREATMENTS[h.kind][1]]:
            treating = [command for command in offered if command.startswith(f"{h.kind} {name} with ")]
            tools = [h.receptacles[r].name for r in h.tools[TREATMENTS[h.kind][0]]]
            return (treating[0] if treating else self._go(h, state, tools, rng)), ()
        placed = [action.partition(" to ")[2] for action in attempt.actions if action.startswith(f"move {h.thing} ")]
        targets = placed[-1:] if h.kind == "pick2" and placed else []
        targets = targets or [r.name for r in h.receptacles if r.type == h.target]
        for target in targets:
            for command in (f"move {name} to {target}", f"open {target}"):
                if command in offered:
                    return command, ()
        return self._go(h, state, targets, rng), ()

    def _fetch(
        self, h: House, attempt: Attempt, offered: Sequence[str], rng: random.Random
    ) -> tuple[str, tuple[str, ...]]:
        brings = h.kind in ("pick", "pick2")
        for command in offered:
            if command.startswith(f"take {h.thing} "):
                place = command.partition(" from ")[2]
                if not (brings and place.split(" ")[0] == h.target):
                    return command, ()
        return self._search(h, attempt, h.thing, offered, rng)

    def _search(
        self, h: House, attempt: Attempt, wanted: str, offered: Sequence[str], rng: random.Random
    ) -> tuple[str, tuple[str, ...]]:
        """Go where the wanted thing was seen, else open what is closed here, else look where it may be."""
        state = attempt.state
        moved = {action.split(" from ")[0][5:] for action in attempt.actions if action.startswith("take ")}
        texts = [*(record.text for record in attempt.memory), *(turn.outcome for turn in attempt.turns)]
        known = Known(wanted).read(texts)
        here = [h.receptacles[r].name for r in h.reach.get(state["at"], ())]
        going = h.go(state["at"])[0]
        vain = {place for place in known.without if place not in known.at.values()}
        forbidden = tuple(f"go to {place}" for place in sorted(vain) if f"go to {place}" in going)
        opening = [command for command in offered if command.startswith("open ")]
        seen_at = [place for name, place in known.at.items() if name not in moved]
        away = [place for place in seen_at if f"go to {place}" in going]
        if opening and (not away or here[0] in seen_at) and here[0] not in vain:
            return opening[0], forbidden
        if away:
            return f"go to {away[-1]}", forbidden
        unseen = [r for r in h.receptacles if r.name not in vain and r.name not in here]
        likely = [r.name for r in unseen if attempt.skilled and _likely(r.type, wanted)]
        return self._go(h, state, likely or [r.name for r in unseen], rng), forbidden

    def _go(self, h: House, state: State, places: Sequence[str], rng: random.Random) -> str:
        """To the next of these places in the order of the household's list, round and round; sometimes to any of them.

        An order is what a small policy can read off the list; a free choice among twenty names it has to guess.
        """
        going = h.go(state["at"])[0]
        able = [command for command in going if command.removeprefix("go to ") in set(places)] or going
        here = [h.receptacles[r].name for r in h.reach.get(state["at"], ())]
        if not here or rng.random() < STRAYS:
            return rng.choice(able)
        order = [f"go to {r.name}" for r in h.receptacles if r.place is not None]
        at = order.index(f"go to {here[0]}")
        return next(command for command in order[at:] + order[:at] if command in able)

    # -- reflections --------------------------------------------------------------------------------------------------

    def remark(self, attempt: Attempt, rng: random.Random) -> str:
        h = house(attempt.start["house"])
        known = Known(h.thing).read(turn.outcome for turn in attempt.turns)
        draw = rng.random()
        if draw < VAGUE or not (known.at or known.without):
            return rng.choice(list(VAGUE_REMARKS))
        if draw < VAGUE + TRUE:
            if known.at:
                name, place = next(iter(known.at.items()))
                return f"see {name} in {place}"
            return f"no {h.thing} in {' and '.join(known.without[-MOST_LISTED:])}"
        return f"see {h.thing} 1 in {rng.choice([r.name for r in h.receptacles])}"

    def instructive(self, attempt: Attempt) -> bool:
        h = house(attempt.start["house"])
        known = Known(h.thing).read(turn.outcome for turn in attempt.turns)
        return bool(known.at or known.without)

    def drill(self, state: State, rng: random.Random) -> tuple[list[Remembered], int]:
        """Places seen with or without the wanted thing, in notes or as trajectories, over one or two episodes."""
        h = house(state["house"])
        episodes = rng.randint(1, self.prompts.max_episodes - 1)
        likely = [r.name for r in h.receptacles if _likely(r.type, h.thing)]
        names = [r.name for r in h.receptacles]
        others = [o.name for o in h.objects if o.type != h.thing]
        memory: list[Remembered] = []
        for episode in range(1, episodes + 1):
            pool = likely if likely and rng.random() < 0.7 else names
            vain = rng.sample(pool, min(len(pool), rng.randint(1, MOST_LISTED)))
            found = rng.choice(pool) if rng.random() < 0.5 else ""
            vain = [place for place in vain if place != found]
            if self.compact and rng.random() < 0.4:
                pieces = [f"go to {place}: has {' and '.join(rng.sample(others, min(len(others), rng.randint(1, 3))))}"
                          for place in vain]  # fmt: skip
                pieces += [f"go to {found}: has {h.thing} 1"] if found else []
                rng.shuffle(pieces)
                memory.append(Remembered("trajectory", "; ".join(pieces), episode))
            elif found:
                memory.append(Remembered("reflection", f"see {h.thing} 1 in {found}", episode))
            elif vain:
                memory.append(Remembered("reflection", f"no {h.thing} in {' and '.join(vain)}", episode))
        return memory, episodes + 1


def _likely(place: str, wanted: str) -> bool:
    return fits(place, wanted) or (wanted in LAMPS and place in LAMP_PLACES)
