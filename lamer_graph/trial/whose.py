"""Whose memory a trial reads and writes: a namespace that someone chose, never a default that everyone shares.

What must stay true: two different choices never name the same place, whatever the names hold: a name is one part as it
is (nothing is joined, split or converted), and no part that follows another looks like a trial's id, under which a
trial's own records lie. Where records outlive their trial nothing is played without a choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lamer_graph.errors import ConfigError
from lamer_memory.base import Namespace

HOW_TO_CHOOSE = (
    "context={'namespace': ..}, config={'configurable': {'user_id': ..}} or the agent's own namespace=, each a text "
    "such as 'acme' or several, ('acme', 'bob')"
)
_TRIAL_ID = re.compile(r"/[^/]*#\d+(@.*)?", re.DOTALL)


def as_namespace(given: Any, what: str) -> Namespace:
    """`given` as a namespace: a text is one part, a list or tuple of texts several. `what` names it in errors.

    Raises ConfigError for anything else: numbers are not made texts of (1 and "1" would be one user), and an empty
    text is an id that was never set.
    """
    parts = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple) else None
    if not parts or not all(isinstance(part, str) and part.strip() for part in parts):
        raise ConfigError(f"{what} must be a text that is not empty, or several of them, not {str(given)[:100]!r}")
    for part in parts[1:]:
        if _TRIAL_ID.search(part):
            raise ConfigError(f"{what} may not hold {part[:100]!r} after another part: it looks like the id of a trial")
    return parts


def of_user(given: Any, place: str, otherwise: Namespace | None) -> Namespace | None:
    """The namespace of the user that an invocation names at `place`, `otherwise` where it names none.

    Raises ConfigError for what is no text, or no texts.
    """
    if given is None:
        return otherwise
    if not isinstance(given, str | list | tuple):
        raise ConfigError(f"{place} must be a text, not {str(given)[:100]} of {type(given).__name__}: use str(..)")
    return as_namespace(given, place)


def owner(chosen: str | Sequence[str] | None, outlives: bool, memory: str) -> Namespace:
    """The namespace of a trial for which `chosen` was chosen, () where nothing was and none is needed.

    Raises ConfigError where its records outlive it (`memory` says which) and nobody has said whose they are.
    """
    if chosen is not None and chosen != ():
        return as_namespace(chosen, "namespace")
    if outlives:
        raise ConfigError(f"{memory} outlives its trial, and nobody has said whose it is: say so with {HOW_TO_CHOOSE}")
    return ()
