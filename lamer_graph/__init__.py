"""Language agents that learn from their own failed attempts: LaMer's trial as a LangGraph state machine.

`create_lamer_agent` makes the agent, a `Policy` plays it, a `RunLog` keeps what training needs. Importing this package
loads neither torch nor a server; each name below is imported from its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamer_graph.agent import create_lamer_agent as create_lamer_agent
    from lamer_graph.agent.invocation import LamerContext as LamerContext
    from lamer_graph.apps.grading import Grade as Grade
    from lamer_graph.apps.memory_tools import memory_tools as memory_tools
    from lamer_graph.apps.once import once as once
    from lamer_graph.apps.retries import with_retries as with_retries
    from lamer_graph.apps.tasks import task_agent as task_agent
    from lamer_graph.collection.collect import collect as collect
    from lamer_graph.collection.config import CollectConfig as CollectConfig
    from lamer_graph.errors import LamerError as LamerError
    from lamer_graph.evaluation.evaluate import evaluate as evaluate
    from lamer_graph.policies.base import Policy as Policy
    from lamer_graph.policies.chat import ChatModelPolicy as ChatModelPolicy
    from lamer_graph.policies.lamer_chat import LamerChat as LamerChat
    from lamer_graph.policies.local import LocalPolicy as LocalPolicy
    from lamer_graph.policies.openai import OpenAIPolicy as OpenAIPolicy
    from lamer_graph.runlog import RunLog as RunLog
    from lamer_graph.runlog.recording import TrialRecorder as TrialRecorder
    from lamer_graph.serving.vllm import VllmServer as VllmServer
    from lamer_graph.trial.prompt_texts import PromptTexts as PromptTexts
    from lamer_graph.types import Completion as Completion
    from lamer_graph.types import Message as Message
    from lamer_graph.types import Sampling as Sampling
    from lamer_memory import MemoryConfig as MemoryConfig

_HOMES = {
    "ChatModelPolicy": "lamer_graph.policies.chat",
    "CollectConfig": "lamer_graph.collection.config",
    "Completion": "lamer_graph.types",
    "Grade": "lamer_graph.apps.grading",
    "LamerChat": "lamer_graph.policies.lamer_chat",
    "LamerContext": "lamer_graph.agent.invocation",
    "LamerError": "lamer_graph.errors",
    "LocalPolicy": "lamer_graph.policies.local",
    "MemoryConfig": "lamer_memory",
    "Message": "lamer_graph.types",
    "OpenAIPolicy": "lamer_graph.policies.openai",
    "Policy": "lamer_graph.policies.base",
    "PromptTexts": "lamer_graph.trial.prompt_texts",
    "RunLog": "lamer_graph.runlog",
    "Sampling": "lamer_graph.types",
    "TrialRecorder": "lamer_graph.runlog.recording",
    "VllmServer": "lamer_graph.serving.vllm",
    "collect": "lamer_graph.collection.collect",
    "create_lamer_agent": "lamer_graph.agent",
    "evaluate": "lamer_graph.evaluation.evaluate",
    "memory_tools": "lamer_graph.apps.memory_tools",
    "once": "lamer_graph.apps.once",
    "task_agent": "lamer_graph.apps.tasks",
    "with_retries": "lamer_graph.apps.retries",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lamer_graph' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
