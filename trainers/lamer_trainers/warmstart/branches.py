"""Branches off a teacher's way: at each of its states other actions are tried too, and what they lead to is seen.

What must stay true: an outcome is what the pure environment answers from that very state, never a guess; no branch
changes the way. From *Agent Learning via Early Experience* (Zhang et al., arXiv 2510.08558): no reward is taught, what
is learnt is what happens (implicit world modelling, section 4.2) and what it says of the choice (`explaining`).

Who proposes the other actions: the policy that is being made, where there is one (`Sampled`); a policy from nothing has
none, so that for it, and wherever the policy proposes too few that are valid, they are drawn evenly from what the
environment admits, or from its weak player (`Even`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Policy, run_sync
from lamer_graph.text import plain
from lamer_graph.trial.answers import ACTION_TAG, extract
from lamer_graph.trial.prompts import PromptStyle
from lamer_graph.types import Message, Sampling, stable_seed
from lamer_trainers.warmstart.teachers import CONTENTS, Moment, Row, Teacher

BRANCHES = 3
"""Other actions at a state, at most; the paper's K for most environments."""
TRIES = 3
"""Answers of a policy for each action that is asked of it."""
WEAK_DRAWS = 8
CONCURRENCY = 64
PROPOSAL_TOKENS = 64
ASK: dict[PromptStyle, str] = {
    "compact": "See",
    "standard": "## What will be seen after that action? Answer with the next observation alone.",
}
"""What asks for the next observation, behind the action as the policy's own answer."""


class Outcome(NamedTuple):
    """An action and what came of it: `told` in the environment's few words, `seen` as prompts of the style show it."""

    action: str
    told: str
    seen: str
    reward: float
    done: bool
    success: bool
    valid: bool

    @property
    def lost(self) -> bool:
        """Whether it ended the episode without success."""
        return self.done and not self.success


class Branched(NamedTuple):
    """A state of the teacher's way: what was asked there, what its own action led to, and what others did."""

    messages: list[Message]
    expert: Outcome
    others: tuple[Outcome, ...]
    skilled: bool = True

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return (self.expert, *self.others)

    @property
    def tells(self) -> bool:
        """Whether the outcomes speak for the expert's action: none earned more, one earned less, nothing is lost."""
        rewards = [other.reward for other in self.others]
        best = self.skilled and self.expert.valid and not self.expert.lost
        return bool(rewards) and best and self.expert.reward >= max(rewards) and self.expert.reward > min(rewards)


class Proposer(Protocol):
    """Who names other actions."""

    def propose(self, moments: Sequence[Moment], count: int) -> list[list[str]]:
        """For each moment up to `count` different actions, none of them the teacher's."""
        ...


class Even:
    """Actions drawn evenly from the admissible ones, else the weak player's. Raises ConfigError where there are none to
    draw from."""

    def __init__(self, teacher: Teacher, seed: int) -> None:
        self._teacher = teacher
        self._rng = random.Random(stable_seed("branches", seed))
        env = teacher.env
        if not (env.offers("admissible") or env.offers("weak")):
            raise ConfigError(
                f"other actions than the teacher's are drawn from `admissible` or `weak`, and '{env.name}' has neither"
            )

    def propose(self, moments: Sequence[Moment], count: int) -> list[list[str]]:
        return [self.others(moment, count) for moment in moments]

    def others(self, moment: Moment, count: int, known: Sequence[str] = ()) -> list[str]:
        """`known` and up to as many more as make `count`."""
        env, taken = self._teacher.env, {moment.choice.action, *known}
        if env.offers("admissible"):
            free = [action for action in env.admissible(moment.state) if action not in taken]
            return [*known, *self._rng.sample(free, min(count - len(known), len(free)))]
        found = list(known)
        for _ in range(WEAK_DRAWS * (count - len(known))):
            action = env.weak(moment.state, self._rng)
            if len(found) < count and action not in taken:
                taken.add(action)
                found.append(action)
        return found


@dataclass
class Sampled:
    """Actions that a policy answers with at temperature 1; what it leaves open is drawn by `rest`, if there is one.

    `proposed` and `drawn` count them.
    """

    teacher: Teacher
    policy: Policy
    seed: int
    rest: Even | None
    proposed: int = 0
    drawn: int = 0
    asked: int = field(default=0, repr=False)

    def propose(self, moments: Sequence[Moment], count: int) -> list[list[str]]:
        """Raises PolicyError."""
        return run_sync(self._all(moments, count))

    async def _all(self, moments: Sequence[Moment], count: int) -> list[list[str]]:
        gate = asyncio.Semaphore(CONCURRENCY)

        async def answer(moment: Moment, number: int, at: int) -> str | None:
            sampling = Sampling(max_tokens=PROPOSAL_TOKENS, seed=stable_seed("propose", self.seed, number, at))
            async with gate:
                text = (await self.policy.generate(moment.messages, sampling)).text
            action = extract(text, ACTION_TAG).text
            return None if action is None else self.teacher.env.parse(action)

        first = self.asked
        self.asked += len(moments)
        tried = range(TRIES * count)
        answers = await asyncio.gather(
            *(answer(moment, first + n, at) for n, moment in enumerate(moments) for at in tried)
        )
        found = []
        for number, moment in enumerate(moments):
            said = answers[number * len(tried) : (number + 1) * len(tried)]
            own = self._valid(moment, said)[:count]
            every = own if self.rest is None else self.rest.others(moment, count, own)
            self.proposed += len(own)
            self.drawn += len(every) - len(own)
            found.append(every)
        return found

    def _valid(self, moment: Moment, said: Sequence[str | None]) -> list[str]:
        env = self.teacher.env
        taught = env.parse(moment.choice.action) or moment.choice.action
        different = dict.fromkeys(action for action in said if action is not None and action != taught)
        return [action for action in different if env.step(moment.state, action).valid]


def moments(teacher: Teacher, seed: int) -> Iterator[Moment]:
    """Choices of scripted trials on the train split, without end; the seed decides them."""
    rng = random.Random(stable_seed("moments", seed))
    shares = CONTENTS[teacher.prompts.style]
    contents, weights = list(shares), list(shares.values())
    for task in teacher.env.seeds("train"):
        noted: list[Moment] = []
        start = teacher.env.reset(task)
        for _ in teacher.trial(start, rng.choices(contents, weights)[0], rng, noted.append):
            pass
        yield from noted


def branch(teacher: Teacher, moment: Moment, others: Sequence[str]) -> Branched:
    """What the teacher's action and these lead to."""
    return Branched(
        moment.messages,
        _outcome(teacher, moment, moment.choice.action),
        tuple(_outcome(teacher, moment, action) for action in others),
        moment.skilled,
    )


def _outcome(teacher: Teacher, moment: Moment, action: str) -> Outcome:
    step = teacher.env.step(moment.state, action)
    told = plain(teacher.env.outcome(moment.state, action, step))
    return Outcome(
        teacher.said(action), told, teacher.seen(step.state), step.reward, step.done, step.success, step.valid
    )


def world_rows(teacher: Teacher, branched: Branched) -> list[Row]:
    """One row per outcome: what was asked and the action as answered, then what is seen next."""
    ask = Message(role="user", content=ASK[teacher.prompts.style])
    return [
        Row(
            [
                *branched.messages,
                Message(role="assistant", content=teacher.prompts.action_answer(outcome.action)),
                ask,
            ],
            outcome.seen,
        )
        for outcome in branched.outcomes
    ]
