"""PDDL's lists, with the line that each word is on, and its lists of names with types.

What must stay true: text from outside is bounded in size and depth, read without recursion, and refused with line and
reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import NoReturn

from lamer_envs.errors import InstanceError

MAX_PROBLEM_CHARS = 1_000_000
MAX_DEPTH = 40

TYPES = ("agent", "location", "receptacle", "object", "rtype", "otype")
"""The types of the ALFRED domain."""

_TOKEN = re.compile(r"[()]|[^\s()]+")


class Word(str):
    """A lower-case word of the problem that knows its line."""

    __slots__ = ("line",)
    line: int


class Form(list["Form | Word"]):
    """A parenthesised list that knows the line it opens on."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line

    @property
    def head(self) -> str:
        return self[0] if self and isinstance(self[0], Word) else ""


def bad(line: int, reason: str) -> NoReturn:
    raise InstanceError(f"PDDL problem, line {line}: {reason}")


def parse(text: str, head: str, form: str) -> Form:
    """The one outermost list of the text, which begins with `head`; `form` is what it looks like."""
    outer = Form(1)
    stack = [outer]
    number = 0
    for number, line in enumerate(text.splitlines(), start=1):
        for match in _TOKEN.finditer(line.partition(";")[0]):
            token = match[0]
            if token == "(":
                if len(stack) > MAX_DEPTH:
                    bad(number, f"lists are nested deeper than {MAX_DEPTH}")
                opened = Form(number)
                stack[-1].append(opened)
                stack.append(opened)
            elif token == ")":
                if len(stack) == 1:
                    bad(number, "a ')' closes nothing")
                stack.pop()
            else:
                word = Word(token.lower())
                word.line = number
                stack[-1].append(word)
    if len(stack) > 1:
        bad(number, f"the text ends inside the list opened on line {stack[-1].line}; a ')' is missing")
    if len(outer) != 1 or not isinstance(outer[0], Form) or outer[0].head != head:
        bad(1, f"expected one '{form}'")
    return outer[0]


def typed(items: list[Form | Word]) -> Iterator[tuple[Word, str]]:
    """The (name, type) pairs of a list such as `a b - receptacle c - object`."""
    waiting: list[Word] = []
    after_dash = False
    for item in items:
        if isinstance(item, Form):
            bad(item.line, "a list of names and types holds no lists")
        if item == "-":
            after_dash = True
        elif after_dash:
            if item not in TYPES:
                bad(item.line, f"unknown type '{item[:40]}'; the ALFRED domain has {', '.join(TYPES)}")
            for name in waiting:
                yield name, item
            waiting, after_dash = [], False
        else:
            waiting.append(item)
    if waiting:
        bad(waiting[0].line, f"'{waiting[0][:60]}' has no type; write '{waiting[0][:60]} - object' or the like")


def near(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, if any is near."""
    found = get_close_matches(word, list(known), n=1)
    return f"; did you mean '{found[0]}'?" if found else ""


def listed(types: tuple[str, ...]) -> str:
    return f"({', '.join(types)})" if types else "nothing"
