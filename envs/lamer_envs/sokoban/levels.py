"""Sokoban levels: reading and writing XSB, canonical form under symmetry, and drawing new ones.

What must stay true: a drawn level was solved by exact search, and its shortest solution has between `min_moves` and
`max_moves` moves. Every cell that the player could never reach, boxes aside, is a wall in a Level.

XSB is the usual text form of levels: `#` wall, `@` player, `+` player on a target, `$` box, `*` box on a target, `.`
target, and a space, `-` or `_` for floor.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import count

from lamer_envs.errors import InstanceError
from lamer_envs.sokoban.room import Room, bits, room
from lamer_envs.sokoban.search import backward_layer, shortest

MAX_SIDE = 30
WALL_SHARE = (0.08, 0.30)
"""Least and largest share of the inner cells that are walls in drawn levels."""
SEARCH_LIMIT = 20_000
"""Nodes that the search behind one drawn level may expand; it then takes the deepest layer that was finished."""
AWAY_SHARE = 0.8
"""Share of the boxes that should start off their targets."""
_PREFERRED_DRAWS = 6
"""Levels within bounds to look at before the best is taken although it misses AWAY_SHARE."""
_PIT_DRAWS = 20
"""Sets of pits to try in one level before another level is drawn."""

_XSB = "#@+$*.-_ "


class Level:
    """A level: its text (rows of XSB joined by `/`, `-` for floor), size, masks, and what lies under the pieces."""

    def __init__(self, text: str) -> None:
        lines = text.split("/")
        self.text = text
        self.rows, self.columns = len(lines), len(lines[0])
        cells = "".join(lines)
        self.player = sum(1 << i for i, cell in enumerate(cells) if cell in "@+")
        self.boxes = sum(1 << i for i, cell in enumerate(cells) if cell in "$*")
        self.goals = sum(1 << i for i, cell in enumerate(cells) if cell in ".+*")
        self.floor = sum(1 << i for i, cell in enumerate(cells) if cell != "#")
        self.ground = ["." if cell in ".+*" else "#" if cell == "#" else "-" for cell in cells]

    def room(self, pits: int = 0) -> Room:
        """The Room, looked up anew, so that a cached level does not keep what was derived in it alive."""
        return room(self.columns, self.floor, self.goals, pits)

    def cell(self, index: int) -> str:
        """`(row, column)`, 1-based, of a row-major index."""
        return f"({index // self.columns + 1}, {index % self.columns + 1})"

    def inner_walls(self) -> list[int]:
        """Walls inside the outer frame that share an edge with floor: the only ones that can stop anything."""
        floor, columns = self.floor, self.columns
        near = floor << 1 | floor >> 1 | floor << columns | floor >> columns
        return [
            i
            for i, cell in enumerate(self.ground)
            if cell == "#" and near >> i & 1 and 0 < i // columns < self.rows - 1 and 0 < i % columns < columns - 1
        ]


@lru_cache(maxsize=1024)
def level(text: str) -> Level:
    """The shared Level of a text in state form."""
    return Level(text)


def level_text(lines: Sequence[str]) -> str:
    """XSB rows as the text of a Level, checked and normalised. Raises InstanceError."""
    rows = [row.rstrip() for row in lines]
    while rows and not rows[0]:
        rows.pop(0)
    while rows and not rows[-1]:
        rows.pop()
    columns = max(map(len, rows), default=0)
    if not 3 <= len(rows) <= MAX_SIDE or not 3 <= columns <= MAX_SIDE:
        raise InstanceError(f"a level has from 3 to {MAX_SIDE} rows and columns, not {len(rows)} x {columns}")
    cells = [" " if cell in "-_" else cell for row in rows for cell in row.ljust(columns)]
    strange = sorted({cell for cell in cells if cell not in _XSB})
    if strange:
        raise InstanceError(f"a level must not hold {strange[0]!r}; XSB has # @ + $ * . and space, - or _ for floor")
    players = [i for i, cell in enumerate(cells) if cell in "@+"]
    if len(players) != 1:
        raise InstanceError(f"a level needs exactly one player (@ or +), not {len(players)}")
    edge = [i for i in range(len(cells)) if i < columns or i >= len(cells) - columns or i % columns in (0, columns - 1)]
    open_cells = sum(1 << i for i, cell in enumerate(cells) if cell != "#")
    frame = sum(1 << i for i in edge)
    inside = Room(columns, 0, 0).region(1 << players[0], open_cells & ~frame)
    if inside & frame or _neighbours(inside, columns) & open_cells & frame:
        raise InstanceError("walls must enclose the player on all sides; the level is open at its edge")
    for i, cell in enumerate(cells):
        if not inside >> i & 1:
            if cell in "$.":
                what = "box" if cell == "$" else "target"
                raise InstanceError(f"the {what} in row {i // columns + 1}, column {i % columns + 1} cannot be reached")
            cells[i] = "#"
    boxes, goals = (sum(cell in kind for cell in cells) for kind in ("$*", ".+*"))
    if boxes != goals or not boxes:
        raise InstanceError(f"a level needs as many targets as boxes, at least one: not {boxes} boxes, {goals} targets")
    if "$" not in cells:
        raise InstanceError("the level is solved already: every box stands on a target")
    text = "".join(cells).replace(" ", "-")
    return "/".join(text[at : at + columns] for at in range(0, len(text), columns))


def _neighbours(mask: int, columns: int) -> int:
    return mask << 1 | mask >> 1 | mask << columns | mask >> columns


@lru_cache(maxsize=1024)
def canonical(text: str) -> str:
    """The least of the level's texts under the eight symmetries of the square: equal for mirrored and turned levels."""
    lines = text.split("/")
    forms = []
    for turned in (lines, ["".join(column) for column in zip(*lines, strict=True)]):
        for flipped in (turned, turned[::-1]):
            forms += ["/".join(flipped), "/".join(row[::-1] for row in flipped)]
    return min(forms)


def draw_level(
    rows: int, columns: int, boxes: int, min_moves: int, max_moves: int, rng: random.Random, draws: int | None = None
) -> str | None:
    """The text of a random level within the bounds, None if `draws` rooms held none (no limit: until one does).

    A random room, a random length, and exact search backward from the solved room: any position of the layer that
    many moves away is a level with that shortest solution. Levels with most boxes off their targets come first.
    """
    best: tuple[int, str] = (0, "")
    found = 0
    for attempt in count():
        if found == _PREFERRED_DRAWS or attempt == draws:
            return best[1] or None
        drawn = _draw_room(rows, columns, boxes, rng)
        moves, layer = backward_layer(drawn, rng.randint(min_moves, max_moves), SEARCH_LIMIT)
        if moves < min_moves:
            continue
        found += 1
        goals = drawn.goals
        away = max((goals & ~placed).bit_count() for placed in layer)
        if away > best[0]:
            placed = rng.choice([placed for placed in layer if (goals & ~placed).bit_count() == away])
            player = rng.choice(list(bits(layer[placed])))
            best = away, _text(rows, columns, drawn, placed, player)
        if away >= AWAY_SHARE * boxes:
            return best[1]
    raise AssertionError("unreachable")


def draw_pits(text: str, pits: int, max_moves: int, rng: random.Random) -> int | None:
    """A mask of so many cells that swallow boxes, with which the level is still solved in `max_moves`; None if no set
    of those tried leaves it so.

    One lies where a shortest solution that knows of none pushes a box, so that there is something to find out; the rest
    are drawn from the cells from which a box could get home: others would change nothing.
    """
    here = level(text)
    able = here.room().live & ~here.goals & ~here.boxes & ~here.player
    crossed, cells = list(bits(able & _crossed(here))), list(bits(able))
    if not crossed or len(cells) < pits:
        return None
    for _ in range(_PIT_DRAWS):
        first = rng.choice(crossed)
        drawn = first | sum(rng.sample([cell for cell in cells if cell != first], pits - 1))
        moves = shortest(here.room(drawn), here.player, here.boxes)
        if moves is not None and len(moves) <= max_moves:
            return drawn
    return None


def _crossed(here: Level) -> int:
    """The cells onto which a shortest solution pushes boxes."""
    player, boxes, found = here.player, here.boxes, 0
    for move in shortest(here.room(), player, boxes) or ():
        step = here.room().steps[move]
        player = player << step if step > 0 else player >> -step
        if player & boxes:
            pushed = player << step if step > 0 else player >> -step
            boxes ^= player | pushed
            found |= pushed
    return found


def _draw_room(rows: int, columns: int, boxes: int, rng: random.Random) -> Room:
    """A frame, scattered inner walls, the largest part of the floor that they leave in one piece, random targets."""
    inner = [1 << (row * columns + column) for row in range(1, rows - 1) for column in range(1, columns - 1)]
    low = max(1, round(WALL_SHARE[0] * len(inner)))
    high = max(low, min(int(WALL_SHARE[1] * len(inner)), len(inner) - boxes - 2))
    while True:
        cells = rng.sample(inner, len(inner) - rng.randint(low, high))
        floor = Room(columns, sum(cells), 0).region(cells[0], sum(cells))
        if floor.bit_count() >= 0.75 * len(cells):
            joined = [cell for cell in cells if cell & floor]
            return Room(columns, floor, sum(joined[:boxes]))


def _text(rows: int, columns: int, drawn: Room, boxes: int, player: int) -> str:
    cells = []
    for i in range(rows * columns):
        bit = 1 << i
        on_goal = bool(drawn.goals & bit)
        if boxes & bit:
            cells.append("*" if on_goal else "$")
        elif player & bit:
            cells.append("+" if on_goal else "@")
        else:
            cells.append("." if on_goal else "-" if drawn.floor & bit else "#")
    return "/".join("".join(cells[at : at + columns]) for at in range(0, rows * columns, columns))
