"""The way to the model's server: a request on, the answer back, and what has been heard of it on the way.

What must stay true: the agent's request goes on as it is but for what makes its answer exact: ids and logprobs are
asked for, and a sampling that nobody chose is that of training (temperature 1, nothing cut), not a server's own. Every
wait has an end.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx2
import orjson

from lamer_graph.errors import PolicyConnectionError
from lamer_graph.policies.address import read_address
from lamer_graph.policies.refusals import NEUTRAL
from lamer_graph.text import loads

TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 << 20
TRAINING: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, **NEUTRAL}
"""How an answer is drawn that can be trained on; what the agent says itself counts instead."""
_EXACT: dict[str, Any] = {"logprobs": True, "return_token_ids": True}
_VLLMS_OWN = frozenset({"return_token_ids", *NEUTRAL})

_log = logging.getLogger(__name__)


Events = AsyncIterator[dict[str, Any] | None]
"""The chunks of a stream, None behind `[DONE]`."""


class Answered(NamedTuple):
    """The server's answer: `data` the JSON of a whole one, `events` those of a stream."""

    status: int
    body: bytes
    data: dict[str, Any] | None
    events: Events | None


class OutOfTime(PolicyConnectionError):
    """The server did not begin to answer, or fell silent."""


class TooLong(Exception):
    """The answer is longer than `MAX_ANSWER_BYTES`."""


class Relay:
    """A client of the model's server."""

    def __init__(self, upstream: str, key: str | None, timeout: float = TIMEOUT_S) -> None:
        """Raises ConfigError for a malformed address."""
        place = read_address(upstream)
        self.address = place.shown
        self._api = place.api
        self._timeout = timeout
        self._plain = False
        self._client = httpx2.AsyncClient(
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT_S),
            trust_env=place.trust_env,
            # No cap: agents are the cap. vLLM drops idle connections after 5 s.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0),
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def models(self) -> Answered:
        """The server's list of models. Raises PolicyConnectionError."""
        async with self._sent("GET", "/models", None) as response:
            return await _whole(response)

    def sampling(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """How the answer to a request is drawn, as far as that is known."""
        known = {} if self._plain else TRAINING
        told = {name: body[name] for name in (*TRAINING, "seed") if body.get(name) is not None}
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        return {**known, **told, "max_tokens": limit}

    @asynccontextmanager
    async def chat(self, body: Mapping[str, Any]) -> AsyncIterator[Answered]:
        """Ask for a completion. Raises PolicyConnectionError and TooLong, the latter also from `events`.

        A server that is no vLLM refuses what is asked for beside the request: it is asked again without, and from then
        on, and its calls bring no tokens.
        """
        if not self._plain:
            async with self._sent("POST", "/chat/completions", self._request(body)) as response:
                if response.status_code not in (400, 422):
                    yield await self._answer(response)
                    return
                answered = await _whole(response)
            words = answered.body.decode(errors="replace")
            if not any(name in words for name in _VLLMS_OWN - body.keys()):
                yield answered
                return
            _log.warning("%s does not give tokens: calls are recorded without, and cannot be trained on", self.address)
            self._plain = True
        async with self._sent("POST", "/chat/completions", dict(body)) as response:
            yield await self._answer(response)

    def _request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        request = {**TRAINING, **{name: value for name, value in body.items() if value is not None}, **_EXACT}
        if request.get("stream"):
            options = request.get("stream_options")
            # It says how many tokens there were, and so whether all came.
            request["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return request

    @asynccontextmanager
    async def _sent(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[httpx2.Response]:
        content = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = self._client.build_request(method, f"{self._api}{path}", content=content, headers=headers)
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.send(request, stream=True)
        except (TimeoutError, httpx2.TimeoutException):
            raise OutOfTime(f"{self.address} did not answer within {self._timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise PolicyConnectionError(f"cannot reach {self.address} ({type(error).__name__})") from None
        try:
            yield response
        except (TimeoutError, httpx2.TimeoutException):
            raise OutOfTime(f"{self.address} fell silent for {self._timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise PolicyConnectionError(f"{self.address} broke off its answer ({type(error).__name__})") from None
        finally:
            await response.aclose()

    @staticmethod
    async def _answer(response: httpx2.Response) -> Answered:
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return Answered(response.status_code, b"", None, _events(response))
        return await _whole(response)


async def _whole(response: httpx2.Response) -> Answered:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise TooLong
    try:
        data = loads(bytes(body))
    except ValueError:
        data = None
    return Answered(response.status_code, bytes(body), data if isinstance(data, dict) else None, None)


async def _events(response: httpx2.Response) -> Events:
    """The JSON objects of a stream of events. Other lines (comments, names) say nothing here."""
    rest, length = "", 0
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    async for chunk in response.aiter_bytes():
        length += len(chunk)
        if length > MAX_ANSWER_BYTES:
            raise TooLong
        *lines, rest = (rest + decode(chunk)).split("\n")
        for line in lines:
            if not line.startswith("data:"):
                continue
            told = line[5:].strip()
            if told == "[DONE]":
                yield None
                continue
            try:
                data = loads(told.encode())
            except ValueError:
                continue
            if isinstance(data, dict):
                yield data
