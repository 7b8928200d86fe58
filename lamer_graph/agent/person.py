"""A person's review of what is about to be remembered, by LangGraph's `interrupt()`.

What must stay true: the reflection is proposed and waits in a checkpoint, with nothing to be asked of the policy again;
what the person says is remembered as it is, as text that any store can hold.
"""

from __future__ import annotations

from typing import Literal, get_args

from langgraph.types import interrupt

from lamer_graph.agent.stops import kept
from lamer_graph.errors import ConfigError
from lamer_graph.text import plain
from lamer_graph.trial.answers import MAX_REMARK_CHARS
from lamer_graph.trial.keeping import Keeper
from lamer_graph.trial.states import Json

Review = Literal["reflection"]


def check_review(review: object, keeper: Keeper) -> None:
    """Raises ConfigError for what cannot be reviewed, and where there is nothing to review."""
    choices = get_args(Review)
    if review is not None and review not in choices:
        raise ConfigError(f"review must be None or one of {', '.join(choices)}, not {review!r}")
    if review is not None and not keeper.reflects:
        raise ConfigError(f"review= would do nothing: memory '{keeper.memory.contents}' keeps no reflections")


def reviewed(proposed: Json) -> str:
    """What a person makes of a reflection: `proposed`, which holds it, is what the interrupt carries.

    An answer that is no text is asked for again, with the `problem`. Raises ConfigError where no checkpointer would
    keep the stopped trial.
    """
    with kept():
        text = interrupt(proposed)
        while not isinstance(text, str):  # asked again: an error would leave the thread with an answer that it refuses
            problem = f"a reviewed reflection is a text, blank for none, not {str(text)[:100]} of {type(text).__name__}"
            text = interrupt({**proposed, "problem": problem})
    return plain(text).strip()[:MAX_REMARK_CHARS]
