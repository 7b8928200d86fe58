"""Any Policy as a LangChain chat model: for agents that are trained in this process, or play a policy without a server
that knows tools.

What must stay true: a message holds the exact tokens of its call (`exact`), and the messages that the policy really
read where they are asked for; a call's seed depends on the run's, the attempt and what was asked alone, so a step that
runs again draws the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict

from lamer_graph.apps.attempt import ATTEMPT_METADATA
from lamer_graph.apps.tool_text import chat_of, read, said_first
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Policy, run_sync
from lamer_graph.policies.exact import RAW_KEY, TOKENS_KEY
from lamer_graph.policies.tool_form import CALL, CALLED
from lamer_graph.types import Message, Sampling, stable_seed


class PolicyChat(BaseChatModel):
    """`policy` as a chat model. Tools are told of as its chat template does where that has a form for them that is
    read here (Hermes' and Qwen's), else in words of ours (see `tool_text`). `keep_messages` notes in every answer's
    tokens what the policy read, for a log that is trained on."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    policy: Policy
    sampling: Sampling = Sampling()
    keep_messages: bool = False
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def _llm_type(self) -> str:
        return "lamer-policy"

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **_: Any) -> PolicyChat:
        """The same with tools, in any form that LangChain takes. Raises ConfigError for a `tool_choice`, which text
        cannot promise."""
        if tool_choice not in (None, "auto"):
            raise ConfigError("a policy calls tools in text and cannot be made to choose one: leave tool_choice out")
        return self.model_copy(update={"tools": tuple(convert_to_openai_tool(tool) for tool in tools)})

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **settings: Any
    ) -> ChatResult:
        return run_sync(self._agenerate(messages, stop, run_manager, **settings))

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        control = self.policy.control_tokens | {CALL, CALLED}
        form = self.policy.tool_form(said_first(messages, control), self.tools) if self.tools else None
        chat = chat_of(messages, self.tools, control, RAW_KEY, form)
        attempt = "" if run_manager is None else (run_manager.metadata or {}).get(ATTEMPT_METADATA, "")
        seed = stable_seed(self.sampling.seed or 0, attempt, *(f"{m['role']}:{m['content']}" for m in chat))
        sampling = self.sampling.with_seed(seed)
        done = await self.policy.generate(chat, sampling.with_stop(*stop) if stop else sampling)
        tokens: dict[str, Any] = {
            "prompt_token_ids": list(done.prompt_token_ids),
            "token_ids": list(done.token_ids),
            "logprobs": list(done.logprobs),
            "policy_version": done.policy_version,
            "seed": seed,
            "sampling": self.policy.as_sent(sampling),
        }
        if self.keep_messages:
            tokens["messages"] = chat
        metadata = {TOKENS_KEY: tokens, RAW_KEY: done.text, "finish_reason": done.finish_reason}
        answer = AIMessage(**read(done.text, f"call-{seed:x}"), response_metadata=metadata, id=f"lamer-{seed:x}")
        return ChatResult(generations=[ChatGeneration(message=answer)])


def messages_of(tokens: Any) -> list[Message] | None:
    """What the policy read for an answer, where its tokens say so."""
    found = tokens.get("messages") if isinstance(tokens, dict) else None
    return found if isinstance(found, list) else None
