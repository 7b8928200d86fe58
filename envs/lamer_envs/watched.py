"""An environment that says which of its members failed: `check_env` plays it, `glance` tries one task before long work.

What must stay true: whatever an environment of anybody's gives or raises comes out as one EnvCheckError that names the
member.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from lamer_envs.base import Env, Step
from lamer_envs.errors import EnvCheckError

_GIVES: dict[str, tuple[type, ...]] = {
    "name": (str,), "spec": (str,), "rules": (str,), "action_format": (str,), "max_turns": (int,), "params": (Mapping,),
    "splits": (tuple, list), "penalises_invalid": (bool,), "reset": (dict,), "step": (Step,), "observe": (str,),
    "compact": (str,), "about": (str,), "outcome": (str,), "render": (str,), "instance": (str,), "split_of": (str,),
    "progress": (float, int, type(None)), "invalid_is_cheap": (bool,),
    "weak": (str,), "parse": (str, type(None)), "solve": (list, type(None)), "admissible": (list,),
    "judge": (bool, type(None)),
}  # fmt: skip
"""What the members of an environment give."""


class Watched:
    """An environment whose members say which of them it was that failed, or gave something of another kind."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.dearest, self.charge = 0.0, -math.inf  # the least reward of a legal turn, the most of an invalid one

    def __getattr__(self, member: str) -> Any:
        found = self._tried(member, lambda: getattr(self.env, member))
        if member in ("seeds", "offers") or not callable(found):
            return self._checked(member, found)
        return lambda *args: self._checked(member, self._tried(member, lambda: found(*args), *args))

    def _tried(self, member: str, call: Callable[[], Any], *args: Any) -> Any:
        try:
            return call()
        except Exception as error:
            on = "".join(f" on {arg[:60]!r}" for arg in args if isinstance(arg, str))
            raise EnvCheckError(
                f"{type(self.env).__name__}: `{member}` raised {type(error).__name__}{on}: {_one_line(error)}"
            ) from error

    def _checked(self, member: str, found: Any) -> Any:
        wanted = _GIVES.get(member)
        if wanted is not None and not isinstance(found, wanted):
            names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in wanted)
            forgotten = "; is a `return` missing?" if found is None else ""
            raise EnvCheckError(
                f"{type(self.env).__name__}: `{member}` must give {names}, not {type(found).__name__}{forgotten}"
            )
        return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def is_json(value: object) -> bool:
    """Whether a value is plain JSON: equal to its own round trip."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def glance(env: Env, seed: int = 0) -> None:
    """Raise EnvCheckError where the members that every trial uses give, on one task, something of another kind.

    Two turns: takes a fraction of `check_env`, and comes before long work with an environment of anybody's.
    """
    watched = Watched(env)
    for text in ("name", "spec", "rules", "action_format", "max_turns"):
        getattr(watched, text)
    state = watched.reset(seed)
    if not is_json(state):
        raise EnvCheckError(f"{type(env).__name__}: `reset` must give a state of plain JSON, equal to its round trip")
    for observed in ("observe", "compact", "about"):
        getattr(watched, observed)(state)
    listed = watched.admissible(state)[:1] if watched.offers("admissible") else (watched.solve(state) or [])[:1]
    for action in ("no action", *listed):
        watched.parse(action)
        step = watched.step(copy.deepcopy(state), action)
        kinds: dict[str, Any] = {
            "state": dict,
            "observation": str,
            "reward": (int, float),
            "done": bool,
            "success": bool,
            "valid": bool,
        }
        for field, kind in kinds.items():
            found = getattr(step, field)
            if not isinstance(found, kind):
                wanted = "a number" if isinstance(kind, tuple) else kind.__name__
                raise EnvCheckError(
                    f"{type(env).__name__}: `step` must give a Step whose {field} is {wanted}, not "
                    f"{type(found).__name__}"
                )
        if not is_json(step.state) or not math.isfinite(step.reward):
            raise EnvCheckError(f"{type(env).__name__}: `step` must give a state of plain JSON and a finite reward")
        watched.outcome(state, action, step)
