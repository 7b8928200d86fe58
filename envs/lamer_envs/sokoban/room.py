"""Sokoban rooms as bit masks: floor, targets, where a box may stand, and what makes a position hopeless.

What must stay true: cell (row, column) from 0 is bit `row * columns + column`, and `floor` holds only cells that the
player's walls enclose, so that shifting a mask by a row or a column can never wrap around. A position is called dead
only if it provably cannot be won. Pits swallow boxes and nothing else: the player walks over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from math import comb

EXACT_STATES = 2000
"""Rooms in which at most this many placements of the boxes can be won get an exact answer to "is this one dead"."""
PLACEMENTS = 10_000
"""Rooms with more placements of boxes on live cells than this are not searched at all, to keep the first push fast."""

DIRECTIONS = ("up", "down", "left", "right")


def bits(mask: int) -> Iterator[int]:
    """The single bits of a mask, lowest first."""
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit


class Room:
    """Walls, targets and pits, and what follows from them alone."""

    def __init__(self, columns: int, floor: int, goals: int, pits: int = 0) -> None:
        self.columns = columns
        self.floor = floor
        self.goals = goals
        self.firm = floor & ~pits
        """Where a box may stand."""
        self.steps = {"up": -columns, "down": columns, "left": -1, "right": 1}

    def region(self, start: int, free: int) -> int:
        """The cells of `free` that the player reaches on foot from the mask `start`."""
        columns, region = self.columns, start
        while True:
            grown = (region | region << 1 | region >> 1 | region << columns | region >> columns) & free | start
            if grown == region:
                return region
            region = grown

    @cached_property
    def distances(self) -> dict[int, int]:
        """Pushes that bring a lone box from a cell to the nearest target, the player walking through walls.

        A lower bound on moves. Cells that are missing are dead squares: from them a box reaches no target, pits among
        them.
        """
        floor, firm, columns = self.floor, self.firm, self.columns
        found = dict.fromkeys(bits(self.goals & firm), 0)
        seen = layer = self.goals & firm
        pushes = 0
        while layer:
            pushes += 1
            grown = 0
            for step in (1, columns):
                # A box at c was pushed to c + step by a player at c - step, and the mirror image.
                grown |= (layer >> step) & (floor << step) | (layer << step) & (floor >> step)
            layer = grown & firm & ~seen
            seen |= layer
            for bit in bits(layer):
                found[bit] = pushes
        return found

    @cached_property
    def live(self) -> int:
        """Mask of the cells from which a lone box can reach a target."""
        return sum(self.distances)

    @cached_property
    def winnable(self) -> dict[int, int] | None:
        """Every placement of the boxes that can be won, with the player's cells that win it.

        Backward search from the solved placement: the player steps back and pulls. Exact, because a push is undone
        by a pull and nothing else moves a box. None in rooms beyond EXACT_STATES or PLACEMENTS.
        """
        if comb(self.live.bit_count(), self.goals.bit_count()) > PLACEMENTS:
            return None
        floor, firm, columns = self.floor, self.firm, self.columns
        won = {self.goals: floor & ~self.goals}
        todo = [(self.goals, won[self.goals])]
        while todo:
            if len(won) > EXACT_STATES:
                return None
            boxes, players = todo.pop()
            free = floor & ~boxes
            for step in (1, columns):
                # The player is at p, the box at p + step, and both go one step back; then the mirror image.
                for bit in bits(players & firm & (boxes >> step) & (free << step)):
                    self._pulled(won, todo, boxes ^ (bit << step) ^ bit, bit >> step)
                for bit in bits(players & firm & (boxes << step) & (free >> step)):
                    self._pulled(won, todo, boxes ^ (bit >> step) ^ bit, bit << step)
        return won

    def _pulled(self, won: dict[int, int], todo: list[tuple[int, int]], boxes: int, player: int) -> None:
        known = won.get(boxes, 0)
        if not known & player:
            players = self.region(player, self.floor & ~boxes)
            won[boxes] = known | players
            todo.append((boxes, players))

    def is_dead(self, player: int, boxes: int, pushed: int) -> bool:
        """True only if the position cannot be won; `pushed` are the boxes to look at in rooms too large to be exact.

        Exact where `winnable` is known. Else: a box on a dead square, or frozen boxes off their targets.
        """
        if boxes & ~self.live:
            return True
        winnable = self.winnable
        if winnable is not None:
            return not winnable.get(boxes, 0) & player
        for bit in bits(pushed):
            frozen = self._frozen(bit, boxes, self.floor)
            if frozen & ~self.goals:
                return True
        return False

    def _frozen(self, box: int, boxes: int, open_cells: int) -> int:
        """The boxes that hold each other and `box` in place for ever, 0 if `box` can move.

        Blocked along an axis: a wall on one side, dead squares on both, or a box on one side that is itself frozen
        when this one counts as a wall (a box that only moves onto a dead square may as well stay).
        """
        open_cells &= ~box
        together = box
        for step in (1, self.columns):
            sides = (box << step, box >> step)
            if not all(side & open_cells for side in sides) or not any(side & self.live for side in sides):
                continue
            for side in sides:
                if side & boxes and (frozen := self._frozen(side, boxes, open_cells)):
                    together |= frozen
                    break
            else:
                return 0
        return together


@lru_cache(maxsize=256)
def room(columns: int, floor: int, goals: int, pits: int = 0) -> Room:
    """The shared Room; few are kept, for `winnable` can be large."""
    return Room(columns, floor, goals, pits)
