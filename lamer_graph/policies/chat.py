"""Any LangChain chat model as a policy: for embedding the agent and for evaluation, never for training.

What must stay true: a completion carries text and no tokens, so its call is logged as not trainable; every failure is a
PolicyError, bounded in time; the caller's callbacks (tracing, token streaming) see the call as LangChain's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.messages.utils import count_tokens_approximately

from lamer_graph.errors import PolicyConnectionError, PolicyError, PolicyResponseError
from lamer_graph.policies.base import Policy
from lamer_graph.text import plain
from lamer_graph.types import Completion, Message, Sampling

TIMEOUT_S = 120.0
SAMPLING_FIELDS = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_tokens", "seed": "seed"}
"""Sampling field -> the chat model's own field of the same meaning. Only what a model declares is set: an unknown
keyword would be an error with some providers and silently ignored by others."""

_MESSAGES: dict[str, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}


class ChatModelPolicy(Policy):
    """A LangChain chat model that plays.

    `context_window` (prompt plus completion tokens) makes long prompts be trimmed, by an approximate count of four
    characters a token; without it prompts are sent as they are. `sample=True` passes temperature, top_p, max_tokens and
    seed to a model that declares these fields; with False the model keeps its own settings. Retries are the model's
    own (`max_retries` of most chat models).
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        context_window: int | None = None,
        sample: bool = False,
        timeout: float = TIMEOUT_S,
    ) -> None:
        self.chat_model = model
        self.context_window = context_window
        self.version = _name_of(model)
        self._timeout = timeout
        declared = type(model).model_fields
        self._fields = {ours: theirs for ours, theirs in SAMPLING_FIELDS.items() if sample and theirs in declared}

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One completion without tokens. Raises PolicyConnectionError after the timeout, PolicyError otherwise."""
        prompt = [_MESSAGES[message["role"]](plain(message["content"])) for message in messages]
        settings = {theirs: getattr(sampling, ours) for ours, theirs in self._fields.items()}
        try:
            answer = await asyncio.wait_for(self.chat_model.ainvoke(prompt, **settings), self._timeout)
        except TimeoutError:
            raise PolicyConnectionError(f"chat model {self.version} did not answer in {self._timeout:g} s") from None
        except Exception as error:  # every provider has errors of its own; none of them is ours to know
            raise PolicyError(
                f"chat model {self.version} failed: {type(error).__name__}: {str(error)[:500]}"
            ) from error
        if not isinstance(answer, AIMessage):
            raise PolicyResponseError(f"chat model {self.version} answered with a {type(answer).__name__}")
        return Completion(_text_of(answer), [], [], [], self.version, _finish_of(answer.response_metadata))

    def as_sent(self, sampling: Sampling) -> dict[str, Any]:
        """What of `sampling` the chat model is told; the rest are its own settings, unknown here."""
        return {name: value if name in self._fields else None for name, value in sampling.to_json().items()}

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """An approximation (LangChain's, about four characters a token): chat models have no common tokenizer."""
        return count_tokens_approximately([_MESSAGES[m["role"]](m["content"]) for m in messages])


def _name_of(model: BaseChatModel) -> str:
    for field in ("model_name", "model"):
        value = getattr(model, field, None)
        if isinstance(value, str) and value:
            return value
    return type(model).__name__


def _text_of(answer: AIMessage) -> str:
    """The text of an answer; blocks that are no text (thinking, tool calls) are left out."""
    if isinstance(answer.content, str):
        return answer.content
    blocks = [b if isinstance(b, str) else str(b.get("text", "")) for b in answer.content]
    return "".join(blocks)


def _finish_of(metadata: Mapping[str, Any]) -> str:
    for field in ("finish_reason", "stop_reason"):
        if isinstance(metadata.get(field), str):
            return str(metadata[field])
    return "stop"
