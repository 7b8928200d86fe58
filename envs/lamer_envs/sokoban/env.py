"""Sokoban: push every box onto a target, one to three moves a turn.

What must stay true: a level is drawn from the seed alone and was solved by exact search within its length bounds; the
episode ends at the win, and as soon as a position is known to be dead; a position that can be won is never called dead.

Rewards (LaMer, arXiv 2512.16848, section 5): the sum over a turn's moves of -0.1, +1 for a box pushed onto a target,
-1 for one pushed off it, and +10 for the win.

What costs what: an invalid turn is charged INVALID = -0.1 and changes nothing, as much as a turn of one move and less
than one of two (-0.2) or three (-0.3), whether its moves walk, push or bump. Pushing a box off a target costs 1 more,
pushing it onto one gives that back. A dead position costs nothing but the moves that led there, and spares the turns
that are left. Without prospect of a win a player is thus cheapest off by dying at once, then by invalid turns or single
moves (-0.7 in seven turns), and dearest by playing on in threes (-2.1). The rewards are the paper's; a trainer takes
its own penalty off invalid turns besides (`invalid_is_cheap`), as the authors' code does.

Sokoban hides nothing, so a perfect player wins at its first attempt and has no use for a second. With `pits` there is
something to find out: floor cells that look like others and swallow boxes, the same in every attempt at a task.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lamer_envs.base import MAX_ACTION_CHARS, Env, State, Step
from lamer_envs.errors import EnvParameterError, InstanceError
from lamer_envs.instances import read_instance, read_instance_text
from lamer_envs.parameters import check_whole, generator
from lamer_envs.sokoban.judge import STUCK_AT, claimed
from lamer_envs.sokoban.levels import MAX_SIDE, Level, canonical, draw_level, draw_pits, level, level_text
from lamer_envs.sokoban.picture import room_svg
from lamer_envs.sokoban.room import DIRECTIONS, Room, bits
from lamer_envs.sokoban.search import shortest

INVALID = -0.1
MOVES_PER_TURN = 3
MIN_MOVES, MAX_MOVES, MAX_TURNS = 5, 21, 7
MAX_BOXES = 20
MAX_PITS = 20
WEAK_SKILL = 0.3
"""Share of the weak player's turns that follow a shortest solution; the others are random moves."""

_SPEC = re.compile(
    r"([0-9]{1,2})x([0-9]{1,2})-([0-9]{1,2})(?:-m([0-9]{1,4})\.\.([0-9]{1,4}))?(?:-t([0-9]{1,4}))?(?:-pits=([0-9]{1,2}))?",
    re.ASCII,
)
_INSTANCE_EXAMPLE = '{"xsb": ["#####", "#@$.#", "#####"]}'
_EXAMPLE = "make('sokoban', size=(6, 6), boxes=2)"


class _Turn(NamedTuple):
    """What a turn's moves did; `player` and `boxes` are masks, the rest are counts."""

    player: int
    boxes: int
    moves: int
    bumped: int
    on: int
    off: int
    won: bool
    dead: bool


class Sokoban(Env):
    """Sokoban in rooms of `size` (rows, columns; outer walls included) with `boxes` boxes.

    Levels take between `min_moves` and `max_moves` moves when solved best by who knows the `pits`, of which there are
    so many. State (JSON): `{"level": str, "player": int, "boxes": [int], "dead": bool}`: the initial level as XSB rows
    joined by `/`, and row-major cells from 0; with pits also `"pits": [int]`. Levels are held out whatever their pits.
    """

    name: ClassVar[str] = "sokoban"
    markov: ClassVar[bool] = True
    tells_actions: ClassVar[bool] = True  # the action format does, and `admissible` has single moves only
    penalises_invalid: ClassVar[bool] = True
    invalid_is_cheap: ClassVar[bool] = True  # -0.1, and two or three moves cost more

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        boxes: int = 2,
        min_moves: int = MIN_MOVES,
        max_moves: int | None = None,
        max_turns: int | None = None,
        pits: int = 0,
    ) -> None:
        """Defaults: 6x6 for up to 2 boxes, one row and column more for each further box up to 8x8; 7 turns, and at
        most 21 moves or what the turns allow. Raises EnvParameterError for parameters that no level fits."""
        check_whole("boxes", boxes, 1, MAX_BOXES, example=_EXAMPLE)
        check_whole("pits", pits, 0, MAX_PITS, example="make('sokoban', size=(6, 6), boxes=1, pits=3)")
        if size is None:
            size = min(max(6, boxes + 4), 8) if boxes <= 5 else boxes + 3
        sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else []
        if len(sides) != 2:
            raise EnvParameterError(f"size must be (rows, columns), not {str(size)[:40]}; for example {_EXAMPLE}")
        for side in sides:
            check_whole("each side of size", side, 4, MAX_SIDE, example=_EXAMPLE)
        check_whole("min_moves", min_moves, 1, 9999, example=_EXAMPLE)
        if max_turns is not None:
            check_whole("max_turns", max_turns, 1, 9999, example=_EXAMPLE)
        if max_moves is None:
            max_moves = max(MAX_MOVES, min_moves) if max_turns is None else min(MAX_MOVES, MOVES_PER_TURN * max_turns)
        check_whole("max_moves", max_moves, 1, 9999, example=_EXAMPLE)
        if max_turns is None:
            max_turns = max(MAX_TURNS, -(-max_moves // MOVES_PER_TURN))
        if not min_moves <= max_moves <= MOVES_PER_TURN * max_turns:
            raise EnvParameterError(
                f"min_moves {min_moves}, max_moves {max_moves} and max_turns {max_turns} do not fit together: "
                f"min_moves <= max_moves <= {MOVES_PER_TURN} x max_turns must hold"
            )
        self.rows, self.columns = sides
        self.boxes, self.min_moves, self.max_moves, self.max_turns = boxes, min_moves, max_moves, max_turns
        self.pits = pits
        if not _feasible(self.rows, self.columns, boxes, min_moves, max_moves, pits):
            hidden = f", {pits} pits" if pits else ""
            raise EnvParameterError(
                f"no sokoban level was found with size {self.rows}x{self.columns}, {boxes} boxes{hidden} and a "
                f"solution of {min_moves} to {max_moves} moves; use a larger room, fewer boxes or pits, wider bounds: "
                f"{_EXAMPLE}"
            )

    @property
    def spec(self) -> str:
        text = f"{self.name}:{self.rows}x{self.columns}-{self.boxes}"
        if (self.min_moves, self.max_moves) != (MIN_MOVES, MAX_MOVES):
            text += f"-m{self.min_moves}..{self.max_moves}"
        usual_turns = max(MAX_TURNS, -(-self.max_moves // MOVES_PER_TURN))
        if self.max_turns != usual_turns:
            text += f"-t{self.max_turns}"
        return f"{text}-pits={self.pits}" if self.pits else text

    @classmethod
    def from_spec(cls, params: str) -> Sokoban:
        if not params:
            return cls()
        match = _SPEC.fullmatch(params)
        if not match:
            raise EnvParameterError(
                f"'{params[:40]}' is no size of sokoban; write ROWSxCOLUMNS-BOXES, for example sokoban:6x6-2, with "
                "-m5..12 for bounds of the solution in moves, -t9 for a budget of 9 turns and -pits=3 for three hidden "
                "pits where wanted"
            )
        low, high, turns, pits = (int(part) if part else None for part in match.groups()[3:])
        size = int(match[1]), int(match[2])
        return cls(size, int(match[3]), MIN_MOVES if low is None else low, high, turns, pits or 0)

    @property
    def params(self) -> Mapping[str, Any]:
        return {
            "size": [self.rows, self.columns],
            "boxes": self.boxes,
            "min_moves": self.min_moves,
            "max_moves": self.max_moves,
            "max_turns": self.max_turns,
            **({"pits": self.pits} if self.pits else {}),
        }

    # -- what the policy is told ------------------------------------------------------------------------------------

    @property
    def rules(self) -> str:
        return (
            "This is Sokoban. You walk through a room and push boxes; the game is won when every box stands on a "
            "target. Walking into a box pushes it one cell further if the cell behind it is free. Boxes cannot be "
            "pulled, and two cannot be pushed at once; a move into a wall or a stuck box changes nothing. A box "
            "pushed into a place from which the game can no longer be won ends it. The room is drawn row by row: "
            "# wall, - floor, . target, $ box, * box on a target, @ you, + you on a target."
            + (_PITS if self.pits else "")
        )

    @property
    def action_format(self) -> str:
        return "one to three moves out of up, down, left and right, separated by commas, for example up, up, left"

    def observe(self, state: State) -> str:
        here = level(state["level"])
        cells = self._cells(here, state)
        return "\n".join(" ".join(cells[at : at + here.columns]) for at in range(0, len(cells), here.columns))

    def compact(self, state: State) -> str:
        here = level(state["level"])
        parts = [
            ("You", [state["player"]]),
            ("Box", state["boxes"]),
            ("Goal", [i for i, cell in enumerate(here.ground) if cell == "."]),
            ("Wall", here.inner_walls()),
        ]
        return " ".join(" ".join([word, *map(here.cell, cells)]) for word, cells in parts if cells)

    def outcome(self, before: State, action: str, step: Step) -> str:
        parsed = self.parse(action)
        if not step.valid:
            return f"{parsed} invalid" if parsed else "invalid"
        here = level(before["level"])
        turn = _play(here, _room(before), before, str(parsed).split(", "))
        pushed = [cell for cell in step.state["boxes"] if cell not in before["boxes"]]
        parts = [f"box to {here.cell(cell)}{' on goal' if here.ground[cell] == '.' else ''}" for cell in pushed]
        parts = parts or [f"at {here.cell(step.state['player'])}"]
        parts += [f"bumped {turn.bumped}"] if turn.bumped else []
        parts += ["won"] if turn.won else ["stuck"] if turn.dead else []
        return f"{parsed}: {', '.join(parts)}"

    # -- dynamics ---------------------------------------------------------------------------------------------------

    def reset(self, seed: int) -> State:
        bounds = f"{self.rows} {self.columns} {self.boxes} {self.min_moves} {self.max_moves}"
        if self.pits:
            bounds += f" {self.pits} pits"
        rng = generator("sokoban", bounds, seed)
        while True:
            drawn = draw_level(self.rows, self.columns, self.boxes, self.min_moves, self.max_moves, rng)
            pits = draw_pits(str(drawn), self.pits, self.max_moves, rng) if self.pits else 0
            if pits is not None:
                return _initial(str(drawn), pits)

    def step(self, state: State, action: str) -> Step:
        here = level(state["level"])
        won = _mask(state["boxes"]) == here.goals
        over = won or state["dead"]
        parsed = self.parse(action)
        if parsed is None or over:
            return Step({**state, "boxes": list(state["boxes"])}, self.observe(state), INVALID, over, won, False)
        turn = _play(here, _room(state), state, parsed.split(", "))
        following = {
            **state,
            "player": turn.player.bit_length() - 1,
            "boxes": [bit.bit_length() - 1 for bit in bits(turn.boxes)],
            "dead": turn.dead,
        }
        reward = (100 * turn.won + 10 * (turn.on - turn.off) - turn.moves) / 10
        return Step(following, self.observe(following), reward, turn.won or turn.dead, turn.won, True)

    def parse(self, answer: str) -> str | None:
        if len(answer) > MAX_ACTION_CHARS:
            return None
        moves = [move.strip() for move in answer.lower().split(",")]
        if not all(move in DIRECTIONS for move in moves):
            return None
        return ", ".join(moves[:MOVES_PER_TURN])

    def admissible(self, state: State) -> list[str]:
        over = state["dead"] or _mask(state["boxes"]) == level(state["level"]).goals
        return [] if over else list(DIRECTIONS)

    def load(self, instance: Mapping[str, Any] | Path) -> State:
        """A state from `{"xsb": [rows]}` of any size, or from the file at a `Path` with that or one level in plain XSB.

        `"pits": [[row, column], ..]` (1-based, on bare floor) may be added. A level that is known to be unsolvable
        (`Room.is_dead`) is over from the start.
        """
        if isinstance(instance, Path) and not (text := read_instance_text(instance)).lstrip().startswith("{"):
            instance = {"xsb": [line for line in text.splitlines() if not line.startswith(";")]}
        data = read_instance(instance, ("xsb", "pits"), _INSTANCE_EXAMPLE)
        rows = data.get("xsb")
        if not isinstance(rows, list | tuple) or not all(isinstance(row, str) for row in rows):
            raise InstanceError(f"a sokoban instance is a list of rows of text; expected {_INSTANCE_EXAMPLE}")
        text = level_text(rows)
        return _initial(text, _read_pits(level(text), data.get("pits") or []), check=True)

    def progress(self, state: State) -> float:
        """The share of targets that hold a box."""
        goals = level(state["level"]).goals
        return (_mask(state["boxes"]) & goals).bit_count() / goals.bit_count()

    # -- instances, scripted players, pictures ----------------------------------------------------------------------

    def instance(self, state: State) -> str:
        """The initial level with its pits as `o`, the same for all its mirrored and turned forms."""
        cells, columns = list(state["level"]), level(state["level"]).columns
        for pit in state.get("pits", ()):
            cells[pit + pit // columns] = "o"
        return canonical("".join(cells))

    def split_of(self, state: State) -> str:
        """The split of the level: it is held out with whatever pits."""
        return super().split_of({key: value for key, value in state.items() if key != "pits"})

    def judge(self, start: State, actions: Sequence[str], text: str) -> bool | None:
        """Whether the text names cells where the last turn got a box stuck, or that are pits, and no others; None where
        it got none stuck."""
        played = self.replay(start, actions)
        stuck = set(STUCK_AT.findall(self.outcome(*played[-1]))) if played else set()
        pits = {level(start["level"]).cell(cell) for cell in start.get("pits", ())}
        said = claimed(text)
        return bool(said) and said <= stuck | pits if stuck else None

    def solve(self, state: State) -> list[str] | None:
        """A shortest solution in moves, as turns of up to three moves; None if there is none.

        Raises EnvError where the search would take too long, which no generated level does.
        """
        if state["dead"]:
            return None
        moves = shortest(_room(state), 1 << state["player"], _mask(state["boxes"]))
        if moves is None:
            return None
        return [", ".join(moves[at : at + MOVES_PER_TURN]) for at in range(0, len(moves), MOVES_PER_TURN)]

    def weak(self, state: State, rng: random.Random) -> str:
        """With probability WEAK_SKILL the next turn of a shortest solution, else one to three random moves."""
        if rng.random() < WEAK_SKILL and (plan := self.solve(state)):
            return plan[0]
        return ", ".join(rng.choice(DIRECTIONS) for _ in range(rng.randint(1, MOVES_PER_TURN)))

    def render(self, state: State) -> str:
        here = level(state["level"])
        cells = [_STYLES[cell] for cell in self._cells(here, state)]
        return "\n".join("".join(cells[at : at + here.columns]) for at in range(0, len(cells), here.columns))

    def render_html(self, state: State) -> str:
        """The room for a browser; faint discs are pits, which no player sees."""
        here = level(state["level"])
        title = f"Sokoban, {here.rows} by {here.columns}"
        return room_svg(here.columns, self._cells(here, state), state.get("pits", ()), title)

    def _cells(self, here: Level, state: State) -> list[str]:
        """The XSB character of every cell, row-major, `-` for floor."""
        cells = here.ground.copy()
        for box in state["boxes"]:
            cells[box] = "*" if cells[box] == "." else "$"
        player = state["player"]
        cells[player] = "+" if cells[player] == "." else "@"
        return cells


_PITS = (
    " Some floor cells, which look like others, are pits. You walk over them, but a box that is pushed into one is "
    "lost, and the game with it. They are in the same places in every attempt."
)
_STYLES = {
    "#": "[grey42 on grey42]##[/]",
    "-": "[dim] .[/]",
    ".": "[bold yellow]()[/]",
    "$": "[bold black on dark_orange]<>[/]",
    "*": "[bold black on green]<>[/]",
    "@": "[bold bright_cyan]@>[/]",
    "+": "[bold bright_cyan on yellow4]@>[/]",
}


def _room(state: State) -> Room:
    return level(state["level"]).room(_mask(state.get("pits", ())))


def _play(here: Level, room: Room, state: State, moves: Sequence[str]) -> _Turn:
    """Play the moves until they end, the boxes are all home, or a push made the position dead."""
    player, boxes = 1 << state["player"], _mask(state["boxes"])
    floor, goals = here.floor, here.goals
    played = bumped = on = off = 0
    dead = False
    for name in moves:
        played += 1
        step = room.steps[name]
        ahead = _shift(player, step)
        if ahead & boxes:
            beyond = _shift(ahead, step)
            if not beyond & floor & ~boxes:
                bumped += 1
                continue
            boxes ^= ahead | beyond
            player = ahead
            on += bool(beyond & goals)
            off += bool(ahead & goals)
            if boxes == goals:
                break
            dead = room.is_dead(player, boxes, beyond)
            if dead:
                break
        elif ahead & floor:
            player = ahead
        else:
            bumped += 1
    return _Turn(player, boxes, played, bumped, on, off, boxes == goals, dead)


def _initial(text: str, pits: int = 0, check: bool = False) -> State:
    here = level(text)
    state = {
        "level": text,
        "player": here.player.bit_length() - 1,
        "boxes": [bit.bit_length() - 1 for bit in bits(here.boxes)],
        "dead": check and here.room(pits).is_dead(here.player, here.boxes, here.boxes),
    }
    return {**state, "pits": [bit.bit_length() - 1 for bit in bits(pits)]} if pits else state


def _read_pits(here: Level, cells: object) -> int:
    """The mask of pits that an instance lists. Raises InstanceError."""
    wrong = InstanceError(
        'a sokoban instance\'s pits are cells of bare floor, e.g. "pits": [[2, 3], [4, 2]] (row and column from 1)'
    )
    if not isinstance(cells, list | tuple):
        raise wrong
    found = 0
    for cell in cells:
        if not isinstance(cell, list | tuple) or len(cell) != 2 or not all(type(part) is int for part in cell):
            raise wrong
        row, column = cell
        if not 1 <= row <= here.rows or not 1 <= column <= here.columns:
            raise wrong
        bit = 1 << ((row - 1) * here.columns + column - 1)
        if not bit & here.floor & ~here.goals & ~here.boxes & ~here.player & ~found:
            raise wrong
        found |= bit
    return found


@lru_cache(maxsize=64)
def _feasible(rows: int, columns: int, boxes: int, min_moves: int, max_moves: int, pits: int) -> bool:
    """Whether some of 300 rooms from a fixed seed hold a level within the bounds, and one of fifty levels the pits."""
    if (rows - 2) * (columns - 2) < 2 * boxes + 2 + pits:
        return False
    rng = random.Random(0)
    for _ in range(50 if pits else 1):
        drawn = draw_level(rows, columns, boxes, min_moves, max_moves, rng, draws=300)
        if drawn is None:
            return False
        if not pits or draw_pits(drawn, pits, max_moves, rng) is not None:
            return True
    return False


def _mask(cells: Sequence[int]) -> int:
    return sum(1 << cell for cell in cells)


def _shift(mask: int, step: int) -> int:
    return mask << step if step > 0 else mask >> -step
