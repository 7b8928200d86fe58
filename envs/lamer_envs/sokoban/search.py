"""Exact search in Sokoban, counted in moves: the solver, and the distances backward from the solved position.

What must stay true: both are exact. A search node is a placement of the boxes with a *mask* of player cells, so all
players of one placement are advanced by a few shifts at once; each (placement, player) is still closed only once, at
its least number of moves.

`shortest` is A* (Hart, Nilsson and Raphael 1968) with h = the sum over boxes of the pushes to the nearest target. One
push lowers h by at most 1 (it may raise it by more: not every push can be undone), so h is consistent; f = moves + h
and the placement fix the moves, hence buckets by f.
"""

from __future__ import annotations

from lamer_envs.errors import EnvError
from lamer_envs.sokoban.room import DIRECTIONS, Room, bits

SOLVER_LIMIT = 500_000
"""Nodes after which the solver gives up; far beyond anything that is generated."""


def shortest(room: Room, player: int, boxes: int, limit: int = SOLVER_LIMIT) -> list[str] | None:
    """The fewest moves that win, None if nothing does. Raises EnvError after `limit` nodes, in huge rooms only."""
    if boxes & ~room.live:
        return None
    floor, columns, goals, live, distances = room.floor, room.columns, room.goals, room.live, room.distances
    heuristics = {boxes: sum(distances[bit] for bit in bits(boxes))}
    closed: dict[int, int] = {}
    layers: dict[int, dict[int, int]] = {}  # placement -> moves -> players closed at that number of moves
    buckets: dict[int, list[tuple[int, int]]] = {heuristics[boxes]: [(boxes, player)]}
    bound = nodes = 0
    while buckets:
        bucket = buckets.pop(bound, None)
        if bucket is None:
            bound += 1
            continue
        following: list[tuple[int, int]] = buckets.setdefault(bound + 1, [])
        while bucket:
            placed, players = bucket.pop()
            known = closed.get(placed, 0)
            players &= ~known
            if not players:
                continue
            h = heuristics[placed]
            closed[placed] = known | players
            layer = layers.setdefault(placed, {})
            layer[bound - h] = layer.get(bound - h, 0) | players
            if placed == goals:
                return _trace(room, layers, bound, placed, players & -players)
            nodes += 1
            if nodes > limit:
                raise EnvError(f"the level was not solved within {limit} search nodes; use a smaller one")
            free = floor & ~placed
            landing = live & ~placed
            walked = (players << 1 | players >> 1 | players << columns | players >> columns) & free
            if walked:
                following.append((placed, walked))
            for step in (1, columns):
                forward = [(bit, bit << step) for bit in bits((players << step) & placed & (landing >> step))]
                back = [(bit, bit >> step) for bit in bits((players >> step) & placed & (landing << step))]
                for bit, target in forward + back:
                    after = placed ^ bit ^ target
                    # The player steps to where the box was; f grows by the move and by the change of h.
                    change = distances[target] - distances[bit]
                    heuristics.setdefault(after, h + change)
                    if change < 0:
                        bucket.append((after, bit))
                    else:
                        buckets.setdefault(bound + 1 + change, []).append((after, bit))
        if not following:
            del buckets[bound + 1]
    return None


def _trace(room: Room, layers: dict[int, dict[int, int]], moves: int, boxes: int, player: int) -> list[str]:
    """Walk back from the win through positions that were closed one move earlier."""
    path: list[str] = []
    while moves:
        moves -= 1
        for name in DIRECTIONS:
            step = room.steps[name]
            came = _shift(player, -step)
            beyond = _shift(player, step)
            if layers[boxes].get(moves, 0) & came:
                break
            unpushed = boxes ^ beyond ^ player
            if boxes & beyond and layers.get(unpushed, {}).get(moves, 0) & came:
                boxes = unpushed
                break
        player = came
        path.append(name)
    return path[::-1]


def _shift(mask: int, step: int) -> int:
    return mask << step if step > 0 else mask >> -step


def backward_layer(room: Room, moves: int, limit: int) -> tuple[int, dict[int, int]]:
    """The positions exactly so many moves from the win: (moves, {placement: players}).

    Fewer moves where none are that far, or where `limit` nodes were expanded first: the deepest whole layer.
    """
    floor, columns = room.floor, room.columns
    layer = {room.goals: floor & ~room.goals}
    seen = dict(layer)
    nodes = 0
    for depth in range(moves):
        following: dict[int, int] = {}
        nodes += len(layer)
        if nodes > limit:
            return depth, layer
        for boxes, players in layer.items():
            free = floor & ~boxes
            fresh = (players << 1 | players >> 1 | players << columns | players >> columns) & free & ~seen[boxes]
            if fresh:
                following[boxes] = following.get(boxes, 0) | fresh
            for step in (1, columns):
                # The player steps back from p and pulls the box at p + step after it; then the mirror image.
                pulling = players & (boxes >> step) & (free << step)
                while pulling:
                    bit = pulling & -pulling
                    pulling ^= bit
                    before, player = boxes ^ (bit << step) ^ bit, bit >> step
                    if not seen.get(before, 0) & player:
                        following[before] = following.get(before, 0) | player
                pulling = players & (boxes << step) & (free >> step)
                while pulling:
                    bit = pulling & -pulling
                    pulling ^= bit
                    before, player = boxes ^ (bit >> step) ^ bit, bit << step
                    if not seen.get(before, 0) & player:
                        following[before] = following.get(before, 0) | player
        if not following:
            return depth, layer
        for boxes, players in following.items():
            seen[boxes] = seen.get(boxes, 0) | players
        layer = following
    return moves, layer
