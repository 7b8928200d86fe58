"""A household as a room for a browser: one element of places, each with what lies there.

What must stay true: every text of the household is escaped; like the picture for a terminal it shows everything, what
is shut away too, and marks where one stands and what the goal is about.
"""

from __future__ import annotations

from typing import Any

from lamer_envs.alfworld.house import House
from lamer_envs.alfworld.texts import carried
from lamer_envs.alfworld.world import contents
from lamer_envs.markup import escaped


def room_html(h: House, state: dict[str, Any]) -> str:
    """The household as an element of classes `place` (`here`, `goal`, `shut`) and `thing` (`wanted`)."""
    places = []
    for i, r in enumerate(h.receptacles):
        shut = r.openable and i not in state["open"]
        here = r.place is not None and r.place == state["at"]
        names = ["place", *["here"] * here, *["goal"] * (i in h.goal_receptacles), *["shut"] * shut]
        door = f"<i>{'shut' if shut else 'open'}</i>" if r.openable else ""
        things = "".join(_thing(h, state, o) for o in contents(state, i))
        places.append(f'<div class="{" ".join(names)}"><b>{escaped(r.name)}</b>{door}{things}</div>')
    done = '<p class="done">done</p>' if state["won"] else ""
    return (
        f'<section class="alfworld"><p class="task">{escaped(h.words)}</p><div class="room">{"".join(places)}</div>'
        f'<p class="hands">carrying {escaped(carried(h, state))}</p>{done}</section>'
    )


def _thing(h: House, state: dict[str, Any], o: int) -> str:
    thing = h.objects[o]
    wanted = " wanted" if thing.type in (h.thing, h.target) else ""
    return f'<span class="thing{wanted}">{escaped(thing.name)}{" (on)" if o in state["lit"] else ""}</span>'
