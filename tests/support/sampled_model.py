"""A LangChain chat model that declares the usual sampling fields, and keeps what each call asked of it."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field


class Sampled(BaseChatModel):
    """Plays (1, 1); `says` is the model's name by the provider's account."""

    model_name: str = "sampled-1"
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    says: str = ""
    given: list[Any] = Field(default_factory=list)
    stops: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "sampled"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.given.append(kwargs)
        self.stops.append(stop)
        metadata = {"model_name": self.says} if self.says else {}
        message = AIMessage("<action>(1, 1)</action>", response_metadata=metadata)
        return ChatResult(generations=[ChatGeneration(message=message)])
