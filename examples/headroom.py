"""What is there to gain from a second attempt? Scripted players without a model, with perfect notes and without any.

    python examples/headroom.py --out runs/headroom

One player for each environment, as good as it can simply be made from what a policy reads, plays up to three attempts
at each task of a split. With notes it keeps what its failed attempts showed; without, every attempt is made as if it
were the first. The difference at the third attempt is what memory can be worth there to a player that makes no
mistakes of its own. Where it is nothing, meta-RL can still teach a weak player to avoid its own mistakes, no more.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np

from lamer_envs import Env, State, Step, make
from lamer_envs.alfworld.env import Alfworld
from lamer_envs.alfworld.experts import Explorer
from lamer_envs.alfworld.house import house
from lamer_envs.minesweeper import Minesweeper
from lamer_envs.sokoban import Sokoban
from lamer_envs.sokoban.levels import level
from lamer_envs.sokoban.room import bits
from lamer_envs.webshop import Webshop
from lamer_graph.evaluation.stats import pass_at_k

ENVS = (
    "minesweeper:4x4-3",
    "minesweeper:5x5-4",
    "minesweeper:6x6-3",
    "sokoban:6x6-2",
    "sokoban:6x6-1-pits=1",
    "sokoban:6x6-1-pits=2",
    "alfworld",
    "webshop:1000",
)


class Sweeper:
    """Opens a cell of the least probability to be a mine, of such one that most likely opens others with it. Exact: it
    weighs every layout that fits all that it has seen, with notes in earlier attempts, too."""

    def __init__(self, env: Minesweeper, rng: random.Random) -> None:
        self.env, self.rng = env, rng
        self.layouts, self.numbers = _layouts(env.size, env.mines)
        self.fits = np.ones(len(self.layouts), dtype=bool)

    def begin(self, start: State) -> None:
        pass

    def act(self, state: State) -> str:
        shown = self.env.observe(state).split()
        closed = np.array([cell == "?" for cell in shown])
        seen = np.array([int(cell) if cell.isdigit() else 0 for cell in shown])[~closed]
        self.fits &= ~self.layouts[:, ~closed].any(1) & (self.numbers[:, ~closed] == seen).all(1)
        risk = np.where(closed, self.layouts[self.fits].mean(0), 2.0)
        least = risk <= risk.min() + 1e-9
        opens = np.where(least, (self.numbers[self.fits] == 0).mean(0), -1.0)
        self.cell = int(self.rng.choice(np.flatnonzero(opens >= opens.max() - 1e-9)))
        return f"({self.cell // self.env.size + 1}, {self.cell % self.env.size + 1})"

    def saw(self, step: Step) -> None:
        if step.done and not step.success:
            self.fits &= self.layouts[:, self.cell]


@lru_cache
def _layouts(size: int, mines: int) -> tuple[Any, Any]:
    """Every layout of the mines, and its numbers: arrays of (layouts, cells)."""
    places = np.array(list(combinations(range(size * size), mines)))
    layouts = np.zeros((len(places), size * size), dtype=bool)
    layouts[np.arange(len(places))[:, None], places] = True
    padded = np.pad(layouts.reshape(-1, size, size), ((0, 0), (1, 1), (1, 1))).astype(np.int8)
    around = sum(padded[:, r : r + size, c : c + size] for r in range(3) for c in range(3))
    return layouts, np.asarray(around).reshape(len(places), -1)


class Porter:
    """Plays shortest solutions around the pits that it knows, or that it guesses where it may keep no notes."""

    def __init__(self, env: Sokoban, rng: random.Random) -> None:
        self.env, self.rng = env, rng
        self.pits: set[int] = set()

    def begin(self, start: State) -> None:
        here = level(start["level"])
        floor = list(bits(here.room().live & ~here.goals & ~here.boxes & ~here.player))
        count = min(self.env.pits, len(floor))
        self.guess = self.pits or {cell.bit_length() - 1 for cell in self.rng.sample(floor, count)}

    def act(self, state: State) -> str:
        self.boxes = set(state["boxes"])
        blind = {key: value for key, value in state.items() if key != "pits"}
        plan = self.env.solve({**blind, "pits": sorted(self.guess)}) or self.env.solve(blind)
        return plan[0] if plan else "up"

    def saw(self, step: Step) -> None:
        if step.done and not step.success:
            self.pits |= set(step.state["boxes"]) - self.boxes


class Searcher:
    """ALFWorld's explorer, who knows from its notes what lay where when it first looked."""

    def __init__(self, env: Alfworld, rng: random.Random) -> None:
        self.found: dict[int, list[int]] = {}

    def begin(self, start: State) -> None:
        self.explorer = Explorer()
        self.explorer.seen = {place: list(inside) for place, inside in self.found.items()}

    def act(self, state: State) -> str:
        command = self.explorer.act(house(state["house"]), state)
        for place, inside in self.explorer.seen.items():
            self.found.setdefault(place, [thing for thing in inside if thing != state["held"]])
        return command

    def saw(self, step: Step) -> None:
        pass


class Customer:
    """Searches for its wish, buys the product whose title has most of its words with every option that the wish
    mentions, and never the same product twice that it knows to be wrong."""

    def __init__(self, env: Webshop, rng: random.Random) -> None:
        self.env, self.rng = env, rng
        self.wrong: set[str] = set()

    def begin(self, start: State) -> None:
        pass

    def act(self, state: State) -> str:
        view = self.env.view(state)
        wish = f" {' '.join(view.instruction.lower().replace(',', ' ').split())} "
        if state["page"] == "search":
            return str(self.env.parse(f"search[{wish.strip()[:200]}]"))
        if state["page"] == "results":
            left = [product for product in view.listed if product.asin not in self.wrong]
            if not left:
                return "click[next >]"
            best = max(left, key=lambda one: sum(word in wish for word in one.title.lower().split()))
            return f"click[{best.asin.lower()}]"
        self.bought = str(state["product"])
        for name, values in view.item.options.items() if view.item else ():
            mentioned = [value for value in values if f" {value} " in wish]
            if mentioned and name not in state["options"]:
                return f"click[{mentioned[0]}]"
        return "click[buy now]"

    def saw(self, step: Step) -> None:
        if step.done and not step.success:
            self.wrong.add(self.bought)


PLAYERS: dict[type[Env], Callable[[Any, random.Random], Any]] = {
    Minesweeper: Sweeper,
    Sokoban: Porter,
    Alfworld: Searcher,
    Webshop: Customer,
}


def first_win(env: Env, seed: int, notes: bool, attempts: int) -> int | None:
    """The attempt (from 0) at which the environment's player wins this task, None if at none."""
    rng = random.Random(f"{env.spec} {seed}")
    make_player = next(player for kind, player in PLAYERS.items() if isinstance(env, kind))
    player = make_player(env, rng)
    start = env.reset(seed)
    for attempt in range(attempts):
        if not notes:
            player = make_player(env, rng)
        player.begin(start)
        state = start
        for _ in range(env.max_turns):
            step = env.step(state, player.act(state))
            player.saw(step)
            state = step.state
            if step.done:
                break
        if step.success:
            return attempt
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for headroom.json")
    parser.add_argument("--env", nargs="+", default=list(ENVS))
    parser.add_argument("--tasks", type=int, default=400, help="tasks of the split that are played")
    parser.add_argument("--attempts", type=int, default=3)
    parser.add_argument("--split", default="test")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for spec in given.env:
        env = make(spec)
        if not isinstance(env, tuple(PLAYERS)):
            sys.exit(f"there is no player for '{env.name}'; there are for {', '.join(kind.name for kind in PLAYERS)}")
        seeds = list(islice(env.seeds(given.split), given.tasks))
        instances = {str(seed): env.instance(env.reset(seed)) for seed in seeds}
        found[env.spec] = {}
        for name, notes in (("with notes", True), ("without", False)):
            wins = [first_win(env, seed, notes, given.attempts) for seed in seeds]
            readings = pass_at_k(list(zip(instances, wins, strict=True)), given.attempts, instances)
            found[env.spec][name] = [one._asdict() for one in readings]
            print(f"{env.spec}, {name}:", *(f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in readings))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "headroom.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
