"""A reflection asked for: of a chat model, or of a policy, as one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import merge_configs
from langgraph.config import get_config
from langgraph.constants import TAG_NOSTREAM

from lamer_graph.apps.attempt import ATTEMPT_METADATA
from lamer_graph.errors import PolicyError
from lamer_graph.policies.base import Policy
from lamer_graph.policies.exact import TOKENS_KEY
from lamer_graph.types import Message, Sampling


def answering(how: Policy | Runnable[Any, Any], asked: Sequence[BaseMessage], ident: str) -> Callable[[], Any]:
    """A function that asks a model or a policy for its answer, an AIMessage. `ident` tells the call from others."""

    async def of_model() -> AIMessage:
        answer = await cast(Runnable[Any, Any], how).ainvoke(
            list(asked), merge_configs(get_config(), {"metadata": {ATTEMPT_METADATA: ident}, "tags": [TAG_NOSTREAM]})
        )
        if not isinstance(answer, AIMessage):
            raise PolicyError(f"reflect= answered with a {type(answer).__name__} and not with a message")
        return answer

    async def of_policy() -> AIMessage:
        policy = cast(Policy, how)
        told = [Message(role="system" if m.type == "system" else "user", content=str(m.content)) for m in asked]
        done = await policy.generate(told, Sampling())
        tokens = {
            "prompt_token_ids": list(done.prompt_token_ids),
            "token_ids": list(done.token_ids),
            "logprobs": list(done.logprobs),
            "policy_version": done.policy_version,
        }
        return AIMessage(done.text, response_metadata={TOKENS_KEY: tokens, "finish_reason": done.finish_reason})

    return of_policy if isinstance(how, Policy) else of_model
