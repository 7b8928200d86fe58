"""A model's answer as it goes by, whole or in chunks: what the agent gets of it, and what is recorded.

What must stay true: the agent gets what it would have got without a gateway: what was asked for beside its request
(tokens, logprobs, usage) is taken out again. What is recorded has all tokens of an answer that came to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lamer_graph.policies.exact import part_of, tokens_of


class Asked(NamedTuple):
    """What the agent itself asked for."""

    logprobs: bool
    tokens: bool
    usage: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Asked:
        options = body.get("stream_options")
        return cls(
            bool(body.get("logprobs")),
            bool(body.get("return_token_ids")),
            bool(isinstance(options, dict) and options.get("include_usage")),
        )

    def cleaned(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """An answer, or a chunk of one, without what only the gateway asked for."""
        kept = dict(data)
        if not self.tokens:
            kept.pop("prompt_token_ids", None)
        choices = []
        for choice in data.get("choices") or ():
            choice = dict(choice)
            if not self.tokens:
                choice.pop("token_ids", None)
            if not self.logprobs and "logprobs" in choice:
                choice["logprobs"] = None
            choices.append(choice)
        kept["choices"] = choices
        return kept


class Heard:
    """What has been heard of one answer."""

    def __init__(self) -> None:
        self.ended = False
        self._content: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._tokens: dict[str, Any] = {"prompt_token_ids": [], "token_ids": [], "logprobs": []}
        self._finish = "cut"
        self._model = "unknown"
        self._made: int | None = None

    def whole(self, data: Mapping[str, Any]) -> None:
        """An answer that came at once."""
        choice = (data.get("choices") or [{}])[0]
        message = choice.get("message") or {}
        self._content = [message.get("content") or ""]
        self._calls = dict(enumerate(message.get("tool_calls") or ()))
        self._tokens = tokens_of(data, choice) or {}
        self._finish = str(choice.get("finish_reason") or "unknown")
        self._model = str(data.get("model") or "unknown")
        self._note_usage(data)
        self.ended = True

    def chunk(self, data: Mapping[str, Any]) -> None:
        """One chunk of a stream."""
        self._note_usage(data)
        if data.get("model"):
            self._model = str(data["model"])
        for choice in (data.get("choices") or ())[:1]:
            delta = choice.get("delta") or {}
            if isinstance(delta.get("content"), str):
                self._content.append(delta["content"])
            for call in delta.get("tool_calls") or ():
                self._add_call(call)
            for name, value in part_of(data, choice).items():
                if isinstance(value, list):
                    self._tokens[name] += value
                else:
                    self._tokens[name] = value
            if choice.get("finish_reason"):
                self._finish = str(choice["finish_reason"])
                self.ended = True

    def _note_usage(self, data: Mapping[str, Any]) -> None:
        usage = data.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self._made = usage["completion_tokens"]

    def _add_call(self, part: Mapping[str, Any]) -> None:
        """A part of a tool call: its arguments come piece by piece."""
        place = part.get("index", 0)
        call = self._calls.setdefault(place, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        told = part.get("function") or {}
        call["id"] = part.get("id") or call["id"]
        call["function"]["name"] += told.get("name") or ""
        call["function"]["arguments"] += told.get("arguments") or ""

    def recorded(self) -> dict[str, Any]:
        """The answer as the journal keeps it; `tokens` is None where not all of them came."""
        calls = [self._calls[place] for place in sorted(self._calls)]
        whole = self.ended and bool(self._tokens.get("token_ids"))
        if self._made is not None and self._made != len(self._tokens.get("token_ids", ())):
            whole = False
        return {
            "content": "".join(self._content),
            "tool_calls": calls,
            "tokens": {**self._tokens, "policy_version": self._model} if whole else None,
            "finish_reason": self._finish if self.ended else "cut",
            "model": self._model,
        }
