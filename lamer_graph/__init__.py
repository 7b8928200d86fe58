"""Language agents that learn from their own failed attempts: LaMer's trial as a LangGraph state machine.

`create_lamer_agent` makes the agent, a `Policy` plays it, a `RunLog` keeps what training needs. Importing this package
loads neither torch nor a server; each name below is imported from its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamer_graph.agent import LamerContext as LamerContext
    from lamer_graph.agent import create_lamer_agent as create_lamer_agent
    from lamer_graph.chat_policy import ChatModelPolicy as ChatModelPolicy
    from lamer_graph.collect import CollectConfig as CollectConfig
    from lamer_graph.errors import LamerError as LamerError
    from lamer_graph.local_policy import LocalPolicy as LocalPolicy
    from lamer_graph.openai_policy import OpenAIPolicy as OpenAIPolicy
    from lamer_graph.policy import Policy as Policy
    from lamer_graph.recording import TrialRecorder as TrialRecorder
    from lamer_graph.runlog import RunLog as RunLog
    from lamer_graph.serve import VllmServer as VllmServer
    from lamer_graph.types import Completion as Completion
    from lamer_graph.types import Message as Message
    from lamer_graph.types import Sampling as Sampling
    from lamer_memory import MemoryConfig as MemoryConfig

# `collect` and `evaluate` are not here: a loaded submodule hides a function of its name (import them from there).
_HOMES = {
    "ChatModelPolicy": "lamer_graph.chat_policy",
    "CollectConfig": "lamer_graph.collect",
    "Completion": "lamer_graph.types",
    "LamerContext": "lamer_graph.agent",
    "LamerError": "lamer_graph.errors",
    "LocalPolicy": "lamer_graph.local_policy",
    "MemoryConfig": "lamer_memory",
    "Message": "lamer_graph.types",
    "OpenAIPolicy": "lamer_graph.openai_policy",
    "Policy": "lamer_graph.policy",
    "RunLog": "lamer_graph.runlog",
    "Sampling": "lamer_graph.types",
    "TrialRecorder": "lamer_graph.recording",
    "VllmServer": "lamer_graph.serve",
    "create_lamer_agent": "lamer_graph.agent",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lamer_graph' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
