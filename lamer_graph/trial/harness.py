"""What a trial is played with: environment, policy, prompts, memory, budgets; checked before anything is played.

What must stay true: handles live here and never in a state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lamer_envs.base import Env
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Policy
from lamer_graph.policies.stopping import check_stop
from lamer_graph.trial.answers import ACTION_TAG, REMARK_TAG
from lamer_graph.trial.keeping import Keeper
from lamer_graph.trial.prompt_texts import STANDARD, PromptTexts
from lamer_graph.trial.prompts import ActionLists, PromptBuilder, PromptStyle
from lamer_graph.trial.strategies import Strategy, Thoughts, memory_of
from lamer_graph.types import Sampling
from lamer_memory import MemoryConfig

Stop = Literal["auto", "never"]
"""Whether an answer ends at the closing tag that its prompt asks for: in standard prompts, or never. What stands behind
the tag is not read; small policies that were taught compact prompts end their answers by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness(Keeper):
    """What a trial is played with. Handles live here, never in a state."""

    env: Env
    policy: Policy
    prompts: PromptBuilder
    sampling: Sampling
    max_episodes: int
    max_turns: int
    stop: Stop = "auto"

    def sampling_of(self, seed: int, tag: str) -> Sampling:
        """How a call draws that is answered between `tag` and its closing one."""
        drawn = self.sampling.with_seed(seed)
        return drawn.with_stop(f"</{tag}>") if self.stops else drawn

    @property
    def asked(self) -> Sampling:
        """How the trial's calls draw, as a log says it."""
        return (
            self.sampling.with_stop(*(f"</{tag}>" for tag in (ACTION_TAG, REMARK_TAG))) if self.stops else self.sampling
        )

    @property
    def stops(self) -> bool:
        """Whether answers end at their closing tag."""
        return self.stop == "auto" and self.prompts.style == "standard" and self.policy.stops


def make_harness(
    policy: Policy,
    env: Env,
    memory: str | MemoryConfig | None = None,
    *,
    max_episodes: int = 3,
    max_turns: int | None = None,
    prompt_style: PromptStyle = "standard",
    strategy: Strategy = "lamer",
    sampling: Sampling | None = None,
    history: int | None = None,
    actions: ActionLists = "auto",
    thoughts: Thoughts = "hidden",
    texts: PromptTexts = STANDARD,
    stop: Stop = "auto",
) -> Harness:
    """A checked Harness; `history` bounds the turns of the current episode that a prompt shows (all if None);
    `actions`, `thoughts` and `texts` as in `PromptBuilder`. `memory` is by itself the strategy's: none for "zero_shot",
    else reflections.

    Raises ConfigError (or MemoryConfigError) for what cannot be played.
    """
    for name, value in (("max_episodes", max_episodes), ("max_turns", max_turns), ("history", history)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
    if sampling is not None and not isinstance(sampling, Sampling):
        raise ConfigError(f"sampling must be a Sampling, such as Sampling(seed=1), not a {type(sampling).__name__}")
    if sampling is not None:
        check_stop(sampling.stop)
    if sampling is not None and policy.unheeded(sampling):
        raise ConfigError(policy.why_unheeded(sampling))
    if stop not in get_args(Stop):
        raise ConfigError(f"unknown stop '{stop}'; choose one of: {', '.join(get_args(Stop))}")
    turns = env.max_turns if max_turns is None else max_turns
    prompts = PromptBuilder(
        env,
        style=prompt_style,
        max_episodes=max_episodes,
        max_turns=turns,
        strategy=strategy,
        history=history,
        actions=actions,
        thoughts=thoughts,
        texts=texts,
        control=policy.control_tokens,
    )
    config = memory_of(strategy, memory)
    return Harness(
        env=env,
        policy=policy,
        prompts=prompts,
        memory=config,
        backend=config.open(),
        sampling=Sampling() if sampling is None else sampling,
        max_episodes=max_episodes,
        max_turns=turns,
        stop=stop,
    )
