"""A LangChain chat model over an OpenAI-compatible server that keeps the exact tokens of what it said.

What must stay true: the tokens and logprobs of a message are those that the server sampled, whole, or there are none:
they ride in `response_metadata["lamer"]`, and so in every checkpoint and transcript. Everything else is
`langchain-openai`'s: tools, structured output, streaming, retries.
"""

from __future__ import annotations

import asyncio
import os
from contextvars import ContextVar
from typing import Any
from urllib.request import getproxies
from weakref import WeakKeyDictionary

import httpx2
import openai
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import SecretStr, model_validator

from lamer_graph.errors import MissingLibraryError
from lamer_graph.policies.address import read_address
from lamer_graph.policies.exact import DRAWN, TOKENS_KEY, part_of, tokens_of
from lamer_graph.policies.refusals import NEUTRAL
from lamer_graph.policies.tool_calls import readable

try:
    from langchain_openai import ChatOpenAI
except ImportError as error:
    raise MissingLibraryError(
        f"LamerChat stands on langchain-openai, which is not here ({error}): pip install 'lamer-graph[apps]'"
    ) from error

_SAMPLING: ContextVar[dict[str, Any] | None] = ContextVar("lamer_sampling", default=None)
"""How the answer of the request under way is drawn: what makes a message of it is not told the request."""
TIMEOUT_S = 120.0
API_KEY = "LAMER_API_KEY"


class LamerChat(ChatOpenAI):
    """A model of a vLLM server (`lamer-graph serve`) for LangChain agents, whose calls can be trained on.

    `LamerChat("http://127.0.0.1:8000", "trained")` is a chat model like ChatOpenAI, which it is: `bind_tools` (serve
    with `--enable-auto-tool-choice --tool-call-parser`), `with_structured_output`, streaming. Its answers hold
    `response_metadata["lamer"]` = {"prompt_token_ids", "token_ids", "logprobs", "policy_version", "sampling"}; a
    server that is no vLLM gives no tokens, and then there is no such key. Sampling is that of training unless it is
    said otherwise: temperature 1, nothing cut. `api_key` defaults to the environment variable LAMER_API_KEY.

    Raises ConfigError for a malformed address, MissingLibraryError without `langchain-openai`.
    """

    exact: bool = True
    """Ask for tokens; False for a server that refuses vLLM's fields."""

    def __init__(self, base_url: str | None = None, model: str | None = None, **settings: Any) -> None:
        if base_url is not None:
            place = read_address(base_url)
            settings["base_url"] = place.api
            if not (place.trust_env and getproxies()):
                settings.setdefault("http_client", openai.DefaultHttpxClient(trust_env=False))
                settings.setdefault("http_async_client", openai.DefaultAsyncHttpxClient(transport=_OfEveryLoop()))
        if model is not None:
            settings["model"] = model
        super().__init__(**settings)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        """What ChatOpenAI would take from OpenAI's own environment, or leave to the server."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if "api_key" not in values and "openai_api_key" not in values:
            values["api_key"] = SecretStr(os.environ.get(API_KEY) or "none")
        values.setdefault("use_responses_api", False)
        values.setdefault("temperature", 1.0)
        values.setdefault("top_p", 1.0)
        if not {"timeout", "request_timeout"} & values.keys():
            values["timeout"] = TIMEOUT_S
        if values.get("exact", True):
            values["extra_body"] = {**NEUTRAL, **(values.get("extra_body") or {}), "return_token_ids": True}
            values.setdefault("logprobs", True)
            values.setdefault("stream_usage", True)  # it says how many tokens there were, and so whether all came
        return values

    @property
    def _llm_type(self) -> str:
        return "lamer-chat"

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return False

    def _get_request_payload(self, input_: Any, *, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(input_, stop=stop, **kwargs)
        sent = {**payload, **(payload.get("extra_body") or {})}
        sent["max_tokens"] = sent.get("max_completion_tokens", sent.get("max_tokens"))
        _SAMPLING.set({name: sent[name] for name in DRAWN if sent.get(name) is not None})
        return payload

    def _create_chat_result(self, response: Any, generation_info: dict[str, Any] | None = None) -> ChatResult:
        data = response if isinstance(response, dict) else response.model_dump()
        wrong: list[list[Any]] = []
        for choice in data.get("choices") or ():  # LangChain stumbles over arguments that are JSON and no object
            message = choice.get("message") or {}
            good, bad = readable(message.get("tool_calls"))
            wrong.append(bad)
            if bad:
                message["tool_calls"] = good or None
        result = super()._create_chat_result(data if any(wrong) else response, generation_info)
        for generation, bad in zip(result.generations, wrong, strict=False):
            if bad and isinstance(generation.message, AIMessage):
                generation.message.invalid_tool_calls += bad
        for generation, choice in zip(result.generations, data.get("choices") or (), strict=False):
            tokens = tokens_of(data, choice)
            if self._keeps_no_others and generation.generation_info:
                generation.generation_info.pop("logprobs", None)
            if tokens is not None and isinstance(generation.message, AIMessage):
                generation.message.response_metadata[TOKENS_KEY] = {**tokens, "sampling": _SAMPLING.get()}
        return result

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        generation = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        choices = chunk.get("choices") or ()
        if generation is None or not choices:
            return generation
        if self._keeps_no_others and generation.generation_info:
            generation.generation_info.pop("logprobs", None)
        if part := part_of(chunk, choices[0]):
            if "policy_version" in part:
                part["sampling"] = _SAMPLING.get()
            generation.message.response_metadata[TOKENS_KEY] = part  # LangChain adds up what chunks hold
        return generation

    @property
    def _keeps_no_others(self) -> bool:
        """Whether the server's own form of logprobs, with its texts and bytes, is of no use to anybody."""
        return self.exact and not self.top_logprobs


class _OfEveryLoop(httpx2.AsyncBaseTransport):
    """Connections of every event loop apart: one that another loop has opened, and may have closed, is of no use."""

    def __init__(self) -> None:
        self._transports: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx2.AsyncHTTPTransport] = WeakKeyDictionary()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        loop = asyncio.get_running_loop()
        transport = self._transports.get(loop)
        if transport is None:
            # vLLM drops idle connections after 5 s: none is used again that is about that old.
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0)
            transport = self._transports[loop] = httpx2.AsyncHTTPTransport(limits=limits)
        return await transport.handle_async_request(request)
