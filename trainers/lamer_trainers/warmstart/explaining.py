"""Why the teacher's action is better, given what its branches showed: who says so, and whether it is so.

What must stay true: an explanation that is kept states nothing about the outcomes that is false of them, as far as its
words can be checked: it names the teacher's action; coordinates and numbers in it are among those of the situation and
the outcomes; whoever says of an action that it loses, wins, is safe or is invalid is right; at least one such statement
is there. What cannot be read as true (a verdict on nobody knows which action) is not kept.

Self-reflection of arXiv 2510.08558, section 4.3. An explanation is written by a model that is shown the outcomes, and
learnt by a policy that is not. `Scripted` is no model: it repeats, in the environment's own words, what the worse
branches and the better one did. It is there for policies that have no language of their own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Protocol

from lamer_graph.errors import PolicyError
from lamer_graph.policies.base import Policy, run_sync
from lamer_graph.text import plain
from lamer_graph.trial.answers import conclusion
from lamer_graph.trial.quoting import one_line, quote
from lamer_graph.types import Message, Sampling, stable_seed
from lamer_trainers.warmstart.branches import CONCURRENCY, Branched, Outcome
from lamer_trainers.warmstart.teachers import Teacher

MOST_WORSE = 2
"""Worse branches that a scripted explanation tells of."""
MAX_CHARS = 400
EXPLAIN_TOKENS = 160
ASK = """\
## Each of these actions was tried here, and this is what it led to:
{outcomes}

## The better choice is {action}. In one or two sentences, say why, naming the actions and what they led to. Use no \
tags."""

LOST = re.compile(r"\b(?:mines?|explod\w*|stuck|dead\w*|los(?:e|es|t|ing)|fail\w*|game over)\b", re.IGNORECASE)
WON = re.compile(r"\b(?:wins?|won|winning|solv\w+)\b", re.IGNORECASE)
SAFE = re.compile(r"\b(?:safe|safely)\b", re.IGNORECASE)
INVALID = re.compile(r"\b(?:invalid|illegal|impossible|not allowed|not possible)\b", re.IGNORECASE)
NOT = re.compile(r"(?:\b(?:no|not|never|without|avoid\w*|cannot|neither|nor)\b|n't\b)", re.IGNORECASE)
CLAUSES = re.compile(r"[.;!?\n]+(?!\d)|\b(?:but|while|whereas|however|because|so|since|and)\b", re.IGNORECASE)
CELL = re.compile(r"\(\s*\d+\s*,\s*\d+\s*\)(?:\s*=\s*\d+)?")
NUMBER = re.compile(r"\d+")
MARK = re.compile(r"\x01(\d+)\x01")


class Explainer(Protocol):
    """Who explains. `name` says so in reports and data sets."""

    name: str

    def explain(self, cases: Sequence[Branched]) -> list[str]:
        """A text for each case, "" where there is none."""
        ...


class Scripted:
    """What the worse branches did, then the better one, in the environment's own words."""

    name = "scripted"

    def __init__(self, teacher: Teacher) -> None:
        self._compact = teacher.compact

    def explain(self, cases: Sequence[Branched]) -> list[str]:
        return [self._one(case) for case in cases]

    def _one(self, case: Branched) -> str:
        worse = sorted((one for one in case.others if one.reward < case.expert.reward), key=lambda one: one.reward)
        told = [*worse[:MOST_WORSE], case.expert]
        if self._compact:
            return "; ".join(map(_what_it_did, told))
        sentences = [f"{one.action} would lead to this: {one_line(one.told)}." for one in told]
        return " ".join([*sentences, f"So {case.expert.action} is the better choice."])


def _what_it_did(outcome: Outcome) -> str:
    """An outcome in the environment's words, and of which action, where they do not say so."""
    said = one_line(outcome.told)
    return said if outcome.action in said else f"{outcome.action}: {said}"


class Asked:
    """A model's explanations: the policy itself, or a stronger one behind an endpoint, which times out by itself.

    A call that fails costs its explanation, and no more; if the first ones all do, the error is raised.
    """

    def __init__(self, policy: Policy, name: str, seed: int) -> None:
        self.name = name
        self._policy, self._seed, self._asked = policy, seed, 0

    def explain(self, cases: Sequence[Branched]) -> list[str]:
        """Raises PolicyError where every call fails."""
        return run_sync(self._all(cases))

    async def _all(self, cases: Sequence[Branched]) -> list[str]:
        gate = asyncio.Semaphore(CONCURRENCY)
        first, self._asked = self._asked, self._asked + len(cases)

        async def one(case: Branched, number: int) -> str | PolicyError:
            sampling = Sampling(0.7, max_tokens=EXPLAIN_TOKENS, seed=stable_seed("explain", self._seed, number))
            async with gate:
                try:
                    answer = await self._policy.generate(asking(case), sampling)
                except PolicyError as error:
                    return error
            return one_line(plain(conclusion(answer.text))).strip()

        said = await asyncio.gather(*(one(case, first + number) for number, case in enumerate(cases)))
        failures = [answer for answer in said if isinstance(answer, PolicyError)]
        if failures and len(failures) == len(said):
            raise failures[0]
        return [answer if isinstance(answer, str) else "" for answer in said]


def asking(case: Branched) -> list[Message]:
    """The messages that ask a model why the teacher's action is better; the outcomes enter as quotations."""
    outcomes = "\n".join(quote(one_line(f"{one.action} led to: {one.told}{_end(one)}")) for one in case.outcomes)
    *before, last = case.messages
    asked = ASK.format(outcomes=outcomes, action=one_line(case.expert.action))
    return [*before, Message(role="user", content=f"{last['content']}\n\n{asked}")]


def _end(outcome: Outcome) -> str:
    if not outcome.valid:
        return " (invalid)"
    return " (won)" if outcome.success else " (lost)" if outcome.done else ""


def holds(text: str, case: Branched) -> bool:
    """Whether an explanation is one: short, without tags, about the teacher's action, and true (see this module's
    head)."""
    if not text or len(text) > MAX_CHARS or "<" in text or ">" in text:
        return False
    known = " ".join(
        [*(message["content"] for message in case.messages)]
        + [part for one in case.outcomes for part in (one.action, one.told, one.seen)]
    )
    marked = _marked(text, case)
    if not _among(text, known) or "\x010\x01" not in marked:
        return False
    stated = any(_squash(one.told) in _squash(text) for one in case.outcomes)
    subject: Outcome | None = None
    for clause in CLAUSES.split(marked):
        named = [case.outcomes[int(number)] for number in sorted(set(MARK.findall(clause)))]
        verdicts = _verdicts(clause)
        if len(named) == 1:
            subject = named[0]
        elif len(named) > 1:
            subject = None
        if verdicts and subject is None:
            return False
        if subject is not None and not all(_true(kind, denied, subject) for kind, denied in verdicts):
            return False
        stated = stated or bool(verdicts)
    return stated


def _among(text: str, known: str) -> bool:
    """Whether all coordinates (with the numbers they are given) and all other numbers of a text are known ones."""
    cells = {_squash(cell) for cell in CELL.findall(known)}
    plain_cells = {cell.partition("=")[0] for cell in cells}
    if any(_squash(cell) not in (cells if "=" in cell else plain_cells) for cell in CELL.findall(text)):
        return False
    return set(NUMBER.findall(CELL.sub(" ", text))) <= set(NUMBER.findall(known))


def _marked(text: str, case: Branched) -> str:
    """The text with every action that was tried as the number of its outcome (0: the teacher's), between marks; of
    actions that begin alike the longest is meant."""
    numbers = {_squash(one.action): number for number, one in reversed(list(enumerate(case.outcomes)))}
    every = sorted({one.action for one in case.outcomes}, key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){_spelt(action)}(?!\w)" for action in every)
    return re.sub(pattern, lambda match: f"\x01{numbers[_squash(match[0])]}\x01", text, flags=re.IGNORECASE)


def _spelt(action: str) -> str:
    """A pattern for an action, whatever white space is in it."""
    return r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", action)))


def _verdicts(clause: str) -> list[tuple[str, bool]]:
    """What a clause says of its action, and whether it denies it: in a clause with a negation everything before which
    it stands."""
    found = []
    for kind, words in (("lost", LOST), ("won", WON), ("safe", SAFE), ("invalid", INVALID)):
        for match in words.finditer(clause):
            found.append((kind, bool(NOT.search(clause[: match.start()]))))
    return found


def _true(kind: str, denied: bool, outcome: Outcome) -> bool:
    fact = {
        "lost": outcome.lost,
        "won": outcome.success,
        "safe": outcome.valid and not outcome.lost,
        "invalid": not outcome.valid,
    }[kind]
    return fact != denied


def _squash(text: str) -> str:
    return "".join(text.split()).lower()
