"""Stop strings: where an answer ends, looked for as its tokens come.

What must stay true: an answer ends behind its first stop string outside of thoughts, whatever tokens the string came
in, and with the token that completed it. What is a thought is the answer's text alone to say (`thoughts`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lamer_graph.errors import ConfigError
from lamer_graph.policies.thoughts import thoughts

Decode = Callable[[Sequence[int]], str]
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""How the bytes of a character that is not whole yet are decoded."""
LONGEST_CHARACTER = 4
"""Bytes, and so tokens, of a character."""


def end_of(text: str, stops: Sequence[str], *, unfinished: bool = False) -> int | None:
    """Where the first of `stops` outside of thoughts ends; None where there is none. `unfinished`: see `thoughts`."""
    ends = [text.find(stop) for stop in stops]
    if all(begin < 0 for begin in ends):
        return None
    spans = thoughts(text, unfinished=unfinished)
    found: list[int] = []
    for stop in stops:
        begin = text.find(stop)
        while begin >= 0 and any(start < begin + len(stop) and begin < end for start, end in spans):
            begin = text.find(stop, begin + 1)
        if begin >= 0:
            found.append(begin + len(stop))
    return min(found, default=None)


def ended(text: str, stops: Sequence[str]) -> str:
    """The text up to its first stop string outside of thoughts, the string included; all of it where there is none."""
    return text[: end_of(text, stops)]


def check_stop(stops: Any) -> None:
    """Raises ConfigError for what is no tuple of texts: a single text is one of letters."""
    if not (isinstance(stops, tuple) and all(isinstance(stop, str) and stop for stop in stops)):
        raise ConfigError(f"stop must be a tuple of texts that are not empty, like ('</action>',), not {stops!r:.100}")


class Watch:
    """Watches the tokens of one answer for `stops`; `text` is the answer's once `ends` has said so."""

    __slots__ = ("_before", "_begin", "_decode", "_reach", "_read", "_stops", "_tail", "text")

    def __init__(self, stops: Sequence[str], decode: Decode) -> None:
        self.text: str | None = None
        self._stops = stops
        self._decode = decode
        # Tokens are decoded a few at a time: those from `begin` to `read` are known to say `before`.
        self._begin = self._read = 0
        self._before = ""
        self._tail = ""
        self._reach = max(map(len, stops)) - 1

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether the answer ends with the last of `tokens`, one more than at the call before."""
        said = self._decode(tokens[self._begin :])
        tail = self._tail + said[len(self._before) :]
        if not said.endswith(UNFINISHED) or len(tokens) - self._read > LONGEST_CHARACTER:
            self._begin, self._read = self._read, len(tokens)
            self._before = self._decode(tokens[self._begin :])
            self._tail = tail[-self._reach :] if self._reach else ""
        if not any(stop in tail for stop in self._stops):
            return False
        text = self._decode(tokens)
        end = end_of(text, self._stops, unfinished=True)
        self.text = None if end is None else text[:end]
        return end is not None
