"""What `create_lamer_agent` makes of what it is given: a policy, its prompt style, a memory in a LangGraph store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from langchain_core.runnables import Runnable
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore

from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Policy
from lamer_graph.trial.prompts import PromptStyle
from lamer_graph.trial.strategies import Strategy, Thoughts
from lamer_graph.types import Sampling
from lamer_memory import MemoryConfig, StoreMemory


def kept_in(store: BaseStore, memory: str | MemoryConfig) -> MemoryConfig:
    """The memory, kept in the store. Raises ConfigError where the store would hold nothing of it."""
    config = MemoryConfig.of(memory)
    if config.contents == "none":
        raise ConfigError("store= is where memory is kept, and memory 'none' keeps nothing: leave one of them out")
    if config.backend in ("in-context", "store"):
        scope = config.scope if isinstance(memory, MemoryConfig) else "tasks"
        backend = StoreMemory(store)
        if scope == "tasks":  # when the agent is made, and not only when it first recalls
            backend.warn_without_index()
        return replace(config, backend=backend, scope=scope)
    if not isinstance(config.backend, StoreMemory) or config.backend.store is not store:
        raise ConfigError(
            f"store= and memory backend {config.to_json()['backend']} exclude each other: where is memory kept?"
        )
    return config


def taught_style(policy: Policy) -> PromptStyle:
    """The prompt style that the policy's card names, "standard" where there is none."""
    return "compact" if policy.taught.get("prompt_style") == "compact" else "standard"


def taught_strategy(policy: Policy, style: PromptStyle) -> tuple[Strategy, Thoughts]:
    """The strategy that the policy's card names, and whether it shows thoughts: "lamer" and "hidden" where it says
    nothing of it, and in prompts of another style than it was taught in."""
    taught = policy.taught if style == taught_style(policy) else {}
    strategy: Strategy = taught["strategy"] if taught.get("strategy") in get_args(Strategy) else "lamer"
    return strategy, "shown" if taught.get("thoughts") == "shown" else "hidden"


def as_policy(model: Runnable[Any, Any] | Policy, sampling: Sampling | None) -> Policy:
    """The policy, or the chat model as one. Raises ConfigError for what is neither."""
    if isinstance(model, Policy):
        return model
    if isinstance(model, Runnable) and not isinstance(model, Pregel):
        from lamer_graph.policies.chat import ChatModelPolicy, declared_fields

        return ChatModelPolicy(model, sample=sampling is not None and bool(declared_fields(model)))
    raise ConfigError(
        "model must be a LangChain chat model, a runnable that answers messages as one does, or a lamer_graph Policy, "
        f"not {type(model).__name__}"
    )
