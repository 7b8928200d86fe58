"""Policies made of functions, for tests that are about everything but the model."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence

from lamer_graph.policies.base import Policy
from lamer_graph.types import Completion, Message, Sampling

DICE = Sampling(seed=0)
"""Where what is played must be the same every time: without a seed every trial draws its own."""
Answer = Callable[[Sequence[Message], Sampling], str]


class ScriptedPolicy(Policy):
    """Answers with `answer(messages, sampling)`; tokens are the characters' code points, one for each character."""

    def __init__(self, answer: Answer, *, delay: float = 0.0, window: int | None = None) -> None:
        self.answer = answer
        self.delay = delay
        self.context_window = window
        self.seen: list[list[Message]] = []
        self.samplings: list[Sampling] = []

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.seen.append(list(messages))
        self.samplings.append(sampling)
        if self.delay:
            await asyncio.sleep(self.delay)
        text = self.answer(messages, sampling)
        tokens = [ord(c) for c in text]
        return Completion(text, [1, 2, 3], tokens, [-0.5] * len(tokens), "policy-v0000", "stop")

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(m["content"]) for m in messages)


def is_reflection(messages: Sequence[Message]) -> bool:
    return "<remark>" in messages[-1]["content"] or messages[-1]["content"].endswith("Remark")


def random_player(messages: Sequence[Message], sampling: Sampling) -> str:
    """Opens a random cell of a 4x4 board, drawn from the call's own seed; reflects with a number from that seed."""
    rng = random.Random(sampling.seed)
    if is_reflection(messages):
        return f"<remark>note {rng.randrange(10**6)}</remark>"
    return f"<action>({rng.randint(1, 4)}, {rng.randint(1, 4)})</action>"


def planner(messages: Sequence[Message], sampling: Sampling) -> str:
    """`random_player` that thinks aloud, and plans where it is asked to, with a number from the call's own seed."""
    asked = "<plan>your plan</plan>" in messages[-1]["content"]
    plan = f"<plan>plan {random.Random(sampling.seed).randrange(10**6)}</plan>" if asked else ""
    return f"<think>Is it <action>(9, 9)</action>?</think>I will see. {plan}{random_player(messages, sampling)}"


def cautious_player(messages: Sequence[Message], sampling: Sampling) -> str:
    """`random_player` that opens closed cells only, of a standard prompt's board: it solves some tasks."""
    if is_reflection(messages):
        return random_player(messages, sampling)
    board = messages[-1]["content"].rpartition("You see:\n")[2].partition("\n\n")[0].replace("> ", "")
    rows = enumerate(board.splitlines(), start=1)
    closed = [(row, column) for row, line in rows for column, cell in enumerate(line.split(), start=1) if cell == "?"]
    row, column = random.Random(sampling.seed).choice(closed)
    return f"<action>({row}, {column})</action>"


def memory_lines(text: str) -> list[str]:
    """The quoted memory lines of a standard prompt."""
    return re.findall(r"^> (.*)$", re.split(r"^## (?:Turn |\(\d+ earlier turns )", text, flags=re.M)[0], flags=re.M)
