"""The teacher of any environment that offers `solve` or a `weak` player: plug-ins get a warm start for a given model.

What must stay true: nothing is known of the environment but its protocol. So notes say only which action an attempt
ended with, and none is taught as forbidden: whether it was a mistake is for reinforcement learning to find out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from lamer_envs.base import Env, State
from lamer_graph.errors import ConfigError
from lamer_graph.trial.prompts import PromptStyle, Remembered
from lamer_trainers.warmstart.teachers import Attempt, Choice, Row, Teacher
from lamer_trainers.warmstart.tiny import Piece

SKILL = 0.6
SLIP, CARELESS_SLIP = 0.05, 0.3
"""Share of turns that go wrong, in a skilled episode and in a careless one."""
TRUE, VAGUE = 0.5, 0.25
VAGUE_REMARKS = {
    "think first": "I should think before I act.",
    "try another way": "I should try another way.",
}
"""Notes of no use, and how they are told."""
ENDED_WITH = re.compile(r"ended with '([^']*)'")
POOL_TASKS = 8
"""Tasks whose solutions lend actions where an environment lists none."""


class AnyTeacher(Teacher):
    """Raises ConfigError for an environment that offers neither `solve` nor `weak`."""

    skill = SKILL

    def __init__(
        self,
        env: Env,
        max_episodes: int = 3,
        *,
        style: PromptStyle = "compact",
        control: frozenset[str] = frozenset(),
    ) -> None:
        if not (env.offers("solve") or env.offers("weak")):
            raise ConfigError(
                f"there is no scripted teacher for '{env.name}': write `solve(self, state) -> list[str] | None` or "
                "`weak(self, state, rng) -> str`, and a model can be fitted to how they play"
            )
        super().__init__(env, max_episodes, style=style, control=control)
        self._pool: list[str] = []

    def pieces(self) -> list[Piece]:
        return []

    def sentence(self, note: str) -> str:
        return VAGUE_REMARKS.get(note) or f"The attempt {note} and did not succeed. Try something else there."

    def choose(self, attempt: Attempt, rng: random.Random) -> Choice:
        if self.env.offers("weak") and not attempt.skilled:
            return Choice(self.env.weak(attempt.state, rng))
        plan = self.env.solve(attempt.state)
        if plan:
            return Choice(plan[0])
        if self.env.offers("weak"):
            return Choice(self.env.weak(attempt.state, rng))
        return Choice(self._any(attempt.state, rng))

    def slip(self, attempt: Attempt, rng: random.Random) -> str | None:
        share = SLIP if attempt.skilled or self.env.offers("weak") else CARELESS_SLIP
        return self._any(attempt.state, rng) if rng.random() < share else None

    def remark(self, attempt: Attempt, rng: random.Random) -> str:
        draw = rng.random()
        if draw < VAGUE or not self.instructive(attempt):
            return rng.choice(list(VAGUE_REMARKS))
        action = attempt.actions[-1] if draw < VAGUE + TRUE else self._any(attempt.start, rng)
        return _ended_with(action)

    def instructive(self, attempt: Attempt) -> bool:
        return bool(attempt.actions)

    def true_remark(self, attempt: Attempt, text: str) -> bool:
        ended = ENDED_WITH.findall(_ended_with(attempt.actions[-1])) if attempt.actions else []
        return bool(ended) and ENDED_WITH.findall(text) == ended

    def drill(self, state: State, rng: random.Random) -> tuple[list[Remembered], int]:
        """One or two episodes, each with a note on how it ended."""
        episodes = rng.randint(1, max(1, self.prompts.max_episodes - 1))
        notes = [_ended_with(self._any(state, rng)) for _ in range(episodes)]
        return [Remembered("reflection", note, at) for at, note in enumerate(notes, start=1)], episodes + 1

    def drills(self, start: State, rng: random.Random) -> Iterator[Row]:
        """As everywhere, and a reflection on an attempt that ran out of turns: a good solver never fails otherwise."""
        yield from super().drills(start, rng)
        attempt = self.begin(start, (), rng)
        for _ in range(rng.randint(1, self.env.max_turns)):
            before, played = attempt.state, len(attempt.turns)
            if self.play(attempt, self.slip(attempt, rng) or self.choose(attempt, rng).action):
                if attempt.won:
                    attempt.state = before
                    del attempt.turns[played:], attempt.actions[played:]
                break
        if attempt.turns:
            remark = self.prompts.remark_answer(self.told(self.remark(attempt, rng)))
            yield Row(self.prompts.reflect(self.observe(attempt, 1)), remark)

    def _any(self, state: State, rng: random.Random) -> str:
        """Some action: one of those that are possible, as far as the environment says so, or else another task's."""
        offered = self.env.admissible(state) if self.env.offers("admissible") else []
        return rng.choice(offered or self._others())

    def _others(self) -> list[str]:
        if not self._pool:
            rng = random.Random(0)
            for seed in range(POOL_TASKS):
                start = self.env.reset(seed)
                found = (self.env.solve(start) or []) if self.env.offers("solve") else [self.env.weak(start, rng)]
                self._pool += [action for action in found if action not in self._pool]
        if not self._pool:
            raise ConfigError(f"`solve` of '{self.env.name}' solves none of its first {POOL_TASKS} tasks")
        return self._pool


def _ended_with(action: str) -> str:
    """The note; the action on one line, in quotes that it has not itself."""
    return f"ended with '{' '.join(action.split()).replace(chr(39), '').replace(';', ',')}'"
