"""The environment protocol: immutable parameters, and state that the caller keeps as a plain JSON dict.

An environment of your own writes `rules`, `action_format`, `reset`, `observe`, `step` and `parse`. All else has a
default that is honest about what it does not know; `solve`, `admissible`, `weak` and `load` are offers that it may make
(`Env.offers`), and whoever needs one that is not made says so.

What must stay true: `reset` depends on the seed alone (same dict in every process, under every PYTHONHASHSEED) and
`step` is a pure function that never mutates its input. A trial can therefore be checkpointed, resumed after a crash,
forked and replayed by whoever holds the dict, and restarting an episode is keeping the first one.
"""

from __future__ import annotations

import itertools
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lamer_envs.errors import EnvParameterError, InstanceError, NotOfferedError
from lamer_envs.markup import escaped
from lamer_envs.parameters import from_text, known_parameters, spec_text, stable_hash

State = dict[str, Any]
"""A JSON object: str, int, float, bool, None, lists and dicts of these."""

MAX_ACTION_CHARS = 500
"""Longest action text an environment looks at; policies may write anything."""

MAX_OUTCOME_CHARS = 120
"""How much of an observation the default `Env.outcome` quotes."""

EMPTY_SPLIT_DRAWS = 2_000
"""Tasks of which not one belongs to a split that then counts as empty (a tenth of them should)."""


class Step(NamedTuple):
    """What one turn did.

    `state` is new (the input is untouched), `observation` is `observe(state)`, `reward` is in the environment's units
    (success is worth 10), `done` ends the episode, `success` says that it was won, `valid` is False for text that is
    malformed or inadmissible (the state is then otherwise unchanged).
    """

    state: State
    observation: str
    reward: float
    done: bool
    success: bool
    valid: bool


class Env(ABC):
    """One family of tasks with fixed parameters. Instances are immutable and safe to share between threads."""

    name: ClassVar[str]
    """Registered name, e.g. "minesweeper"; by default the class's, in lower case."""
    splits: tuple[str, ...] = ("train", "val", "test")
    """Names of the splits that `seeds` knows; parameters may add or take away some."""
    markov: ClassVar[bool] = False
    """True where one observation tells all that matters of the episode so far: compact prompts then show no history,
    standard ones of past turns what was played and what it did (`outcome`), not what was seen."""
    tells_actions: ClassVar[bool] = False
    """True where `action_format`, or what is observed, already says which actions there are: standard prompts then do
    not list `admissible`. Also where a list would mislead, as one of hundreds, or of examples only."""
    penalises_invalid: ClassVar[bool] = False
    """True where `step` already charges for an invalid action, so that a trainer adds no penalty of its own."""
    invalid_is_cheap: ClassVar[bool] = False
    """True where what `step` charges is less than some legal turn costs: not to play would pay, so a trainer adds its
    penalty all the same."""

    max_turns: int = 10
    """Default turn budget of an episode. `step` never counts turns: the driver ends the episode."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not hasattr(cls, "name"):
            cls.name = cls.__name__.lower()

    # -- identity ---------------------------------------------------------------------------------------------------

    @property
    def spec(self) -> str:
        """Canonical text, e.g. "minesweeper:6x6-3"; `make(env.spec)` gives an equal environment.

        By default the name and those of the constructor's parameters that are not at their defaults, as in
        "guess:200,hints=True"; each must be kept as the attribute of its name.
        """
        return spec_text(self.name, self)

    @classmethod
    def from_spec(cls, params: str) -> Env:
        """The environment of a spec's part after the colon ("" for none). Raises EnvParameterError."""
        return cls(**from_text(cls.name, cls, params))

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters as a JSON-plain mapping, for logs; by default the constructor's, as far as they are kept."""
        return {key: getattr(self, key) for key in known_parameters(type(self)) if hasattr(self, key)}

    def offers(self, method: str) -> bool:
        """Whether this environment has a method of its own where the protocol has only a default."""
        return getattr(type(self), method) is not getattr(Env, method)

    # -- what the policy is told ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def rules(self) -> str:
        """The rules and the goal, in a few sentences, for the prompt."""

    @property
    @abstractmethod
    def action_format(self) -> str:
        """How an action is written inside the answer tag, with an example."""

    @abstractmethod
    def observe(self, state: State) -> str:
        """What the policy reads."""

    def compact(self, state: State) -> str:
        """What the policy reads in compact prompts: as few tokens as the environment can, by default `observe`.

        The facts are those of `observe`, in other words and at times fewer of them. An environment that says more
        there says so in its documentation (WebShop's verdicts, ALFWorld's task as type and things).
        """
        return self.observe(state)

    def about(self, state: State) -> str:
        """What lessons of a task are found by, out of its first state: a memory of other tasks compares these texts.

        By default `observe`. An environment whose tasks come in groups that share more than they show says the group.
        """
        return self.observe(state)

    def outcome(self, before: State, action: str, step: Step) -> str:
        """What one turn did, in a few words, for compact histories and trajectory memory.

        By default the action, with "invalid", "won", "over", or the beginning of what is seen then, on one line.
        """
        if not step.valid:
            news = "invalid"
        elif step.done:
            news = "won" if step.success else "over"
        else:
            news = " ".join(step.observation.split())[:MAX_OUTCOME_CHARS]
        return f"{self.parse(action) or 'no action'}: {news}"

    # -- dynamics ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def reset(self, seed: int) -> State:
        """The initial state of the task with this seed."""

    @abstractmethod
    def step(self, state: State, action: str) -> Step:
        """Play `action`. Never raises on bad text and never mutates `state`; after the end it is an invalid turn."""

    @abstractmethod
    def parse(self, answer: str) -> str | None:
        """Canonical action from the text inside the answer tag, None if it has not the form of an action."""

    def admissible(self, state: State) -> list[str]:
        """Every action that would be valid now, in canonical form and in a fixed order; none after the end.

        Optional: raises NotOfferedError by default.
        """
        raise NotOfferedError(f"{self.name} does not list its actions; write `admissible(self, state) -> list[str]`")

    def load(self, instance: Mapping[str, Any] | Path) -> State:
        """An initial state from an explicit instance, or from the file at a `pathlib.Path` that holds one.

        Text is data, never a path: it is refused. Raises InstanceError, by default for everything.
        """
        raise InstanceError(f"{self.name} has tasks by seed only; to take instances, write `load(self, instance)`")

    def progress(self, state: State) -> float | None:
        """How much of the task is done in this state, in [0, 1]: 1 when it is won and only then. None: not stated.

        For trainers, which may reward it (`optimise.progress_weight`); no policy reads it, so it may know what is
        hidden. By default None, of every state.
        """
        return None

    # -- instances and splits ---------------------------------------------------------------------------------------

    def instance(self, state: State) -> str:
        """Canonical text of the instance behind a state: equal text, equal task. Callers give an episode's first state.

        By default the whole of that state, as JSON.
        """
        return json.dumps(state, sort_keys=True)

    def split_of(self, state: State) -> str:
        """The split that owns the state's instance: a stable hash assigns 80/10/10 to train/val/test."""
        bucket = stable_hash(f"{self.name}\n{self.instance(state)}") % 10
        return "train" if bucket < 8 else ("val" if bucket == 8 else "test")

    def seeds(self, split: str) -> Iterator[int]:
        """Endless increasing seeds whose *instances* belong to `split`.

        Raises EnvParameterError for an unknown split, and while iterating if the split turns out to be empty (an
        environment of a handful of instances may leave one without any).
        """
        if split not in self.splits:
            raise EnvParameterError(f"{self.name} has no split '{split}'; splits are {', '.join(self.splits)}")
        return self._seeds(split)

    def _seeds(self, split: str) -> Iterator[int]:
        last = -1
        for seed in itertools.count():
            if self.split_of(self.reset(seed)) == split:
                last = seed
                yield seed
            elif last < 0 and seed >= EMPTY_SPLIT_DRAWS:
                raise EnvParameterError(
                    f"none of the first {EMPTY_SPLIT_DRAWS} tasks of {self.spec} belongs to split '{split}': it has "
                    "too few different instances to hold some out"
                )

    # -- reflections --------------------------------------------------------------------------------------------------

    def judge(self, start: State, actions: Sequence[str], text: str) -> bool | None:
        """Whether `text`, written after a failed episode of these actions from `start`, states a fact of this task that
        is true, and none that is false; None where the episode showed nothing that could be stated.

        It may look at what players do not see. What states nothing is not true. Optional: raises NotOfferedError by
        default.
        """
        raise NotOfferedError(
            f"{self.name} does not judge reflections; write `judge(self, start, actions, text) -> bool | None`"
        )

    def replay(self, start: State, actions: Sequence[str]) -> list[tuple[State, str, Step]]:
        """What each of the actions did, played from `start`: the state before it, the action, the step."""
        played: list[tuple[State, str, Step]] = []
        for action in actions:
            before = played[-1][2].state if played else start
            played.append((before, action, self.step(before, action)))
        return played

    # -- scripted players and pictures ------------------------------------------------------------------------------

    def solve(self, state: State) -> list[str] | None:
        """Actions of a scripted expert with full knowledge that win from `state`.

        None if it cannot be won, and where the expert knows no way, so by default; what it gives does win.
        """
        return None

    def weak(self, state: State, rng: random.Random) -> str:
        """The next action of a scripted player of middling skill, which sees only what the policy sees.

        Optional: raises NotOfferedError by default.
        """
        raise NotOfferedError(f"{self.name} has no scripted player; write `weak(self, state, rng) -> str`")

    def render(self, state: State) -> str:
        """The state for a person in a terminal, as text with rich markup; by default `observe`."""
        from rich.markup import escape  # only where somebody looks

        return escape(self.observe(state))

    def render_html(self, state: State) -> str:
        """The state for a browser: one element of HTML or SVG, every text in it escaped; by default `observe`.

        Who shows it keeps plain elements and their classes only (`lamer_graph.report.pictures`)."""
        return f'<pre class="observation">{escaped(self.observe(state))}</pre>'

    # -- value semantics --------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Env) and type(other) is type(self) and other.spec == self.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    def __repr__(self) -> str:
        return f"make({self.spec!r})"
