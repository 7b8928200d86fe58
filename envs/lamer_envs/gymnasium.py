"""Gymnasium adapter: a lamer_envs environment behind `reset() -> (observation, info)` and `step(action)`.

What must stay true: the adapter adds no rule. It holds the current state, counts turns, and reports the end of the
budget as `truncated`. Observations and actions are text (`gymnasium.spaces.Text`); an action is what a policy writes
inside its answer tag. Needs the extra `gym`. API: https://gymnasium.farama.org/api/env/
"""

from __future__ import annotations

import string
from typing import Any

import gymnasium
from gymnasium.spaces import Text

from lamer_envs.base import MAX_ACTION_CHARS, Env, State
from lamer_envs.registry import make

OBSERVATION_CHARS = 20_000
_CHARSET = "".join(sorted(set(string.printable)))


class LamerGymEnv(gymnasium.Env[str, str]):
    """A gymnasium environment around `env` (an Env, or the spec of one).

    `reset(seed=s)` plays the task of seed s; without a seed the next task is drawn from `np_random`.
    `options={"instance": ...}` loads an explicit instance instead. `info` has `valid`, `success`, `turn`, `seed` (None
    for an instance) and the canonical `admissible` actions (None where the environment does not list them).
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012  (as gymnasium declares it)

    def __init__(self, env: Env | str, max_turns: int | None = None, render_mode: str | None = None) -> None:
        self.task = make(env) if isinstance(env, str) else env
        self.max_turns = self.task.max_turns if max_turns is None else max_turns
        if self.max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, not {self.max_turns}")
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be None or 'ansi', not {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = Text(min_length=0, max_length=OBSERVATION_CHARS, charset=_CHARSET)
        self.action_space = Text(min_length=0, max_length=MAX_ACTION_CHARS, charset=_CHARSET)
        self.state: State | None = None
        self._seed: int | None = None
        self._turn = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        if options and "instance" in options:
            self._seed = None
            self.state = self.task.load(options["instance"])
        else:
            self._seed = int(self.np_random.integers(2**31)) if seed is None else seed
            self.state = self.task.reset(self._seed)
        self._turn = 0
        return self._shown(self.task.observe(self.state)), self._info(valid=True, success=False)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """(observation, reward, terminated, truncated, info). Raises RuntimeError before the first `reset`."""
        if self.state is None:
            raise RuntimeError("call reset() before step()")
        step = self.task.step(self.state, action)
        self.state = step.state
        self._turn += 1
        truncated = not step.done and self._turn >= self.max_turns
        info = self._info(step.valid, step.success)
        return self._shown(step.observation), float(step.reward), step.done, truncated, info

    def render(self) -> str | None:
        """The state as plain text in render mode "ansi", else None."""
        if self.render_mode is None or self.state is None:
            return None
        return self.task.observe(self.state)

    def _info(self, valid: bool, success: bool) -> dict[str, Any]:
        assert self.state is not None
        admissible = self.task.admissible(self.state) if self.task.offers("admissible") else None
        return {"valid": valid, "success": success, "turn": self._turn, "seed": self._seed, "admissible": admissible}

    @staticmethod
    def _shown(observation: str) -> str:
        """The observation within its space: other characters become `?`, the end beyond the limit is cut."""
        text = observation[:OBSERVATION_CHARS]
        return text if text.isascii() and text.isprintable() else "".join(c if c in _CHARSET else "?" for c in text)
