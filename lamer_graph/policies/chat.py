"""Any LangChain chat model as a policy: for embedding the agent and for evaluation, never for training.

What must stay true: a completion carries text and no tokens, so its call is logged as not trainable; every failure is a
PolicyError, bounded in time; the caller's configuration (callbacks, tags, configurable fields) reaches the model as in
any LangChain call; and of a sampling that is asked for, what a model cannot take is named, never dropped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables import Runnable, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import ensure_config
from langchain_core.runnables.configurable import DynamicRunnable, RunnableConfigurableAlternatives

from lamer_graph.errors import ConfigError, PolicyConnectionError, PolicyError, PolicyResponseError
from lamer_graph.policies.base import Policy
from lamer_graph.text import plain
from lamer_graph.types import Completion, Message, Sampling

TIMEOUT_S = 120.0
SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "max_tokens", "seed")
"""Fields of a Sampling that chat models have under the same name. Only what a model declares is passed: an unknown
keyword would be an error with some providers and silently ignored by others."""
OFF = {"top_p": 1.0, "top_k": 0}
"""What cuts nothing. It is not passed to a model that cuts nothing by itself: some providers refuse even that."""
UNSAID = Sampling()

_MESSAGES: dict[str, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}


class ChatModelPolicy(Policy):
    """A LangChain chat model that plays, as it is or inside other runnables (`with_retry`, `bind`, `with_fallbacks`,
    configurable fields): whatever takes messages and answers with one.

    `context_window` (prompt plus completion tokens) makes long prompts be trimmed, by an approximate count of four
    characters a token; without it prompts are sent as they are. `sample=True` passes the sampling's fields to a model
    that declares them (`unheeded` names the others); with False the model keeps its own settings. Retries are the
    model's own (`max_retries` of most chat models, or `with_retry`).
    """

    opens_runs = True

    def __init__(
        self,
        model: Runnable[Any, Any],
        *,
        context_window: int | None = None,
        sample: bool = False,
        timeout: float = TIMEOUT_S,
    ) -> None:
        if timeout <= 0 or (context_window is not None and context_window < 1):
            raise ConfigError("timeout must be > 0 and context_window at least 1")
        self.chat_model = model
        self.context_window = context_window
        self._timeout = timeout
        models = _chat_models(model)
        self.version = _name_of(models[0]) if models else type(model).__name__
        # Which of several answered only the answer can tell; where it does not, any of them may have been it.
        self._answerer = " or ".join(dict.fromkeys(_name_of(m) for m in models)) or self.version
        self._fields = declared_fields(model) if sample else []
        if sample and not self._fields:
            raise ConfigError(
                f"sample=True passes sampling on, and {self.version} declares none of {', '.join(SAMPLING_FIELDS)}: "
                "set them on the model itself"
            )
        self._cuts = {field for field in OFF for m in models if getattr(m, field, None) not in (None, OFF[field])}

    def unheeded(self, sampling: Sampling) -> list[str]:
        """The fields of the sampling that ask for something and are not passed on."""
        asked = [field for field in SAMPLING_FIELDS if (getattr(sampling, field) or 0) != (getattr(UNSAID, field) or 0)]
        return [field for field in asked if field not in self._fields] + super().unheeded(sampling)

    def identity(self) -> dict[str, Any]:
        """The model's name and a hash of the parameters that LangChain knows it by, of all models that may answer."""
        known = [
            [type(model).__name__, _plain_of(model._identifying_params)] for model in _chat_models(self.chat_model)
        ]
        digest = hashlib.blake2b(json.dumps(known, sort_keys=True).encode(), digest_size=8).hexdigest()
        return {"chat": self.version, "parameters": digest}

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One completion without tokens. Raises PolicyConnectionError after the timeout, PolicyError otherwise.

        Its policy version is the model that the provider says has answered, where it says so, else the
        models that may have.
        """
        prompt = [_MESSAGES[message["role"]](plain(message["content"])) for message in messages]
        settings = {
            field: value
            for field in self._fields
            if (value := getattr(sampling, field)) != OFF.get(field) or field in self._cuts
        }
        try:
            # The configuration of the run around us is handed over by hand: not every runnable looks for it itself.
            asked = self.chat_model.ainvoke(prompt, ensure_config(), **settings)
            answer = await asyncio.wait_for(asked, self._timeout)
        except TimeoutError:
            raise PolicyConnectionError(f"chat model {self._answerer} did not answer in {self._timeout:g} s") from None
        except Exception as error:  # every provider has errors of its own; none of them is ours to know
            reason = f": {said}" if (said := str(error)[:500].strip()) else ", and gave no reason"
            raise PolicyError(f"chat model {self._answerer} failed: {type(error).__name__}{reason}") from error
        if not isinstance(answer, AIMessage):
            raise PolicyResponseError(
                f"chat model {self._answerer} answered with a {type(answer).__name__} and not with a message"
            )
        metadata = answer.response_metadata
        who, thoughts = _answered(metadata) or self._answerer, _thoughts_of(answer)
        return Completion(_text_of(answer), [], [], [], who, _finish_of(metadata), thoughts)

    def as_sent(self, sampling: Sampling) -> dict[str, Any]:
        """What of `sampling` the chat model is told; the rest are its own settings, unknown here."""
        return {name: value if name in self._fields else None for name, value in sampling.to_json().items()}

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """An approximation (LangChain's, about four characters a token): chat models have no common tokenizer."""
        return count_tokens_approximately([_MESSAGES[m["role"]](m["content"]) for m in messages])


def declared_fields(model: Runnable[Any, Any]) -> list[str]:
    """The sampling fields that every chat model in `model` declares; none where no chat model shows."""
    models = _chat_models(model)
    return [field for field in SAMPLING_FIELDS if models and all(field in type(m).model_fields for m in models)]


def _chat_models(model: Runnable[Any, Any]) -> list[BaseChatModel]:
    """The chat models that may answer, the first choice first; none where a runnable does not show what is in it."""
    if isinstance(model, BaseChatModel):
        return [model]
    inside: list[Any] = []
    if isinstance(model, RunnableBindingBase):  # bind, with_config, with_retry
        inside = [model.bound]
    elif isinstance(model, RunnableWithFallbacks):
        inside = list(model.runnables)
    elif isinstance(model, RunnableConfigurableAlternatives):
        # An alternative may be a function that makes the model when it is chosen.
        inside = [model.default, *model.alternatives.values()]
    elif isinstance(model, DynamicRunnable):
        inside = [model.default]
    elif isinstance(model, RunnableSequence):
        inside = [model.first]
    found = [_chat_models(one) if isinstance(one, Runnable) else [] for one in inside]
    return [one for models in found for one in models] if all(found) else []


def _plain_of(value: Any) -> Any:
    """What of a value is JSON; the rest (clients, callables) says nothing in another process."""
    if isinstance(value, Mapping):
        return {str(key): _plain_of(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_of(one) for one in value]
    return value if isinstance(value, str | int | float) else None


def _name_of(model: BaseChatModel) -> str:
    for field in ("model_name", "model"):
        value = getattr(model, field, None)
        if isinstance(value, str) and value:
            return value
    return type(model).__name__


def _answered(metadata: Mapping[str, Any]) -> str | None:
    """The model that answered, by the provider's own account."""
    for field in ("model_name", "model"):
        if isinstance(metadata.get(field), str) and metadata[field]:
            return str(metadata[field])
    return None


def _text_of(answer: AIMessage) -> str:
    """The text of an answer; blocks that are no text (thinking, tool calls) are left out."""
    if isinstance(answer.content, str):
        return answer.content
    blocks = [b if isinstance(b, str) else str(b.get("text", "")) for b in answer.content]
    return "".join(blocks)


def _thoughts_of(answer: AIMessage) -> str:
    """The words of blocks that are thoughts, in LangChain's standard form or Anthropic's; what is hidden has none."""
    found: list[str] = []
    for block in cast(list[dict[str, Any]], answer.content_blocks):
        if block["type"] == "non_standard":
            found.append(str(block["value"].get("thinking") or ""))
        elif block["type"] == "reasoning":
            told = [str(part.get("text") or "") for part in block.get("summary", ()) if isinstance(part, Mapping)]
            found += [str(block.get("reasoning") or ""), *told]
    return "\n".join(filter(None, found))


def _finish_of(metadata: Mapping[str, Any]) -> str:
    for field in ("finish_reason", "stop_reason"):
        if isinstance(metadata.get(field), str):
            return str(metadata[field])
    return "stop"
