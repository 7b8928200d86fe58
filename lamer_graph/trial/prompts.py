"""Prompt assembly, once for all environments. `answers` reads what comes back.

What must stay true: the same view of a trial gives the same messages to the character, wherever they are built (graph,
bulk collection, warm start, trainer); what the environment, the policy or a memory wrote enters as data, quoted or on
one line, bounded, never as instructions of ours and never as a control token (`quoting`); when something is left out
the prompt says so.

Two styles. `standard` explains everything and quotes whole observations: for instruction-tuned models. `compact` has
the environment's own short forms (`Env.compact`, `Env.outcome`): for small policies and long trials. They say the same
or less, and more only where the environment says so: WebShop's compact pages judge products ("too dear") by default.

A standard prompt is what a cache and a trainer can share. The system message is one for all trials of an environment;
the user message is a row of pieces, what is fixed before what changes: the memory H(n), fixed for an episode, then the
episode's turns, to which each turn adds, then what is asked now. So the prompt of a turn begins with the one before it,
up to the end of that one's turns (of its observation, where turns show theirs), and the reflection's with that of the
last turn. In tokens too: all pieces begin with the same characters after a blank line, so whatever piece follows, a
tokenizer that cuts texts by a pattern first (all byte-level ones) cuts what lies before it alike. A bounded `history`,
or a prompt that is trimmed to its window, gives this up. A plan (strategy "plan") therefore stands where it was made:
in the first turn, behind what was seen there; only where that turn is left out does it come before the turns.

Where one observation tells all that matters (`Env.markov`) past turns are told by action and outcome, else by
observation, action and outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from lamer_envs.base import Env, State
from lamer_graph.errors import ConfigError
from lamer_graph.text import plain
from lamer_graph.trial.answers import ACTION_TAG, REMARK_TAG
from lamer_graph.trial.prompt_texts import STANDARD, PromptTexts
from lamer_graph.trial.quoting import marked, neutral, one_line, quote
from lamer_graph.trial.strategies import Strategy, Thoughts, check_style
from lamer_graph.types import Message

PromptStyle = Literal["standard", "compact"]
ActionLists = Literal["auto", "always", "never"]

MAX_OBSERVATION_CHARS = 8_000
"""Longest observation that is shown whole; environments stay below it, plug-ins may not."""
MAX_OUTCOME_CHARS = 1_000
"""The same for what a turn did."""
MAX_ACTIONS, MAX_ACTIONS_CHARS = 100, 1_500
"""How many actions are listed at most, and how many characters of them."""

PIECE = "## "
"""How each piece of a standard prompt's user message begins, after a blank line."""

SYSTEM_COMPACT = """\
{rules} {action_format} At most {episodes} attempts from the same start. After "Act" answer <action>..</action>; \
after "Remark" write what this failed attempt has taught, <remark>..</remark>."""

LEFT_OUT_COMPACT = "(+{count})"


class Turn(NamedTuple):
    """What a prompt needs of a turn that has been played; `thought` is what was said before the action, where that is
    shown."""

    observation: str
    action: str
    outcome: str
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A memory record as the prompt shows it: `episode` is 1-based, `own` is False for records of other trials."""

    kind: str
    text: str
    episode: int
    own: bool = True
    success: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """All that the policy may see at one call. `episode` is 1-based; `observation` is of the current state, and
    `actions` are what can be done there, where the prompt is to list them (`PromptBuilder.actions_now`). `plan` is the
    episode's own, once it is made, `last_plan` that of the one before, where it is to be revised."""

    episode: int
    observation: str
    turns: Sequence[Turn] = ()
    memory: Sequence[Remembered] = ()
    actions: Sequence[str] = ()
    plan: str = ""
    last_plan: str = ""


@dataclass(frozen=True)
class PromptBuilder:
    """Builds the messages of an environment's act and reflect calls.

    `history` is how many of the current episode's turns are shown before the current observation (all if None).
    `actions` says whether standard prompts list what can be done now, a bounded number: "auto" where the environment
    knows it (`Env.admissible`) and does not tell it elsewhere (`Env.tells_actions`). `thoughts` says whether turns are
    told with what was said before their actions. `texts` replaces texts of standard prompts. `control` are the policy's
    control tokens (`Policy.control_tokens`), which no message will hold.

    Raises ConfigError for what contradicts itself or would do nothing.
    """

    env: Env
    style: PromptStyle = "standard"
    max_episodes: int = 3
    max_turns: int | None = None
    strategy: Strategy = "lamer"
    history: int | None = None
    actions: ActionLists = "auto"
    thoughts: Thoughts = "hidden"
    texts: PromptTexts = STANDARD
    control: frozenset[str] = field(default=frozenset(), repr=False)
    system: Message = field(init=False, repr=False, compare=False)
    lists_actions: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for value, options, what in (
            (self.style, get_args(PromptStyle), "prompt style"),
            (self.strategy, get_args(Strategy), "strategy"),
            (self.actions, get_args(ActionLists), "value of actions"),
            (self.thoughts, get_args(Thoughts), "value of thoughts"),
        ):
            if value not in options:
                raise ConfigError(f"unknown {what} '{value}'; choose one of: {', '.join(options)}")
        object.__setattr__(self, "texts", PromptTexts.of(self.texts))
        self._check_effects()
        listed = self.env.offers("admissible") and (self.actions == "always" or not self.env.tells_actions)
        object.__setattr__(self, "lists_actions", self.style == "standard" and self.actions != "never" and listed)
        object.__setattr__(self, "system", Message(role="system", content=self._clean(self._system_text())))

    def _check_effects(self) -> None:
        """Raises ConfigError for what would do nothing."""
        # Runs of before have had `react` in compact prompts, where it asked for nothing.
        check_style(self.style, "lamer" if self.strategy == "react" else self.strategy, self.thoughts)
        if self.style == "compact" and self.actions != "auto":
            raise ConfigError(
                f"actions '{self.actions}' and prompt style 'compact' exclude each other: compact prompts have the "
                "environment's own short forms and list nothing besides"
            )
        if self.style == "compact" and self.texts != STANDARD:
            raise ConfigError(
                "texts and prompt style 'compact' exclude each other: they are the standard prompts' texts"
            )
        if self.actions == "always" and not self.env.offers("admissible"):
            raise ConfigError(
                f"actions 'always' needs an environment that lists its actions, and {self.env.name} has no "
                "`admissible`: use 'auto'"
            )
        if self.strategy == "react" and self.style == "standard" and "{thinking}" not in self.texts.system:
            raise ConfigError("strategy 'react' asks for reasoning where texts.system says {thinking}, which it lacks")

    @property
    def turns(self) -> int:
        """Turn budget of an episode."""
        return self.env.max_turns if self.max_turns is None else self.max_turns

    def actions_now(self, state: State) -> Sequence[str]:
        """What a prompt lists as possible in `state`: nothing where this builder's prompts list no actions."""
        return self.env.admissible(state) if self.lists_actions else ()

    def view(self, state: State, episode: int, turns: Sequence[Turn] = (), memory: Sequence[Remembered] = ()) -> View:
        """What `act` shows in `state`, from the environment itself; `episode` is 1-based."""
        observation = self.env.compact(state) if self.style == "compact" else self.env.observe(state)
        return View(episode, observation, turns, memory, self.actions_now(state))

    def act(self, view: View, dropped: int = 0) -> list[Message]:
        """Messages that ask for the next action, with the `dropped` oldest pieces left out.

        They go in this order: the shown turns of this episode, oldest first, then memory records, oldest first, and
        last the list of what can be done.
        """
        cut = self._cut(view, dropped)
        if self.style == "compact":
            return self._compact(view, *cut, "Act")
        number = len(view.turns) + 1
        pieces = [*self._past(view, *cut), self._observed(number, view.observation)]
        if view.actions:
            listed = dropped < self.droppable(view)
            pieces.append(self._listed(view.actions, MAX_ACTIONS if listed else 0))
        place = {"episode": view.episode, "episodes": self.max_episodes}
        pieces.append(self.texts.act.format(**place, turn=number, turns=self.turns))
        if self.strategy == "plan" and not view.turns:
            asked = self.texts.replan if view.last_plan else self.texts.plan
            pieces.append(asked.format(**place, plan=quote(view.last_plan)))
        return self._messages(_joined(pieces))

    def reflect(self, view: View, dropped: int = 0, *, won: bool = False) -> list[Message]:
        """Messages that ask for a reflection on the episode `view.episode`, which failed unless it was `won`; `dropped`
        as in `act`."""
        cut = self._cut(view, dropped, whole=True)
        if self.style == "compact":
            return self._compact(view, *cut, "Remark", ended=won)
        ended = self.texts.ended.format(observation=quote(_bounded(view.observation)))
        asked = (self.texts.reflect_won if won else self.texts.reflect).format(
            episode=view.episode, episodes=self.max_episodes
        )
        return self._messages(_joined([*self._past(view, *cut), ended, asked]))

    def droppable(self, view: View, *, whole: bool = False) -> int:
        """How many pieces `act` (or `reflect`: whole=True) can leave out."""
        return len(self._shown(view, whole)) + len(view.memory) + bool(view.actions and not whole)

    def trajectory(self, turns: Sequence[Turn], last_observation: str, max_chars: int = 2_000) -> str:
        """An episode as memory text of at most `max_chars`, told as in its own prompts: oldest turns are left out
        first, never half a turn, and of the last observation what does not fit even then."""
        if self.style == "compact":
            pieces, end, lost, joiner = [_told(turn) for turn in turns], "", LEFT_OUT_COMPACT, "; "
        else:
            pieces = ["\n".join(self._turn(number, turn)) for number, turn in enumerate(turns, start=1)]
            end, lost, joiner = self.texts.ended.format(observation=quote(last_observation)), self.texts.left_out, "\n"
        total = [*pieces, end] if end else pieces
        text = joiner.join(total)
        dropped = 0
        while len(text) > max_chars and dropped < len(pieces):
            dropped += 1
            text = joiner.join([lost.format(count=dropped, what="turns"), *total[dropped:]])
        return text[:max_chars] if self.style == "compact" else _within(text, max_chars)

    @staticmethod
    def action_answer(action: str) -> str:
        """The answer that plays `action`, as a well-formed policy writes it."""
        return f"<{ACTION_TAG}>{action}</{ACTION_TAG}>"

    @staticmethod
    def remark_answer(text: str) -> str:
        """The answer that remembers `text`, as a well-formed policy writes it."""
        return f"<{REMARK_TAG}>{text}</{REMARK_TAG}>"

    # -- pieces -------------------------------------------------------------------------------------------------------

    def _clean(self, text: str) -> str:
        """The one way of a text into a message."""
        return neutral(plain(text), self.control)

    def _messages(self, text: str) -> list[Message]:
        return [self.system, Message(role="user", content=self._clean(text))]

    def _system_text(self) -> str:
        if self.style == "compact":
            return SYSTEM_COMPACT.format(
                rules=self.env.rules, action_format=self.env.action_format, episodes=self.max_episodes
            )
        many = self.max_episodes > 1
        attempts = self.texts.attempts_many if many else self.texts.attempts_one
        return self.texts.system.format(
            rules=self.env.rules,
            action_format=self.env.action_format,
            attempts=attempts.format(episodes=self.max_episodes, turns=self.turns),
            quoted=self.texts.quoted_many.format() if many else self.texts.quoted_one.format(),
            thinking=self.texts.thinking.format() if self.strategy == "react" else "",
        )

    @property
    def shows_turns(self) -> bool:
        """Whether `act` shows the episode's turns: not where a compact observation tells everything."""
        return self.style != "compact" or not self.env.markov or self.history is not None

    def _shown(self, view: View, whole: bool) -> Sequence[Turn]:
        """The turns that enter the prompt: all for a reflection; none where a compact observation tells everything."""
        if whole or self.history is None:
            return view.turns if whole or self.shows_turns else ()
        return view.turns[len(view.turns) - min(self.history, len(view.turns)) :]

    def _cut(
        self, view: View, dropped: int, whole: bool = False
    ) -> tuple[Sequence[Turn], int, Sequence[Remembered], int]:
        shown = self._shown(view, whole)
        from_turns = min(dropped, len(shown))
        from_memory = min(dropped - from_turns, len(view.memory))
        hidden = 0 if self.style == "compact" and self.env.markov and not whole else len(view.turns) - len(shown)
        return shown[from_turns:], hidden + from_turns, view.memory[from_memory:], from_memory

    def _past(
        self, view: View, turns: Sequence[Turn], lost_turns: int, memory: Sequence[Remembered], lost_memory: int
    ) -> list[str]:
        """The pieces that stay as they are in the prompts to come: the memory, then the episode's turns."""
        left_out = self.texts.left_out.format
        pieces = [left_out(count=lost_memory, what="memories")] if lost_memory else []
        pieces += [self._recalled(record) for record in memory if not record.own]
        pieces += [self._recalled(record) for record in memory if record.own]
        planned = [self.texts.planned.format(plan=quote(view.plan))] if view.plan else []
        if lost_turns:
            pieces += [left_out(count=lost_turns, what="turns"), *planned]
        for number, turn in enumerate(turns, start=len(view.turns) - len(turns) + 1):
            pieces += self._turn(number, turn, planned if number == 1 else ())
        return pieces

    def _recalled(self, record: Remembered) -> str:
        text = quote(record.text)
        if not record.own:
            return self.texts.memory_other.format(result="solved" if record.success else "not solved", text=text)
        known = self.texts.memory_trajectory if record.kind == "trajectory" else self.texts.memory_reflection
        return known.format(episode=record.episode, text=text)

    def _turn(self, number: int, turn: Turn, planned: Sequence[str] = ()) -> list[str]:
        """A turn that has been played, with what was `planned` in it; what was seen only where the current observation
        does not tell it all."""
        action = one_line(turn.action)
        outcome = _told(turn).removeprefix(f"{action}: ")  # many an outcome begins with what was played
        played = self.texts.played.format(turn=number, action=action, outcome=outcome)
        thought = self.texts.thought.format(turn=number, thought=quote(turn.thought)) if turn.thought else None
        seen = [] if self.env.markov else [self._observed(number, turn.observation)]
        return [*seen, *([thought] if thought else []), *planned, played]

    def _observed(self, number: int, observation: str) -> str:
        return self.texts.observed.format(turn=number, observation=quote(_bounded(observation)))

    def _listed(self, actions: Sequence[str], most: int) -> str:
        """What can be done now: whole actions, as many as the bounds take, and how many more there are."""
        shown: list[str] = []
        room = MAX_ACTIONS_CHARS
        for action in actions[:most]:
            room -= len(action) + 2
            if room < 0:
                break
            shown.append(one_line(action))
        lines = [quote("; ".join(shown))] if shown else []
        lines += [f"({len(actions) - len(shown)} more)"] if len(shown) < len(actions) else []
        return self.texts.actions.format(actions="\n".join(lines))

    def _compact(
        self,
        view: View,
        turns: Sequence[Turn],
        lost_turns: int,
        memory: Sequence[Remembered],
        lost_memory: int,
        ask: Literal["Act", "Remark"],
        ended: bool = False,
    ) -> list[Message]:
        """Turns tell of a failure where an observation would tell all; how it `ended` is worth telling of a success."""
        lines: list[str] = []
        if memory or lost_memory:
            lines.append("Memory" + (" " + LEFT_OUT_COMPACT.format(count=lost_memory) if lost_memory else ""))
            for record in memory:
                word = "Tried" if record.kind == "trajectory" else "Note"
                lines.append(f"{word if record.own else 'Other'} {one_line(record.text)}")
        lines.append(f"Episode {view.episode}")
        if turns or lost_turns:
            done = [LEFT_OUT_COMPACT.format(count=lost_turns)] if lost_turns else []
            shown = "; ".join(map(_told, turns))
            lines.append("; ".join([*done, marked(shown)] if turns else done))
        if ask == "Act" or not self.env.markov or ended:
            lines.append(marked(_bounded(view.observation)))
        lines.append(ask)
        return self._messages("\n".join(lines))


def _joined(pieces: Sequence[str]) -> str:
    return "\n\n".join(PIECE + piece for piece in pieces)


def _told(turn: Turn) -> str:
    return one_line(_bounded(turn.outcome, MAX_OUTCOME_CHARS))


def _bounded(text: str, limit: int = MAX_OBSERVATION_CHARS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}\n({len(text) - limit} characters left out)"


def _within(text: str, limit: int) -> str:
    """The text in at most `limit` characters, and that something is missing where there is room to say so."""
    if len(text) <= limit:
        return text
    said = ""
    for _ in range(3):  # saying so takes room too, and the number may thereby grow by a digit
        said = f"\n({len(text) - max(0, limit - len(said))} characters left out)"
    return text[: limit - len(said)] + said if len(said) < limit else text[:limit]
