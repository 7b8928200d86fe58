"""ALFWorld: one household task, to be done by going about, opening, taking, treating and putting things down.

What must stay true: a state is the household's text and what has changed in it, so that a state plays on by itself, in
any process, whether its household was drawn from a seed or read from an official game; `step` is a pure function of it.

The rules are the original's (ALFWorld, Shridhar et al., arXiv 2010.03768), kept in `world`; households are drawn
by `generate` or read by `data` and `pddl`. Success is worth 10 (LaMer, arXiv 2512.16848), all else
0. The default of 10 turns is LaMer's; full knowledge needs 3 to 10 of them, exploring about 13.
"""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lamer_envs.alfworld import texts, textworld
from lamer_envs.alfworld.data import (
    ALIASES,
    HOW_TO_GET,
    KIND_OF_TASK,
    OFFICIAL_SPLITS,
    Game,
    find_folder,
    list_games,
    load_game,
)
from lamer_envs.alfworld.experts import plan, weak
from lamer_envs.alfworld.generate import PLAN_LIMIT, SHORTEST, draw_household, pick
from lamer_envs.alfworld.house import KINDS, House, house
from lamer_envs.alfworld.households import MOST_HOUSEHOLDS, chores, household, rooms_for
from lamer_envs.alfworld.judge import Known, is_true
from lamer_envs.alfworld.picture import room_html
from lamer_envs.alfworld.progress import sub_goals
from lamer_envs.alfworld.world import admissible, canonical, play
from lamer_envs.base import Env, State, Step
from lamer_envs.errors import EnvParameterError, InstanceError
from lamer_envs.parameters import check_whole, generator

SUCCESS = 10.0
MAX_TURNS = 10
OUT_OF_DISTRIBUTION = ("cool", "pick2")
"""Task types that belong to the split `ood`: LaMer's generalisation test leaves them out of training."""
ENGINES = ("native", "textworld")
_NOT_WON = 0.99
"""Most progress of a state that is not won, should TextWorld see it otherwise."""

_EXAMPLE = (
    "make('alfworld', types='clean'), make('alfworld:heat+cool-t30'), make('alfworld:house=8') or "
    "make('alfworld', split='valid_unseen')"
)
_HOUSEHOLDS = "alfworld:house=8, for tasks in the same eight households"


class Alfworld(Env):
    """Household tasks of the given types, drawn from seeds, or the official games of `data` / `split`.

    State (JSON): `{"house": str, "at": place, "held": object or None, "open": [receptacle], "in": [[receptacle] by
    object], "hot"/"cool"/"clean"/"lit"/"cut": [object], "won": bool}` with numbers into the household's text; states of
    official games also have "split", those of engine "textworld" the record "textworld", and those of a goal that asks
    for more than these say "notes" (see condition.py).

    Splits of drawn households: train, val and test for the in-distribution types, `ood` for the others. An environment
    of out-of-distribution types alone has train, val and test of its own, and `ood` there means all of its tasks.

    With `house=K` all tasks are set in the same K households, where the same things lie in the same places whenever an
    episode begins: what was found on one task helps with the next. Pages name the household, and states have its number
    (from 0) as "household". Splits are then by chore: the same goal in the same household is in one split only.
    """

    name: ClassVar[str] = "alfworld"
    tells_actions: ClassVar[bool] = True  # each page lists the commands at hand

    def __init__(
        self,
        types: str | Sequence[str] = KINDS,
        max_turns: int = MAX_TURNS,
        data: str | os.PathLike[str] | None = None,
        split: str | None = None,
        engine: str = "native",
        house: int | None = None,
    ) -> None:
        """All parameters are optional. Raises EnvParameterError.

        `types`: out of pick, look, clean, heat, cool, pick2, as a sequence or joined by "+". `data`: the folder of the
        official games, found by itself (ALFWORLD_DATA, ~/.cache/alfworld) when only `split` is given. `split`: the
        official split that `reset` draws from (train, valid_seen, valid_unseen; val and test mean the latter two).
        `engine`: "native", or "textworld" to play through TextWorld (extra `alfworld`). `house`: in how many households
        all tasks are set, 1 to MOST_HOUSEHOLDS; a new one for each task where it is None.
        """
        self.types = _types(types)
        check_whole("max_turns", max_turns, 1, 9999)
        if engine not in ENGINES:
            raise EnvParameterError(f"engine must be 'native' or 'textworld', not {str(engine)[:40]!r}")
        if engine == "textworld":
            textworld.check_installed()
        if house is not None:
            check_whole("house", house, 1, MOST_HOUSEHOLDS, example=_HOUSEHOLDS)
            if data is not None or split is not None:
                given = "data" if split is None else "split"
                raise EnvParameterError(f"official games have households of their own: leave out house or {given}")
        self.max_turns, self.engine, self.house = max_turns, engine, house
        self._rooms = rooms_for(self.types)
        self.split = None if split is None else _official(split)
        self.folder = find_folder(data) if data is not None or split is not None else None
        if self.folder is None:
            self._limit = min(PLAN_LIMIT, max_turns)
            for kind in self.types:
                if SHORTEST[kind] > self._limit:
                    raise EnvParameterError(f"'{kind}' takes {SHORTEST[kind]} turns or more; max_turns is {max_turns}")
            inside = any(kind not in OUT_OF_DISTRIBUTION for kind in self.types)
            outside = any(kind in OUT_OF_DISTRIBUTION for kind in self.types)
            self.splits = ("train", "val", "test") + (("ood",) if inside and outside else ())
        else:
            wanted = OFFICIAL_SPLITS if self.split is None else (self.split,)
            self._games = [(s, path) for s in wanted for path in list_games(self.folder, s, self.types)]
            if not self._games:
                raise EnvParameterError(
                    f"'{self.folder}' holds no games of {' or '.join(self.types)} in {' or '.join(wanted)}; "
                    + HOW_TO_GET
                )
            self.splits = tuple(s for s in wanted if any(s == owner for owner, _ in self._games))
        self._spec = self._canonical_spec()

    # -- identity ---------------------------------------------------------------------------------------------------

    @property
    def spec(self) -> str:
        return self._spec

    def _canonical_spec(self) -> str:
        parts = [] if self.types == KINDS else ["+".join(self.types)]
        parts += [] if self.max_turns == MAX_TURNS else [f"t{self.max_turns}"]
        parts += [self.split] if self.split is not None else []
        parts += [] if self.engine == "native" else [self.engine]
        parts += [] if self.house is None else [f"house={self.house}"]
        text = "-".join(parts) + (f"@{self.folder}" if self.folder is not None else "")
        return f"{self.name}:{text}" if text else self.name

    @classmethod
    def from_spec(cls, params: str) -> Alfworld:
        text, at, folder = params.partition("@")
        found: dict[str, Any] = {"data": folder} if at else {}
        for part in text.split("-") if text else []:
            turns = re.fullmatch(r"t([0-9]{1,4})", part, re.ASCII)
            key = "split" if part in OFFICIAL_SPLITS else "engine" if part in ENGINES else "types"
            key = "max_turns" if turns else "house" if part.startswith("house=") else key
            if key in found:
                raise EnvParameterError(f"'{params[:60]}' gives {key} twice; write for example {_EXAMPLE}")
            value = turns[1] if turns else part.removeprefix("house=")
            whole = key in ("max_turns", "house") and re.fullmatch("[0-9]{1,9}", value, re.ASCII)
            found[key] = int(value) if whole else value
        return cls(**found)

    @property
    def params(self) -> Mapping[str, Any]:
        return {
            "types": list(self.types),
            "max_turns": self.max_turns,
            "data": None if self.folder is None else str(self.folder),
            "split": self.split,
            "engine": self.engine,
            **({} if self.house is None else {"house": self.house}),
        }

    # -- what the policy is told ------------------------------------------------------------------------------------

    @property
    def rules(self) -> str:
        return texts.RULES if self.house is None else texts.RULES + texts.SAME_HOUSEHOLDS

    @property
    def action_format(self) -> str:
        return texts.ACTION_FORMAT

    def observe(self, state: State) -> str:
        h = house(state["house"])
        page = textworld.page(h, state["textworld"]) if "textworld" in state else texts.page(h, state)
        return f"Household {state['household']}.\n{page}" if "household" in state else page

    def compact(self, state: State) -> str:
        """The page in few words. The task is told as its type and its things (`heat apple to fridge`), which is more
        than a sentence that an official game words otherwise; a goal of no task type is told in its words."""
        short = texts.short(house(state["house"]), state)
        return f"household {state['household']}; {short}" if "household" in state else short

    def outcome(self, before: State, action: str, step: Step) -> str:
        return texts.event(house(before["house"]), step.state, canonical(action), step.valid)

    # -- dynamics ---------------------------------------------------------------------------------------------------

    def reset(self, seed: int) -> State:
        if self.folder is not None:
            return self._official_game(seed)
        if self.house is not None:
            return self._chore(self.house, seed)
        rng = generator("alfworld", "+".join(self.types), self._limit, seed)
        return self._start(draw_household(rng.choice(self.types), rng, self._limit), None)

    def _chore(self, households: int, seed: int) -> State:
        """A chore in one of the households, or in the next that has any of these task types."""
        rng = generator("alfworld", "chore", households, "+".join(self.types), self._limit, seed)
        first = int(rng.random() * households)
        for number in (n % households for n in range(first, first + households)):
            found = chores(number, self._rooms, self._limit)
            if kinds := [kind for kind in self.types if kind in found]:
                chore = pick(rng, found[pick(rng, kinds)])
                text = household(number, self._rooms).text(chore, int(rng.random() * 2))
                return {**self._start(text, None), "household": number}
        raise EnvParameterError(
            f"no household of {self.spec} has anything to do within {self._limit} turns; allow more turns or households"
        )

    def _official_game(self, seed: int) -> State:
        """The game of this number, or the next one of its split that the original can solve."""
        count = len(self._games)
        split = self._games[seed % count][0]
        for i in range(seed, seed + count):
            owner, path = self._games[i % count]
            if owner == split and (game := load_game(path)).solvable:
                return {**self._begin(game), "split": split}
        raise InstanceError(f"every game of '{split}' in '{self.folder}' is marked as unsolvable")

    def step(self, state: State, action: str) -> Step:
        h = house(state["house"])
        command = canonical(action)
        after = None if command is None or state["won"] else self._play(h, state, command)
        if after is None:
            return Step(dict(state), self.observe(state), 0.0, state["won"], state["won"], False)
        won = after["won"]
        return Step(after, self.observe(after), SUCCESS if won else 0.0, won, won, True)

    def _play(self, h: House, state: State, command: str) -> State | None:
        if "textworld" not in state:
            return play(h, state, command)
        record = textworld.play(h, state["textworld"], command)
        if record is None:
            return None
        return {**(play(h, state, command) or state), "textworld": record, "won": record["won"]}

    def parse(self, answer: str) -> str | None:
        """Case and spacing do not matter, and the older `put O in/on X` is `move O to X` unless it reads two ways."""
        return canonical(answer)

    def admissible(self, state: State) -> list[str]:
        if "textworld" in state:
            return list(state["textworld"]["can"])
        return admissible(house(state["house"]), state)

    def load(self, instance: Mapping[str, Any] | Path) -> State:
        """A state from `{"pddl_problem": str, "goal": str}` (`goal` may be left out), or the official game at a
        `Path`, of the file or of its folder.

        Raises InstanceError, with line and reason where the PDDL is at fault.
        """
        return self._begin(load_game(instance))

    def _begin(self, game: Game) -> State:
        return self._start(game.house, game)

    def _start(self, text: str, game: Game | None) -> State:
        h = house(text)
        state: State = h.state()
        if self.engine == "textworld":
            state["textworld"] = textworld.begin(h, game)
        return state

    def progress(self, state: State) -> float:
        """The share of sub-goals that are met (see progress.py)."""
        return 1.0 if state["won"] else min(sub_goals(house(state["house"]), state), _NOT_WON)

    # -- instances and splits ---------------------------------------------------------------------------------------

    def instance(self, state: State) -> str:
        """The household's text: its receptacles, its objects and where they lie, and the goal. In households that stay
        the goal is of the two wordings' meaning: task type, object, target."""
        if "household" not in state:
            return str(state["house"])
        goal, _, *rest = str(state["house"]).split("\n")
        return "\n".join([goal, *rest])

    def split_of(self, state: State) -> str:
        if "split" in state:
            return str(state["split"])
        outside = "ood" in self.splits and house(state["house"]).kind in OUT_OF_DISTRIBUTION
        return "ood" if outside else super().split_of(state)

    def seeds(self, split: str) -> Iterator[int]:
        if self.folder is not None:
            wanted = ALIASES.get(split, split)
            if wanted in self.splits:
                own = [i for i, (owner, _) in enumerate(self._games) if owner == wanted]
                return (first + i for first in itertools.count(0, len(self._games)) for i in own)
        elif split == "ood" and all(kind in OUT_OF_DISTRIBUTION for kind in self.types):
            return itertools.count()
        return super().seeds(split)

    # -- scripted players and pictures ------------------------------------------------------------------------------

    def judge(self, start: State, actions: Sequence[str], text: str) -> bool | None:
        """Whether what the text says of where the wanted thing is, and where it is not, was so at the start; None where
        the episode saw neither. It is read in the words of outcomes, and of a few plain sentences."""
        h = house(start["house"])
        seen = Known(h.thing).read(self.outcome(*turn) for turn in self.replay(start, actions))
        return is_true(h, start, text) if seen.at or seen.without else None

    def solve(self, state: State) -> list[str] | None:
        """The shortest straightforward plan, given all there is to know. experts.Explorer plays without.

        None where it cannot be won that way, and for a goal of none of the six task types: no expert knows those.
        """
        return plan(house(state["house"]), state)

    def weak(self, state: State, rng: random.Random) -> str:
        """A player without memory that is sensible about three times in four. Raises ValueError after the end."""
        return weak(house(state["house"]), state, rng)

    def render(self, state: State) -> str:
        return texts.picture(house(state["house"]), state)

    def render_html(self, state: State) -> str:
        """The household as a room; it shows everything, what is shut away too."""
        return room_html(house(state["house"]), state)


def _types(given: object) -> tuple[str, ...]:
    """The task types in their fixed order, from "clean+heat" or a sequence; official names are taken too."""
    names = given.split("+") if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else []
    kinds = {KIND_OF_TASK.get(name, name) for name in names if isinstance(name, str)}
    unknown = sorted(kinds - set(KINDS))
    if unknown or not kinds or len(names) != sum(isinstance(name, str) for name in names):
        wrong = f"'{unknown[0][:40]}'" if unknown else str(given)[:40]
        raise EnvParameterError(f"alfworld has no task type {wrong}; its types are {', '.join(KINDS)}: {_EXAMPLE}")
    return tuple(kind for kind in KINDS if kind in kinds)


def _official(split: object) -> str:
    wanted = ALIASES.get(split, split) if isinstance(split, str) else split
    if wanted not in OFFICIAL_SPLITS:
        raise EnvParameterError(
            f"split picks official games (train, valid_seen, valid_unseen), not {str(split)[:40]!r}; "
            "drawn households have env.seeds('train'), 'val', 'test' and 'ood'"
        )
    return str(wanted)
