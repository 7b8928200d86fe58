"""Strategies: what a policy is asked for besides its actions, and what an episode sees of the ones before it.

What must stay true: a strategy is a choice among prompts and memories of the one trial graph, never a loop of its own:
whatever it is, an episode has as many policy calls as turns, and all of them are logged with their exact tokens.

| strategy | each turn | between episodes | source |
|---|---|---|---|
| zero_shot | acts | nothing is written, nothing remembered | |
| react | reasons, then acts | as the memory says | ReAct, arXiv 2210.03629 |
| reflexion | acts | reflections, of which the last three are shown | Reflexion, arXiv 2303.11366 |
| plan | acts; first it writes a plan, which later turns show | as the memory says; the plan is revised by it | |
| lamer | acts | as the memory says, all of it | LaMer, arXiv 2512.16848 |

A plan is part of the first turn's answer and not a call of its own. Every strategy then makes as many calls as the
others, so that what is compared is what is asked; the plan's tokens are that turn's, are logged with it, and earn what
it earns, G_0(n); and no driver, checkpoint or trainer needs to know of a third kind of call.
"""

from __future__ import annotations

from typing import Literal

from lamer_graph.errors import ConfigError
from lamer_memory import MemoryConfig

Strategy = Literal["zero_shot", "react", "reflexion", "plan", "lamer"]
Thoughts = Literal["hidden", "shown"]
"""Whether what was said before an action is shown in later turns, and so in trajectories that are remembered."""

WINDOW = 3
"""Reflections that strategy `reflexion` shows: its authors keep one to three."""


def memory_of(strategy: Strategy, memory: str | MemoryConfig | None) -> MemoryConfig:
    """The memory that was asked for, or by itself the strategy's: none for `zero_shot`, else reflections.

    Raises ConfigError for one that the strategy excludes, MemoryConfigError for what is none.
    """
    if memory is None:
        return MemoryConfig(contents="none" if strategy == "zero_shot" else "reflection")
    config = MemoryConfig.of(memory)
    check_memory(strategy, config.contents, config.scope)
    return config


def check_memory(strategy: Strategy, contents: str, scope: str) -> None:
    """Raises ConfigError for a memory that the strategy excludes."""
    if strategy == "zero_shot" and contents != "none":
        raise ConfigError(
            f"strategy 'zero_shot' and memory '{contents}' exclude each other: it writes and remembers nothing; use "
            "memory 'none', or strategy 'lamer'"
        )
    if strategy == "reflexion" and (contents != "reflection" or scope != "trial"):
        what = f"memory '{contents}'" if contents != "reflection" else f"memory of scope '{scope}'"
        raise ConfigError(
            f"strategy 'reflexion' and {what} exclude each other: it shows the last {WINDOW} reflections of the trial; "
            "use memory 'reflection' of scope 'trial', or strategy 'lamer'"
        )


def check_style(style: str, strategy: Strategy, thoughts: Thoughts = "hidden") -> None:
    """Raises ConfigError where prompts of `style` would not ask for what `strategy` wants, or not show `thoughts`."""
    asked = {"react": "no reasoning", "plan": "no plan"}
    if style == "compact" and strategy in asked:
        raise ConfigError(
            f"strategy '{strategy}' and prompt style 'compact' exclude each other: compact prompts ask for "
            f"{asked[strategy]}"
        )
    if style == "compact" and thoughts != "hidden":
        raise ConfigError(
            f"thoughts '{thoughts}' and prompt style 'compact' exclude each other: compact prompts tell turns by what "
            "they did"
        )


def window_of(strategy: Strategy) -> int | None:
    """How many of a trial's own records an episode sees, the newest; None: all."""
    return WINDOW if strategy == "reflexion" else None
