"""What a server's refusal (400, 422) teaches about the requests that it takes.

What must stay true: a call goes on without a field only where that changes nothing that was asked for (a number at its
neutral value, any seed), and what somebody asked for is never dropped in silence. What is learnt holds for later calls
once a call has succeeded with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from lamer_graph.types import Sampling

NEUTRAL: dict[str, float] = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Fields that OpenAI's API lacks, and the values that change nothing. A generation config may hold others."""
LEAVE_OUT: dict[str, float | None] = {**NEUTRAL, "temperature": 1.0, "top_p": 1.0, "seed": None, "stop": None}
"""What an evaluation may go on without where the server names it as the reason for a refusal: a number that changes
nothing, any seed, and stop strings: who reads the answer ends it there."""
OLD_LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
"""The two names of the answer's length in OpenAI's API."""

_LACKS = re.compile(
    r"unrecogni[sz]ed|unknown|unsupported (parameter|argument|field)|not supported|unexpected|deprecated|"
    r"\bextra\b|extra_forbidden|not (permitted|allowed|found)|cannot find|no such",
    re.IGNORECASE,
)
"""Of a field that is not there; what is said of its value (`must be at least 1, got 0`) is another thing."""
_ROLE = re.compile(
    r"\bsystem\W+(role|message|prompt)|role\W+system\b|['\"`]system\b|roles? must alternate", re.IGNORECASE
)
"""As the templates of Gemma and old Mistral say it, and OpenAI of its models without a system role."""


@dataclass(frozen=True)
class Dialect:
    """What a server takes: `left_out` are fields that it is not sent at their neutral value, `lacks` those that it has
    not, `limit` what it calls the answer's length, `folded` whether the system's words go into the user's message."""

    left_out: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    limit: str = OLD_LIMIT
    folded: bool = False

    def merged(self, other: Dialect) -> Dialect:
        """What both have learnt: calls learn at the same time."""
        return Dialect(
            self.left_out | other.left_out,
            self.lacks | other.lacks,
            NEW_LIMIT if NEW_LIMIT in (self.limit, other.limit) else OLD_LIMIT,
            self.folded or other.folded,
        )

    def unsent(self, body: dict[str, Any]) -> frozenset[str]:
        """The fields of `body` that are left out of it."""
        return self.left_out & spare(body)

    def renamed(self, words: str) -> Dialect | None:
        """With the newer name of the answer's length, if the refusal in these `words` asks for it."""
        if self.limit == NEW_LIMIT or not (NEW_LIMIT in words or (_names(words, OLD_LIMIT) and _LACKS.search(words))):
            return None
        return replace(self, limit=NEW_LIMIT)

    def without(self, words: str, body: dict[str, Any]) -> Dialect | None:
        """Without the fields of `body` that the refusal names, or all that OpenAI's API lacks; None where nothing can
        be left out, or where it would change what was asked for."""
        free = spare(body)
        named = named_in(words, body)
        left = named or free & NEUTRAL.keys()
        if not left or not left <= free:
            return None
        lacks = left if not named or _LACKS.search(words) else frozenset()
        return replace(self, left_out=self.left_out | left, lacks=self.lacks | lacks)

    def unheeded(self, sampling: Sampling) -> list[str]:
        """The fields of `sampling` that ask for something and are not there; any seed may be missing."""
        asked = sampling.to_json()
        return [name for name in asked if name in self.lacks and name not in spare(asked)]


def spare(body: dict[str, Any]) -> frozenset[str]:
    """The fields of a request, or a sampling, without which the answers are of the same distribution."""
    return frozenset(name for name, value in LEAVE_OUT.items() if name in body and value in (None, body[name]))


def named_in(words: str, body: dict[str, Any]) -> frozenset[str]:
    """The fields of `body` that bend the distribution and that a refusal names."""
    return frozenset(name for name in LEAVE_OUT if name in body and _names(words, name))


def lacking(words: str) -> bool:
    """Whether a refusal is of fields that are not there, not of their values."""
    return _LACKS.search(words) is not None


def of_system_role(words: str) -> bool:
    """Whether a refusal is of messages whose role is `system`."""
    return _ROLE.search(words) is not None


def cannot_be_had(names: list[str], sampling: Sampling) -> str:
    """What was asked for in vain, and what to ask for instead, in one line."""
    asked = " and ".join(f"{name} {getattr(sampling, name):g}" for name in names)
    instead = " and ".join(f"{name} {LEAVE_OUT[name]:g}" for name in names)
    return f"{asked} cannot be had from this server; use {instead} (--sampling train)"


def _names(words: str, field: str) -> bool:
    return re.search(rf"\b{field}\b", words) is not None
