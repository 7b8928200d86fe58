"""Finds and reads the official ALFWorld games on this machine. Nothing is ever downloaded from here.

What must stay true: games are listed in one fixed order, so that a seed means the same game everywhere; whatever is
missing or cut off becomes one error that names the file and says how to get it. A game file (`game.tw-pddl`) is a JSON
object with `pddl_problem`, `pddl_domain`, `grammar` (which holds the goal in words) and `solvable`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from lamer_envs.alfworld.pddl import read_problem
from lamer_envs.errors import EnvParameterError, InstanceError
from lamer_envs.instances import read_instance, read_instance_text, shown_path

OFFICIAL_SPLITS = ("train", "valid_seen", "valid_unseen")
ALIASES = {"val": "valid_seen", "test": "valid_unseen"}
"""Our words for the official splits that are not for training."""

KIND_OF_TASK = {
    "pick_and_place_simple": "pick",
    "look_at_obj_in_light": "look",
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
    "pick_two_obj_and_place": "pick2",
}
"""The official names of the task types, with which the folders of the games begin."""

HOW_TO_GET = (
    "get the official games with 'pip install alfworld' and 'alfworld-download', then set ALFWORLD_DATA or data="
)
GAME = "game.tw-pddl"
_EXAMPLE = '{"pddl_problem": "(define (problem ..) ..)", "goal": "put a hot apple in fridge"}'
_KEYS = ("pddl_problem", "goal", "pddl_domain", "grammar", "solvable", "walkthrough")
_TASK = re.compile(r"Your task is to: *((?:[^\"\\])+)")


class Game(NamedTuple):
    """A game as read: the household's text, the file's own parts, with which TextWorld plays it, and its mark."""

    house: str
    problem: str
    domain: str | None
    grammar: str | None
    solvable: bool


def find_folder(data: str | os.PathLike[str] | None) -> Path:
    """The folder that holds the official splits: in or under `data`, else ALFWORLD_DATA, else ~/.cache/alfworld.

    Raises EnvParameterError that names the folder and says how to get the data.
    """
    given = data if data is not None else os.environ.get("ALFWORLD_DATA") or "~/.cache/alfworld"
    root = Path(given).expanduser()
    if not root.is_dir():
        raise EnvParameterError(f"there is no folder '{root}' with ALFWorld games; {HOW_TO_GET}")
    for folder in (root, *sorted(root.glob("json_2*"))):
        if any((folder / split).is_dir() for split in OFFICIAL_SPLITS):
            return folder.resolve()
    raise EnvParameterError(
        f"'{root}' holds none of {', '.join(f'json_2.1.1/{split}' for split in OFFICIAL_SPLITS)}; {HOW_TO_GET}"
    )


@lru_cache(maxsize=64)
def list_games(folder: Path, split: str, kinds: tuple[str, ...]) -> tuple[Path, ...]:
    """The game files of a split that are of these task types, in a fixed order; () if the split is not there.

    Games that need movable receptacles or slicing are left out, as the original leaves them out. Raises
    EnvParameterError where the split's folders are there but its game files are not.
    """
    found: list[Path] = []
    without: list[Path] = []
    tasks = sorted((folder / split).iterdir()) if (folder / split).is_dir() else []
    for task in tasks:
        kind = KIND_OF_TASK.get(task.name.partition("-")[0])
        if kind not in kinds or "movable" in task.name or "Sliced" in task.name or not task.is_dir():
            continue
        for trial in sorted(task.iterdir()):
            if (trial / GAME).is_file():
                found.append(trial / GAME)
            elif trial.is_dir():
                without.append(trial / GAME)
    if without and not found:
        raise EnvParameterError(
            f"half downloaded: '{without[0]}' is missing, and so are all {len(without)} game files of '{split}'; "
            + HOW_TO_GET
        )
    return tuple(found)


def load_game(instance: Mapping[str, Any] | Path) -> Game:
    """A game from `{"pddl_problem", "goal"}`, from the parts of a game file, or from the file at a `Path`.

    The path may also be of a folder that holds `game.tw-pddl`. Raises InstanceError.
    """
    if isinstance(instance, Path):
        try:
            path = instance / GAME if instance.is_dir() else instance
            stat = path.stat()
        except (OSError, ValueError):
            raise InstanceError(f"game file {shown_path(instance)} is not there; {HOW_TO_GET}") from None
        return _read_file(path, stat.st_mtime_ns, stat.st_size)
    return _game(read_instance(instance, _KEYS, _EXAMPLE), f"an instance such as {_EXAMPLE}")


@lru_cache(maxsize=1024)
def _read_file(path: Path, modified: int, size: int) -> Game:
    """`modified` and `size` are there to read a file again that has changed."""
    try:
        data = json.loads(read_instance_text(path))
    except (ValueError, RecursionError):
        raise InstanceError(
            f"game file '{path}' is cut off or no JSON; download it again: 'alfworld-download -f'"
        ) from None
    if not isinstance(data, dict):
        raise InstanceError(f"game file '{path}' must hold a JSON object with 'pddl_problem'")
    try:
        return _game(data, f"the keys of a {GAME}")
    except InstanceError as error:
        raise InstanceError(f"game file '{path}': {error}") from None


def _game(data: Mapping[str, Any], expected: str) -> Game:
    for key in ("pddl_problem", "goal", "pddl_domain", "grammar"):
        if key in data and not isinstance(data[key], str):
            raise InstanceError(f"'{key}' must be text, not {type(data[key]).__name__}; expected {expected}")
    if "pddl_problem" not in data:
        raise InstanceError(f"'pddl_problem' is missing; expected {expected}")
    words = data.get("goal") or _goal_of(data.get("grammar") or "")
    house = read_problem(data["pddl_problem"], words).house
    return Game(
        house, data["pddl_problem"], data.get("pddl_domain"), data.get("grammar"), data.get("solvable") is not False
    )


def _goal_of(grammar: str) -> str | None:
    """The goal in words out of a game's text grammar."""
    match = _TASK.search(grammar)
    return None if match is None or "UNKNOWN GOAL" in match[1] else match[1]
