"""Requests to one server: pooled connections, bounded retries, JSON read once, typed errors.

What must stay true: every request ends, after a timeout per attempt and a bounded number of attempts, with a JSON
object or a typed error that names the address; the API key appears in no log line and no error text.

Requests go through `openai.AsyncOpenAI.post` with the plain HTTP response as result: the typed
`chat.completions.create` costs 1.6 ms CPU a call, this 0.9 (vLLM's own fields are untyped in it anyway).
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import httpx2
import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential
from tenacity.stop import stop_base

from lamer_graph.errors import ConfigError, PolicyAuthError, PolicyConnectionError, PolicyError, PolicyResponseError
from lamer_graph.policies.address import read_address
from lamer_graph.policies.loops import run_on
from lamer_graph.text import loads

API_KEY_ENV = "LAMER_API_KEY"
"""Where the key comes from when none is given. OPENAI_API_KEY is not read: it would go to whatever server is named."""

CHAT = "/chat/completions"
CONNECT_TIMEOUT = 5.0
PREFLIGHT_ATTEMPTS = 3
MAX_QUOTE = 300
"""Characters of a server's own words that an error text repeats."""

_CONTEXT_WORDS = re.compile(r"maximum context length is (\d+)", re.IGNORECASE)
_PROMPT_TOKENS = re.compile(r"contains (?:at least )?(\d+) input tokens", re.IGNORECASE)


class ContextOverflow(PolicyError):
    """A 400 for a prompt (and answer) that do not fit, as vLLM and OpenAI say it."""

    def __init__(self, window: int, at_least: int | None) -> None:
        super().__init__(f"context of {window} tokens exceeded")
        self.window = window
        self.at_least = at_least


class RequestRefused(PolicyResponseError):
    """A 400 or 422: the server does not take what was asked; `words` are its own."""

    def __init__(self, message: str, words: str) -> None:
        super().__init__(message)
        self.words = words


class Transport:
    """The way to the server at `base_url`, from any event loop and thread.

    A connection error, 429 or 5xx is tried `max_retries` times more with exponential backoff, and for at least
    `outage_s` seconds. Raises ConfigError for a malformed address or key.
    """

    def __init__(self, base_url: str, api_key: str | None, *, max_retries: int, outage_s: float) -> None:
        self._place = read_address(base_url)
        self.address = self._place.shown
        self._api_key = (api_key or os.environ.get(API_KEY_ENV) or "none").strip()  # files end with a line break
        if not self._api_key.isascii() or not self._api_key.isprintable():
            raise ConfigError(f"the API key (api_key, or {API_KEY_ENV}) holds what no HTTP header takes: is it a key?")
        self._max_retries = max_retries
        self._outage_s = outage_s
        # Pooled connections belong to the loop that opened them.
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, openai.AsyncOpenAI] = WeakKeyDictionary()
        self._lock = threading.Lock()

    async def get(self, path: str, *, timeout: float, preflight: bool = False) -> dict[str, Any]:
        """The JSON object at `path` below the API's base. With `preflight` few attempts, each also after a timeout.

        Raises PolicyError's subclasses.
        """
        return await self._request("GET", path, None, timeout=timeout, preflight=preflight)

    async def post(self, path: str, body: dict[str, Any], *, timeout: float, root: bool = False) -> dict[str, Any]:
        """The JSON object that answers `body`; `path` is below the API's base, or with `root` below the server's.

        Raises PolicyError's subclasses, ContextOverflow and RequestRefused among them.
        """
        path = f"{self._place.root}{path}" if root else path
        return await self._request("POST", path, body, timeout=timeout)

    async def aclose(self) -> None:
        """Close the connections of this loop and of those that nobody runs; others are asked to close theirs."""
        with self._lock:
            clients = list(self._clients.items())
            self._clients.clear()
        for loop, client in clients:
            await run_on(loop, client.close())

    def clean(self, text: object) -> str:
        """Words from outside for an error text: one line, bounded, without the key."""
        line = " ".join(str(text).split())
        if self._api_key != "none":
            line = line.replace(self._api_key, "***")
        return line[:MAX_QUOTE]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _client(self) -> openai.AsyncOpenAI:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            with self._lock:
                for old in [other for other in self._clients if other.is_closed()]:
                    del self._clients[old]
                client = self._clients[loop] = openai.AsyncOpenAI(
                    base_url=self._place.api,
                    api_key=self._api_key,
                    max_retries=0,
                    # The whole attempt has a limit (`_request`): httpx times single reads.
                    timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT),
                    http_client=openai.DefaultAsyncHttpxClient(
                        # No cap: the caller's concurrency is the cap, and waiting for a pooled connection would count
                        # as a timeout. vLLM drops idle connections after 5 s, so never reuse one about that old.
                        limits=httpx2.Limits(
                            max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0
                        ),
                        trust_env=self._place.trust_env,
                    ),
                )
        return client

    async def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        *,
        timeout: float,
        preflight: bool = False,
    ) -> dict[str, Any]:
        client = self._client()

        async def attempt() -> httpx2.Response:
            async with asyncio.timeout(timeout):
                if method == "GET":
                    return await client.get(path, cast_to=httpx2.Response)
                return await client.post(path, cast_to=httpx2.Response, body=body)

        retrying = AsyncRetrying(
            stop=_Stop(PREFLIGHT_ATTEMPTS, 0.0) if preflight else _Stop(self._max_retries + 1, self._outage_s),
            wait=_wait_briefly if preflight else _wait,
            retry=retry_if_exception(_mends_or_hangs if preflight else _mends),
            reraise=True,
        )
        try:
            response: httpx2.Response = await retrying(attempt)
        except openai.APIStatusError as error:
            raise self._status_error(error, path) from None
        except (openai.APITimeoutError, TimeoutError):
            raise PolicyConnectionError(f"{self.address} did not answer within {timeout:g} s") from None
        except openai.APIConnectionError as error:
            reason = error.__cause__ or error
            raise PolicyConnectionError(
                f"cannot reach {self.address} after {retrying.statistics.get('attempt_number', 1)} attempts "
                f"({type(reason).__name__}: {self.clean(reason)}): is the server running?"
            ) from None
        try:
            data = loads(response.content)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise PolicyResponseError(f"{self.where(path)} answered with something else than a JSON object")
        return data

    def where(self, path: str) -> str:
        """A route's address for an error text."""
        if path.startswith(self._place.root):
            return f"{self.address}{path.removeprefix(self._place.root)}"
        return f"{self.address}{self._place.api.removeprefix(self._place.root)}{path}"

    def _status_error(self, error: openai.APIStatusError, path: str) -> PolicyError:
        status = error.status_code
        if status in (401, 403):
            return PolicyAuthError(f"{self.address} refused the credentials ({status}): set {API_KEY_ENV} or api_key")
        words = _server_words(error)
        if status == 400 and (match := _CONTEXT_WORDS.search(words)):
            tokens = _PROMPT_TOKENS.search(words)
            return ContextOverflow(int(match[1]), int(tokens[1]) if tokens else None)
        if status == 404 and path != CHAT:
            return PolicyResponseError(f"{self.where(path)} is not there (404): is this a vLLM server?")
        if _mends(error):
            return PolicyConnectionError(f"{self.address} kept failing with status {status}: {self.clean(words)}")
        message = f"{self.address} refused the request ({status}): {self.clean(words)}"
        return RequestRefused(message, words) if status in (400, 422) else PolicyResponseError(message)


def _server_words(error: openai.APIStatusError) -> str:
    """The server's own message: OpenAI's error object is unwrapped by the client, others are quoted as they are."""
    body = error.body
    if isinstance(body, dict) and isinstance(message := body.get("message"), str):
        return message
    return str(body if body is not None else error.message)


class _Stop(stop_base):
    """Stop after `attempts`, but not before `outage_s` seconds have passed."""

    def __init__(self, attempts: int, outage_s: float) -> None:
        self._attempts = attempts
        self._outage_s = outage_s

    def __call__(self, retry_state: RetryCallState) -> bool:
        elapsed = retry_state.seconds_since_start or 0.0
        return retry_state.attempt_number >= self._attempts and elapsed >= self._outage_s


_backoff: Callable[[RetryCallState], float] = wait_random_exponential(multiplier=0.5, max=8.0)


def _wait(state: RetryCallState) -> float:
    """Exponential backoff with jitter, or what a 429 asks for in its Retry-After (at most 30 s)."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, openai.APIStatusError):
        try:
            return max(0.0, min(30.0, float(error.response.headers["retry-after"])))
        except (KeyError, ValueError):
            pass
    return _backoff(state)


def _wait_briefly(state: RetryCallState) -> float:
    return 0.5 * state.attempt_number


def _mends(error: BaseException) -> bool:
    """Whether trying again may help. A read timeout is final: the server had all the time it was given."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    if isinstance(error, openai.APITimeoutError):
        return isinstance(error.__cause__, httpx2.ConnectTimeout)
    return isinstance(error, openai.APIConnectionError)


def _mends_or_hangs(error: BaseException) -> bool:
    return _mends(error) or isinstance(error, openai.APITimeoutError | TimeoutError)
