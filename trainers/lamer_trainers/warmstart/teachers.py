"""Scripted teachers of a warm start: weak play, play that uses its memory, and reflections of mixed quality.

What must stay true: every prompt is built by `lamer_graph.trial.prompts.PromptBuilder` from the same views as in a real
trial, so that what is trained and what is served are identical to the character; everything follows from the seed.

Teachers think in notes ("mine at (2, 3)"), which are what compact prompts remember. With standard prompts, which
pretrained models read, a note is told in sentences (`told`); whatever a teacher reads off its memory it reads off both.

A teacher is weak on purpose (a warm start must leave something to learn), but never goes against its memory: a base
that ignores it gives RL nothing to reinforce. Its reflections are true in some four of ten cases, else vague or wrong,
so that telling the truth is a habit RL can strengthen and not one it must invent.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lamer_envs.base import Env, State
from lamer_graph.text import plain
from lamer_graph.trial.prompts import PromptBuilder, PromptStyle, Remembered, Turn, View
from lamer_graph.types import Message
from lamer_memory import Contents, kinds
from lamer_trainers.warmstart.tiny import Piece

CONTENTS: dict[PromptStyle, dict[Contents, float]] = {
    "compact": {"none": 0.1, "trajectory": 0.25, "reflection": 0.4, "both": 0.25},
    # Told in full, a trajectory is longer than all else, and who can read needs fewer examples of it. The form was
    # learnt from a few hundred rows, of which a model did not come to heed its memory: most rows have one.
    "standard": {"none": 0.1, "trajectory": 0.05, "reflection": 0.8, "both": 0.05},
}
"""How often a scripted trial has which memory."""
DRILLS: dict[PromptStyle, float] = {"compact": 0.3, "standard": 0.65}
"""Share of rows that are drills. A pretrained model learns the form from few rows, and to heed what it reads from
drills above all: with fewer SmolLM2-135M opened cells as if nothing had been said of them, at .95 it opened one called
safe in 92 of a hundred draws after 360 rows (examples/RESULTS.md)."""


class Row(NamedTuple):
    """One example: the prompt, the answer to imitate, and answers that must become improbable.

    A forbidden answer is pushed down at the token where it parts from the one to imitate. `ties` are actions as good as
    the answer's, which was drawn among them: each is taught alike, at the token where it parts.
    """

    messages: list[Message]
    answer: str
    forbidden: tuple[str, ...] = ()
    ties: tuple[str, ...] = ()


class Choice(NamedTuple):
    """A teacher's action, the actions (or their beginnings) that would be mistakes whatever the style of play, and the
    actions that it might as well have drawn."""

    action: str
    forbidden: tuple[str, ...] = ()
    ties: tuple[str, ...] = ()


class Moment(NamedTuple):
    """A choice of a scripted trial: what was asked, in which state, and what the teacher does; `skilled` in earnest."""

    messages: list[Message]
    state: State
    choice: Choice
    skilled: bool


@dataclass
class Attempt:
    """A scripted episode so far, as a teacher and the prompt see it. `skilled` is drawn once per episode."""

    state: State
    memory: Sequence[Remembered]
    skilled: bool
    turns: list[Turn] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    start: State = field(default_factory=dict)
    won: bool = False


class Teacher(ABC):
    """What is particular to one environment. Methods draw from the generator they are given and keep no state."""

    skill: float
    """Share of the episodes that are played well."""
    breadth = 1.0
    """How many times the rows it takes that the environment of the recipe needed, at least 1."""

    @property
    def gates(self) -> Mapping[str, tuple[float, float]]:
        """Gates that these parameters of the environment have beside the recipe's, or instead of one of its."""
        return {}

    def __init__(
        self,
        env: Env,
        max_episodes: int = 3,
        *,
        style: PromptStyle = "compact",
        control: frozenset[str] = frozenset(),
    ) -> None:
        self.env = env
        self.prompts = PromptBuilder(env, style=style, max_episodes=max_episodes, control=control)

    @property
    def compact(self) -> bool:
        """Whether prompts are compact, so that notes are remembered as they are."""
        return self.prompts.style == "compact"

    @abstractmethod
    def pieces(self) -> list[Piece]:
        """Texts that deserve a token of their own."""

    @abstractmethod
    def sentence(self, note: str) -> str:
        """One note (`remark`'s, or one of those that `drill` joins by "; ") as a person would say it."""

    def told(self, notes: str) -> str:
        """Notes as this style's reflections say them."""
        return notes if self.compact else " ".join(map(self.sentence, notes.split("; ")))

    @abstractmethod
    def choose(self, attempt: Attempt, rng: random.Random) -> Choice:
        """The next action of a scripted episode."""

    def slip(self, attempt: Attempt, rng: random.Random) -> str | None:
        """A bad action that is played but not taught, so that the rest of the episode is about recovering; or None."""
        return None

    @abstractmethod
    def remark(self, attempt: Attempt, rng: random.Random) -> str:
        """A reflection on a failed episode, of mixed quality, as a note."""

    @abstractmethod
    def instructive(self, attempt: Attempt) -> bool:
        """Whether a failed episode shows anything that a reflection could truly state."""

    def true_remark(self, attempt: Attempt, text: str) -> bool:
        """Whether a reflection states something about this task that is true and useful, as its environment judges."""
        return bool(self.env.judge(attempt.start, attempt.actions, text))

    def of_others(self, start: State, rng: random.Random) -> list[Remembered]:
        """What a memory of other tasks may show of tasks that have something in common with this one; none by default.

        Not `own`: a teacher weighs them, and is not bound by them as it is by its own notes.
        """
        return []

    @abstractmethod
    def drill(self, state: State, rng: random.Random) -> tuple[list[Remembered], int]:
        """A made-up memory that bears on the choice in `state`, and the number (from 1) of the episode it is for.

        Reflections are notes. Trajectories are made up for compact prompts only, which have them on a line.
        """

    def made_up(self, state: State, rng: random.Random) -> tuple[list[Remembered], int]:
        """`drill`, with its reflections as they are told."""
        memory, episode = self.drill(state, rng)
        memory = [*self.of_others(state, rng), *memory]
        return [replace(one, text=self.told(one.text)) if one.kind == "reflection" else one for one in memory], episode

    def observe(self, attempt: Attempt, episode: int) -> View:
        """What the policy sees now. `episode` is 1-based."""
        actions = self.prompts.actions_now(attempt.state)
        return View(episode, self.seen(attempt.state), tuple(attempt.turns), tuple(attempt.memory), actions)

    def said(self, action: str) -> str:
        """An action as it is answered: in standard prompts as their lists and their history have it."""
        return action if self.compact else self.env.parse(action) or action

    def answer(self, action: str) -> str:
        """The whole answer that plays an action."""
        return self.prompts.action_answer(self.said(action))

    def seen(self, state: State) -> str:
        """What prompts of this style show of a state."""
        return self.env.compact(state) if self.compact else plain(self.env.observe(state))

    def play(self, attempt: Attempt, action: str) -> bool:
        """Play one turn of the attempt; True if the episode is over."""
        before = attempt.state
        step = self.env.step(before, action)
        # Compact prompts tell a turn by its outcome alone: the page that was read is not drawn again for them.
        seen = "" if self.compact else self.seen(before)
        attempt.turns.append(Turn(seen, self.said(action), plain(self.env.outcome(before, action, step))))
        attempt.actions.append(action)
        attempt.state, attempt.won = step.state, step.success
        return step.done or len(attempt.turns) >= self.env.max_turns

    def begin(self, start: State, memory: Sequence[Remembered], rng: random.Random) -> Attempt:
        """An episode about to start."""
        return Attempt(start, memory, rng.random() < self.skill, start=start)

    def trial(
        self,
        start: State,
        contents: Contents,
        rng: random.Random,
        note: Callable[[Moment], object] = lambda moment: None,
    ) -> Iterator[Row]:
        """All rows of one scripted trial under a memory of these contents; `note` is told of every choice."""
        memory = self.of_others(start, rng)
        for episode in range(1, self.prompts.max_episodes + 1):
            attempt = self.begin(start, tuple(memory), rng)
            over = False
            while not over:
                slip = self.slip(attempt, rng)
                if slip is None:
                    choice = self.choose(attempt, rng)
                    messages = self.prompts.act(self.observe(attempt, episode))
                    note(Moment(messages, attempt.state, choice, attempt.skilled))
                    yield self._row(messages, choice)
                over = self.play(attempt, choice.action if slip is None else slip)
            if attempt.won or episode == self.prompts.max_episodes:
                return
            for kind in kinds(contents):
                if kind == "reflection":
                    text = self.told(self.remark(attempt, rng))
                    yield Row(self.prompts.reflect(self.observe(attempt, episode)), self.prompts.remark_answer(text))
                else:
                    text = self.prompts.trajectory(attempt.turns, self.seen(attempt.state))
                memory.append(Remembered(kind, text, episode))

    def drills(self, start: State, rng: random.Random) -> Iterator[Row]:
        """Rows under a made-up memory: a choice somewhere on the way of a scripted episode, or a remark on its loss."""
        attempt = self.begin(start, (), rng)
        for _ in range(rng.randrange(self.env.max_turns)):
            before, played = attempt.state, len(attempt.turns)
            if self.play(attempt, self.slip(attempt, rng) or self.choose(attempt, rng).action):
                if not attempt.won:
                    attempt.memory, episode = self.made_up(before, rng)
                    remark = self.prompts.remark_answer(self.told(self.remark(attempt, rng)))
                    yield Row(self.prompts.reflect(self.observe(attempt, episode)), remark)
                attempt.state = before
                del attempt.turns[played:], attempt.actions[played:]
                break
        attempt.memory, episode = self.made_up(attempt.state, rng)
        choice = self.choose(attempt, rng)
        messages = self.prompts.act(self.observe(attempt, episode))
        yield self._row(messages, choice)

    def _row(self, messages: list[Message], choice: Choice) -> Row:
        return Row(messages, self.answer(choice.action), choice.forbidden, choice.ties)


def rows(teacher: Teacher, count: int, seed: int) -> list[Row]:
    """`count` rows of scripted trials and drills on the train split; the seed decides them."""
    rng = random.Random(seed)
    drills = DRILLS[teacher.prompts.style]
    shares = CONTENTS[teacher.prompts.style]
    contents, weights = list(shares), list(shares.values())
    collected: list[Row] = []
    owed = 0.0
    for task in teacher.env.seeds("train"):
        start = teacher.env.reset(task)
        trial = list(teacher.trial(start, rng.choices(contents, weights)[0], rng))
        collected += trial
        owed += len(trial) * drills / (1 - drills)
        while owed > 0:
            extra = list(teacher.drills(start, rng))
            collected += extra
            owed -= len(extra)
        if len(collected) >= count:
            break
    rng.shuffle(collected)
    return collected[:count]
