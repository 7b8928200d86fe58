"""Plays a household through the real TextWorld, to compare with our own rules or to trust instead. Extra `alfworld`.

What must stay true: TextWorld alone decides what is admissible, what is said and when the game is won. Its games live
in this process and cannot be put into a state, so a record holds the commands played so far, and a game that is not at
that point is played up to it again; a few live games are kept so that this is rare. A command takes some 50 ms.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from lamer_envs.alfworld.data import Game
from lamer_envs.alfworld.house import House
from lamer_envs.alfworld.pddl import read_problem, write_problem
from lamer_envs.errors import EnvParameterError, InstanceError

NEEDS = "engine='textworld' needs TextWorld and ALFWorld; install the extra: pip install 'lamer-graph[alfworld]'"
MAX_LIVE = 8

_live: OrderedDict[tuple[str, str, str], _Live] = OrderedDict()
_lock = Lock()


def check_installed() -> None:
    """Raise EnvParameterError if TextWorld with its planner, or ALFWorld's rules, are not installed."""
    if any(find_spec(name) is None for name in ("textworld", "fast_downward", "alfworld")):
        raise EnvParameterError(NEEDS)


@lru_cache(maxsize=1)
def _own_rules() -> tuple[str, str]:
    """The domain and the text grammar that ALFWorld ships, for households that bring none."""
    spec = find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise EnvParameterError(NEEDS)
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return (folder / "alfred.pddl").read_text("utf-8"), (folder / "alfred.twl2").read_text("utf-8")


def game_of(h: House, own: dict[str, str] | None) -> dict[str, str]:
    """What TextWorld loads: the parts of the household's own game file, with ALFWorld's rules for what it lacks."""
    domain, grammar = _own_rules()
    parts = {"pddl_domain": domain, "grammar": grammar.replace("UNKNOWN GOAL", h.words)}
    return parts | (own if own is not None else {"pddl_problem": write_problem(h)})


class _Live:
    """One running TextWorld game, and the commands it has been given."""

    def __init__(self, data: dict[str, str]) -> None:
        import textworld
        from textworld.envs.pddl import PddlEnv

        self.env = PddlEnv(textworld.EnvInfos(admissible_commands=True, won=True, feedback=True))
        arguments = list(sys.argv)  # the planner's translator rewrites them
        try:
            self.env.load(data)
            for identifier, name in read_problem(data["pddl_problem"]).names.items():
                if identifier in self.env._entity_infos:
                    self.env._entity_infos[identifier].name = name
            self.now: Any = self.env.reset()
        except (AssertionError, KeyError, ValueError, SystemExit) as error:
            raise InstanceError(f"TextWorld cannot load this game: {type(error).__name__} {error}") from error
        finally:
            sys.argv[:] = arguments
        self.did: list[str] = []

    def play(self, command: str) -> None:
        self.now = self.env.step(command)[0]
        self.did.append(command)

    def record(self, own: dict[str, str] | None) -> dict[str, Any]:
        won = bool(self.now["won"]) and bool(self.did)
        return {
            "own": own,
            "did": list(self.did),
            "said": str(self.now.feedback).strip(),
            "can": [] if won else list(self.now["admissible_commands"]),
            "won": won,
        }


def _at(data: dict[str, str], did: list[str]) -> _Live:
    """The live game of these parts after these commands. Called with the lock held."""
    key = (data["pddl_domain"], data["grammar"], data["pddl_problem"])
    live = _live.pop(key, None)
    if live is None or live.did != did[: len(live.did)]:
        live = _Live(data)
    for command in did[len(live.did) :]:
        live.play(command)
    _live[key] = live
    while len(_live) > MAX_LIVE:
        _live.popitem(last=False)
    return live


def begin(h: House, game: Game | None) -> dict[str, Any]:
    """The record of a game that has just started.

    `own` holds the parts of its file (None for a household of ours), `did` the commands played, `said` TextWorld's last
    words, `can` what it offers.
    """
    own = None
    if game is not None:
        parts = {"pddl_problem": game.problem, "pddl_domain": game.domain, "grammar": game.grammar}
        own = {key: text for key, text in parts.items() if text is not None}
    with _lock:
        return _at(game_of(h, own), []).record(own)


def play(h: House, record: dict[str, Any], command: str) -> dict[str, Any] | None:
    """The record after a command, None if TextWorld does not offer it."""
    if command not in record["can"]:
        return None
    with _lock:
        live = _at(game_of(h, record["own"]), record["did"])
        live.play(command)
        return live.record(record["own"])


def page(h: House, record: dict[str, Any]) -> str:
    """What the policy reads: TextWorld's own words, the task, and the commands but `help`."""
    if record["won"]:
        return f"{record['said']}\nThe task is done."
    commands = "; ".join(command for command in record["can"] if command != "help")
    return f"{record['said']}\nYour task: {h.words}.\nCommands: {commands}"
