"""OpenAI's chat completions, as far as an agent has something to say to them: requests read, answers written.

What must stay true: what a request asks for and an agent cannot do is refused; what would only have bent a model's
sampling is left to the agent, and the answer says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from langchain_core.messages import AnyMessage
from starlette.exceptions import HTTPException

from lamer_graph.apps.lessons import text_of
from lamer_graph.policies.tool_calls import as_messages

MAX_MESSAGES = 1_000
MAX_THREAD = 200
_IGNORED = (
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "presence_penalty",
    "frequency_penalty", "logit_bias", "reasoning_effort", "verbosity", "user", "store", "service_tier",
    "parallel_tool_calls", "prompt_cache_key", "safety_identifier",
)  # fmt: skip
"""What clients send to models by habit; the agent has its own."""
_REFUSED = ("tools", "functions", "tool_choice", "function_call", "logprobs", "top_logprobs", "audio", "modalities")
_KNOWN = {"model", "messages", "stream", "stream_options", "metadata", "n", "response_format", *_IGNORED, *_REFUSED}


@dataclass(frozen=True)
class Request:
    """A request that the agent can answer. `thread` is the caller's name for the conversation."""

    messages: list[AnyMessage]
    thread: str | None = None
    stream: bool = False
    usage: bool = False
    ignored: list[str] = field(default_factory=list)
    retried: bool = False
    """The client says that it has sent this before, and had no answer."""


@dataclass(frozen=True)
class Answer:
    """What the agent came to. `success` is None of an agent that is not graded; `waits`: it asked a person, whose next
    message on the thread is the reply."""

    text: str
    success: bool | None = None
    attempts: int | None = None
    waits: bool = False
    tokens: tuple[int, int] = (0, 0)


def read(body: Mapping[str, Any], name: str, thread: str | None, retried: bool = False) -> Request:
    """The request; its headers say `thread` and whether it is sent once more. Raises HTTPException."""
    model = body.get("model")
    if model not in (None, name):
        raise HTTPException(404, f"there is no model {str(model)[:100]!r} here: it is {name!r}")
    for field_name in _REFUSED:
        if body.get(field_name) not in (None, False, [], "none", "auto"):
            raise HTTPException(400, f"{field_name} cannot be had: this is an agent with tools of its own")
    if body.get("n") not in (None, 1):
        raise HTTPException(400, "the agent gives one answer: leave n out")
    form = body.get("response_format")
    if form is not None and not (isinstance(form, dict) and form.get("type") == "text"):
        raise HTTPException(400, "response_format cannot be had: the agent answers in text")
    if unknown := sorted(body.keys() - _KNOWN):
        raise HTTPException(400, f"unknown field {str(unknown[0])[:100]!r}")
    given = body.get("messages")
    if not isinstance(given, list) or not given or len(given) > MAX_MESSAGES:
        raise HTTPException(
            400, f'messages must be a list of 1 to {MAX_MESSAGES}: [{{"role": "user", "content": ".."}}]'
        )
    try:
        messages = as_messages(given)
    except Exception:  # LangChain has no one error for it
        raise HTTPException(
            400, "messages are malformed: each has a role and content, as OpenAI's API has it"
        ) from None
    if messages[-1].type != "human" or not (messages[-1].content and text_of(messages[-1]).strip()):
        raise HTTPException(400, "the last message must be a user's, and say something")
    stream, options = body.get("stream") or False, body.get("stream_options")
    if not isinstance(stream, bool):
        raise HTTPException(400, "stream must be true or false")
    return Request(
        messages=messages,  # type: ignore[arg-type]
        thread=_thread(body.get("metadata"), thread),
        stream=stream,
        usage=bool(isinstance(options, dict) and options.get("include_usage")),
        ignored=[key for key in _IGNORED if body.get(key) is not None],
        retried=retried,
    )


def _thread(metadata: Any, header: str | None) -> str | None:
    """The thread that a request names, in its header or `metadata.thread_id`. Raises HTTPException."""
    if metadata is not None and not isinstance(metadata, dict):
        raise HTTPException(400, 'metadata must be an object: {"thread_id": ".."}')
    told = (metadata or {}).get("thread_id")
    if told is not None and header is not None and told != header:
        raise HTTPException(400, "the header and metadata.thread_id name two threads: send one of them")
    thread = header if told is None else told
    if thread is not None and not (isinstance(thread, str) and thread.strip() and len(thread) <= MAX_THREAD):
        raise HTTPException(400, f"thread_id must be a text of 1 to {MAX_THREAD} characters")
    return thread


class Form:
    """The answer to one request, in OpenAI's words."""

    def __init__(self, name: str, request: Request) -> None:
        self._head = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": name}
        self._request = request

    def whole(self, answer: Answer, told: list[str]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if told:
            message["reasoning_content"] = "".join(told)
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            **self._usage(answer),
            **self._ours(answer),
        }

    def part(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        """A chunk of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **more}

    def last(self, answer: Answer) -> list[dict[str, Any]]:
        """The chunks that end a stream: the answer, its end, and what it cost where that was asked for."""
        parts = [self.part({"content": answer.text}), self.part({}, "stop", **self._ours(answer))]
        if self._request.usage:
            parts.append({**self._head, "object": "chat.completion.chunk", "choices": [], **self._usage(answer)})
        return parts

    @staticmethod
    def _usage(answer: Answer) -> dict[str, Any]:
        asked, made = answer.tokens
        return {"usage": {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}}

    def _ours(self, answer: Answer) -> dict[str, Any]:
        told = {"success": answer.success, "attempts": answer.attempts, "waits": answer.waits}
        return {"lamer": {**told, "ignored": self._request.ignored}}
