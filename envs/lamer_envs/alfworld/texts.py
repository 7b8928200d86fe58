"""What players and people read of a household: pages, short forms, outcomes, pictures.

What must stay true: a page tells what stands open before the player and nothing that is hidden; everything on it
follows from the state, so that the same situation always reads the same, and what a command did is told by `event`. The
structure (the task, the place, contents, inventory, commands at hand; names such as "apple 1") is the original's, the
wording is our own.
"""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from lamer_envs.alfworld.house import House
from lamer_envs.alfworld.world import contents, local_commands

RULES = (
    "You are in a home and have one household task, which each page repeats. You stand at one place at a time and "
    "reach only what is there. Closed things must be opened before you can see what is in them, take it or put "
    "something in. You can carry one object. To heat something carry it to a microwave, to cool it to a fridge, to "
    "clean it to a sinkbasin; the door may stay closed for that. Heat drives out cold and cold drives out heat. To "
    "look at something in the light of a lamp, carry it to the lamp and use the lamp. Not every object fits "
    "everywhere. A command that cannot be carried out has no effect."
)

SAME_HOUSEHOLDS = (
    " You come to the same households, told apart by their numbers, again and again, each time for another task. "
    "Whenever you come to one, its things lie where they lay the last time you came."
)

ACTION_FORMAT = (
    "one command with full names, numbers included: go to X, open X, close X, take O from X, move O to X, examine X, "
    "use LAMP, heat O with X, cool O with X, clean O with X, look or inventory; for example: take apple 1 from fridge 1"
)

HELP = (
    "go to X, open X, close X, take O from X, move O to X, examine X or what you carry, use LAMP, "
    "heat O with MICROWAVE, cool O with FRIDGE, clean O with SINKBASIN, slice O with KNIFE, look, inventory, help"
)


def page(h: House, state: dict[str, Any]) -> str:
    """The whole page: the task, the place, what is carried, and every admissible command but `help`."""
    lines = [f"Your task: {h.words}."]
    here = h.reach.get(state["at"], ())
    if not here:
        lines.append("You stand in the middle of the room.")
    else:
        lines.append(f"You are at {_and([h.receptacles[r].name for r in here])}.")
        lines += [_sight(h, state, r) for r in here]
    lines.append(f"You carry {carried(h, state)}.")
    if state["won"]:
        lines.append("The task is done.")
        return "\n".join(lines)
    lines.append("Commands here: " + "; ".join([*local_commands(h, state), "look", "inventory"]))
    tour = h.go(state["at"])[1]
    lines.append(f"You can go to: {tour}" if tour else "You cannot go anywhere else.")
    return "\n".join(lines)


def short(h: House, state: dict[str, Any]) -> str:
    """The page in as few words as carry it.

    Places are listed whole, the present one too, so that the list reads the same all the way. What the next command
    names stands last and in fixed places, for the sake of small readers: what lies here (things that the task is about
    at the end), what can be done with it, what is carried, the place, the task.
    """
    here = h.reach.get(state["at"], ())
    places = [r.name for r in h.receptacles if r.place is not None]
    parts = ["done"] if state["won"] else [" ".join(["go", *places])]
    # Where several receptacles share a place each is named with its contents; the first of them is "the place".
    parts += [f"{h.receptacles[r].name} {_seen(h, state, r)}" for r in here[1:]]
    parts += [_seen(h, state, r) for r in here[:1]]
    if not state["won"]:
        verbs = dict.fromkeys(command.partition(" ")[0] for command in local_commands(h, state))
        parts.append(" ".join(["can", *(verbs or ["nothing"])]))
    parts.append(f"hold {_held(h, state)}")
    parts.append(f"at {h.receptacles[here[0]].name}" if here else "at start")
    plain = h.condition is None  # else the kind does not say all that is asked for
    parts.append(f"{h.kind} {h.thing} {'with' if h.kind == 'look' else 'to'} {h.target}" if plain else h.words)
    return "; ".join(parts)


def _seen(h: House, state: dict[str, Any], r: int) -> str:
    if _closed(h, state, r):
        return "closed"
    wanted = {h.thing, h.target}
    listed = sorted(_listed(h, state, r), key=lambda name: name.partition(" ")[0] in wanted)
    return " ".join(["has", *(listed or ["nothing"])])


def _held(h: House, state: dict[str, Any]) -> str:
    name, _, marks = carried(h, state).partition(" (")
    return f"{marks[:-1]} {name}" if marks else name


def event(h: House, after: dict[str, Any], command: str | None, valid: bool) -> str:
    """What a command did, in a few words: the command, and what it brought to light."""
    if not valid:
        return f"{command}: nothing happens" if command else "nothing happens"
    assert command is not None
    verb, _, rest = command.partition(" ")
    seen = ""
    if verb in ("go", "look"):
        here = h.reach.get(after["at"], ())
        names = len(here) > 1 or verb == "look"
        seen = "; ".join((f"{h.receptacles[r].name} " if names else "") + _glance(h, after, r) for r in here)
    elif verb in ("open", "examine") and h.names.get(rest, -1) >= 0:
        seen = _glance(h, after, h.names[rest])
    elif verb in ("examine", "inventory"):
        seen = carried(h, after)
    elif verb == "help":
        seen = HELP
    if after["won"]:
        seen = "task done"
    return f"{command}: {seen}" if seen else command


def carried(h: House, state: dict[str, Any]) -> str:
    """What is in the hand and what was done to it, "nothing" if it is empty."""
    o = state["held"]
    if o is None:
        return "nothing"
    marks = [word for word in ("hot", "cool", "clean") if o in state[word]]
    marks += ["sliced"] if o in state["cut"] else []
    name: str = h.objects[o].name
    return f"{name} ({', '.join(marks)})" if marks else name


def _listed(h: House, state: dict[str, Any], r: int) -> list[str]:
    return [h.objects[o].name + (" (on)" if o in state["lit"] else "") for o in contents(state, r)]


def _closed(h: House, state: dict[str, Any], r: int) -> bool:
    return h.receptacles[r].openable and r not in state["open"]


def _sight(h: House, state: dict[str, Any], r: int) -> str:
    name = h.receptacles[r].name
    if _closed(h, state, r):
        return f"The {name} is closed."
    things = ", ".join(_listed(h, state, r)) or "nothing"
    if h.receptacles[r].openable:
        return f"The {name} is open. In it you see: {things}."
    return f"On the {name} you see: {things}."


def _glance(h: House, state: dict[str, Any], r: int) -> str:
    return "closed" if _closed(h, state, r) else "has " + (" and ".join(_listed(h, state, r)) or "nothing")


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def picture(h: House, state: dict[str, Any]) -> str:
    """The whole household for a person, rich markup: `>` marks the place, what is shut away is dim."""
    lines = [f"[bold]{escape(h.words)}[/bold]"]
    width = max((len(r.name) for r in h.receptacles), default=0)
    for i, r in enumerate(h.receptacles):
        here = r.place is not None and r.place == state["at"]
        shut = _closed(h, state, i)
        things = []
        for o in contents(state, i):
            name = h.objects[o].name + (" (on)" if o in state["lit"] else "")
            wanted = h.objects[o].type in (h.thing, h.target)
            things.append(_styled(name, "bold yellow" if wanted else "dim" if shut else ""))
        door = _styled("shut" if shut else "open", "dim" if shut else "green") if r.openable else " " * 4
        place = _styled(f"{r.name:<{width}}", "bold cyan" if here else "green" if i in h.goal_receptacles else "")
        lines.append(f"{'>' if here else ' '} {place} {door} {', '.join(things)}".rstrip())
    lines.append(f"carrying {escape(carried(h, state))}")
    if state["won"]:
        lines.append("[bold green]done[/]")
    return "\n".join(lines)


def _styled(text: str, style: str) -> str:
    return f"[{style}]{escape(text)}[/]" if style else escape(text)
