"""A policy behind an OpenAI-compatible server, vLLM above all: exact tokens in, typed errors out.

What must stay true: a completion that is collected for training carries the token ids and logprobs that the server
sampled, from the very model that was asked for; anything less is a PolicyResponseError, never a re-tokenisation. Every
call ends: a timeout per attempt, a bounded number of attempts, and a typed error that names the address at the end. The
API key appears in no log line and no error text.

Requests go through `openai.AsyncOpenAI.post` with the plain HTTP response as result, and JSON is read once: the typed
`chat.completions.create` costs 1.6 ms CPU a call, this 0.9 (vLLM's own fields are untyped in it anyway). Start vLLM
with `--logprobs-mode processed_logprobs`, or its logprobs are those before temperature and truncation.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx2
import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential
from tenacity.stop import stop_base

from lamer_graph.errors import (
    ConfigError,
    PolicyAuthError,
    PolicyConnectionError,
    PolicyError,
    PolicyResponseError,
    PromptTooLongError,
)
from lamer_graph.policies.base import Policy
from lamer_graph.text import loads, plain_json
from lamer_graph.types import Completion, Message, Sampling

API_KEY_ENV = "LAMER_API_KEY"
"""Where the key comes from when none is given. OPENAI_API_KEY is not read: it would go to whatever server is named."""

CONNECT_TIMEOUT = 5.0
PREFLIGHT_ATTEMPTS = 3
MAX_QUOTE = 300
"""Characters of a server's own words that an error text repeats."""

_CONTEXT_WORDS = re.compile(r"maximum context length is (\d+)", re.IGNORECASE)
_PROMPT_TOKENS = re.compile(r"contains (?:at least )?(\d+) input tokens", re.IGNORECASE)


@dataclass(slots=True)
class _Session:
    """The HTTP client of one event loop: pooled connections belong to the loop that opened them."""

    client: openai.AsyncOpenAI
    preflight: asyncio.Lock = field(default_factory=asyncio.Lock)


class OpenAIPolicy(Policy):
    """Chat completions from `base_url` (with or without a trailing `/v1`).

    `model=None` takes the server's only one at `connect`, which the first call does if nobody did. `training=True`
    demands token ids and logprobs; `training=False` also speaks to servers that know no vLLM fields. `timeout` is
    seconds per attempt; a connection error, 429 or 5xx is tried `max_retries` times more with exponential backoff, and
    for at least `outage_s` seconds (a managed server that is being restarted). `api_key` defaults to the environment
    variable LAMER_API_KEY. Raises ConfigError for a malformed address or numbers out of range.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 3,
        outage_s: float = 0.0,
        training: bool = True,
        context_window: int | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"policy address must look like http://host:port/v1, not {base_url[:100]!r}")
        if timeout <= 0 or max_retries < 0 or outage_s < 0:
            raise ConfigError("policy timeout must be > 0, max_retries >= 0 and outage_s >= 0")
        self._root = base_url.rstrip("/").removesuffix("/v1")
        # User and password of the address are credentials: requests need them, error texts do not.
        self.address = (
            self._root.replace(f"{parts.netloc.rpartition('@')[0]}@", "") if "@" in parts.netloc else self._root
        )
        self.model = model
        self.context_window = context_window
        self.training = training
        self._api_key = api_key or os.environ.get(API_KEY_ENV) or "none"
        self._timeout = timeout
        self._max_retries = max_retries
        self._outage_s = outage_s
        # Proxies of the environment are for the outside world, never for a server on this machine.
        self._trust_env = parts.hostname not in ("localhost", "127.0.0.1", "::1")
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, _Session] = WeakKeyDictionary()
        self._connected = False

    def __repr__(self) -> str:
        return f"OpenAIPolicy({self.address!r}, {self.model!r})"

    # -- calls --------------------------------------------------------------------------------------------------------

    async def connect(self) -> OpenAIPolicy:
        """Preflight: is the server there, does it accept the key, does it serve the model; learns the context window.

        Reports an unreachable or silent server within 20 s. Returns self. Raises PolicyConnectionError,
        PolicyAuthError, PolicyResponseError, and ConfigError if the model is not served or none was chosen of several.
        """
        # 3 attempts of at most 5 s and two waits of at most 1 s: below 20 s whatever the server does.
        data = await self._request(
            "GET", "/v1/models", None, timeout=CONNECT_TIMEOUT, attempts=PREFLIGHT_ATTEMPTS, retry_timeouts=True
        )
        served = data.get("data")
        if not isinstance(served, list) or not all(isinstance(card, dict) and "id" in card for card in served):
            raise PolicyResponseError(f"{self.address} answered /v1/models with something else than a list of models")
        cards = {str(card["id"]): card for card in served}
        if self.model is None:
            if len(cards) != 1:
                raise ConfigError(f"{self.address} serves {_names(cards)}: say which one as the model")
            self.model = next(iter(cards))
        if self.model not in cards:
            raise ConfigError(f"{self.address} does not serve '{self.model}'; it serves {_names(cards)}")
        if self.context_window is None and isinstance(window := cards[self.model].get("max_model_len"), int):
            self.context_window = window
        self._connected = True
        return self

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One completion. Raises PolicyError's subclasses; see the class."""
        if self.model is None:
            await self._ensure_connected()
        body: dict[str, Any] = {
            "model": self.model,
            "messages": plain_json(list(messages)),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.top_k or self.training:
            body["top_k"] = sampling.top_k
        if self.training:
            # A model's generation_config may hold a repetition penalty or min_p that would bend the distribution.
            body.update(logprobs=True, return_token_ids=True, repetition_penalty=1.0, min_p=0.0)
        try:
            data = await self._request("POST", "/v1/chat/completions", body)
        except _ContextOverflow as overflow:
            raise await self._too_long(messages, overflow) from None
        return self._completion(data)

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered prompt by vLLM's `/tokenize`: a round trip, so ask only when near the limit."""
        if self.model is None:
            await self._ensure_connected()
        body = {"model": self.model, "messages": plain_json(list(messages)), "add_generation_prompt": True}
        count = (await self._request("POST", "/tokenize", body)).get("count")
        if not isinstance(count, int):
            raise PolicyResponseError(f"{self.address}/tokenize gave no token count: is this a vLLM server?")
        return count

    async def aclose(self) -> None:
        """Close this loop's connections and ask other running loops to close theirs."""
        here = asyncio.get_running_loop()
        for loop, session in list(self._sessions.items()):
            if loop is here:
                await session.client.close()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(session.client.close(), loop)
        self._sessions.clear()

    # -- answers ------------------------------------------------------------------------------------------------------

    def _completion(self, data: dict[str, Any]) -> Completion:
        """Check an answer and take it apart. Raises PolicyResponseError."""
        if (answered := data.get("model")) != self.model:
            raise PolicyResponseError(
                f"asked {self.address} for model '{self.model}' but '{self._clean(answered)}' answered"
            )
        try:
            choice = data["choices"][0]
            text = choice["message"]["content"] or ""
            finish = choice["finish_reason"] or ""
            prompt_ids = data.get("prompt_token_ids") or []
            token_ids = choice.get("token_ids") or []
            logprobs = [entry["logprob"] for entry in (choice.get("logprobs") or {}).get("content") or ()]
            whole = len(logprobs) == len(token_ids) > 0 and bool(prompt_ids) and all(map(math.isfinite, logprobs))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise PolicyResponseError(f"{self.address} gave a malformed completion ({type(error).__name__})") from error
        if not isinstance(text, str):
            raise PolicyResponseError(f"{self.address} gave a malformed completion (text is {type(text).__name__})")
        if not whole:
            if self.training:
                raise PolicyResponseError(
                    f"{self.address} gave {len(prompt_ids)} prompt ids, {len(token_ids)} token ids and {len(logprobs)} "
                    "logprobs: training needs vLLM with return_token_ids and finite logprobs for every token"
                )
            prompt_ids, token_ids, logprobs = [], [], []
        return Completion(text, prompt_ids, token_ids, logprobs, str(answered), finish)

    async def _too_long(self, messages: Sequence[Message], overflow: _ContextOverflow) -> PolicyError:
        """The error that says by how many tokens; vLLM itself stops counting one token past the limit."""
        window = overflow.window
        qualifier = ""
        try:
            count = await self.count_tokens(messages)
        except PolicyError:
            if overflow.at_least is None:
                return PromptTooLongError(
                    f"prompt exceeds the context of {window} tokens of '{self.model}' ({self.address})"
                )
            count, qualifier = overflow.at_least, "at least "
        return PromptTooLongError(
            f"prompt of {qualifier}{count} tokens exceeds the context of {window} of '{self.model}' ({self.address}) "
            f"by {qualifier}{count - window}: serve it with a longer context or shorten history and memory"
        )

    # -- transport ----------------------------------------------------------------------------------------------------

    def _session(self) -> _Session:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            for old in [other for other in self._sessions if other.is_closed()]:
                del self._sessions[old]
            session = self._sessions[loop] = _Session(
                openai.AsyncOpenAI(
                    base_url=self._root,
                    api_key=self._api_key,
                    max_retries=0,
                    timeout=httpx2.Timeout(self._timeout, connect=min(CONNECT_TIMEOUT, self._timeout)),
                    http_client=openai.DefaultAsyncHttpxClient(
                        # No cap: the caller's concurrency is the cap, and waiting for a pooled connection would count
                        # as a timeout. vLLM drops idle connections after 5 s, so never reuse one about that old.
                        limits=httpx2.Limits(
                            max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0
                        ),
                        trust_env=self._trust_env,
                    ),
                )
            )
        return session

    async def _ensure_connected(self) -> None:
        async with self._session().preflight:
            if not self._connected:
                await self.connect()

    async def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        *,
        timeout: float | None = None,
        attempts: int | None = None,
        retry_timeouts: bool = False,
    ) -> dict[str, Any]:
        """One request with retries; the answer's JSON object. Raises PolicyError's subclasses and _ContextOverflow."""
        client = self._session().client
        limit = self._timeout
        if timeout is not None:
            client, limit = client.with_options(timeout=timeout), timeout

        async def attempt() -> httpx2.Response:
            # httpx times single reads; a server that drips bytes must end too.
            async with asyncio.timeout(limit):
                if method == "GET":
                    return await client.get(path, cast_to=httpx2.Response)
                return await client.post(path, cast_to=httpx2.Response, body=body)

        retrying = AsyncRetrying(
            stop=_Stop(self._max_retries + 1 if attempts is None else attempts, 0.0 if attempts else self._outage_s),
            wait=_wait if attempts is None else _wait_briefly,
            retry=retry_if_exception(_mends_or_hangs if retry_timeouts else _mends),
            reraise=True,
        )
        try:
            response: httpx2.Response = await retrying(attempt)
        except openai.APIStatusError as error:
            raise self._status_error(error, path) from None
        except (openai.APITimeoutError, TimeoutError):
            raise PolicyConnectionError(f"{self.address} did not answer within {limit:g} s") from None
        except openai.APIConnectionError as error:
            reason = error.__cause__ or error
            raise PolicyConnectionError(
                f"cannot reach {self.address} after {retrying.statistics.get('attempt_number', 1)} attempts "
                f"({type(reason).__name__}: {self._clean(reason)}): is the server running?"
            ) from None
        try:
            data = loads(response.content)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise PolicyResponseError(f"{self.address}{path} answered with something else than a JSON object")
        return data

    def _status_error(self, error: openai.APIStatusError, path: str) -> Exception:
        status = error.status_code
        if status in (401, 403):
            return PolicyAuthError(f"{self.address} refused the credentials ({status}): set {API_KEY_ENV} or api_key")
        words = self._server_words(error)
        if status == 400 and (match := _CONTEXT_WORDS.search(words)):
            tokens = _PROMPT_TOKENS.search(words)
            return _ContextOverflow(int(match[1]), int(tokens[1]) if tokens else None)
        if status == 404 and path != "/v1/chat/completions":
            return PolicyResponseError(f"{self.address} has no {path}: is this a vLLM server?")
        if _mends(error):
            return PolicyConnectionError(f"{self.address} kept failing with status {status}: {self._clean(words)}")
        return PolicyResponseError(f"{self.address} refused the request ({status}): {self._clean(words)}")

    @staticmethod
    def _server_words(error: openai.APIStatusError) -> str:
        """The server's own message: OpenAI's error object is unwrapped by the client, others are quoted as they are."""
        body = error.body
        if isinstance(body, dict) and isinstance(message := body.get("message"), str):
            return message
        return str(body if body is not None else error.message)

    def _clean(self, text: object) -> str:
        """Words from outside for an error text: one line, bounded, without the key."""
        line = " ".join(str(text).split())
        if self._api_key != "none":
            line = line.replace(self._api_key, "***")
        return line[:MAX_QUOTE]


class _ContextOverflow(PolicyError):
    """vLLM's 400 for a prompt that does not fit; becomes a PromptTooLongError once the tokens are counted."""

    def __init__(self, window: int, at_least: int | None) -> None:
        super().__init__(f"context of {window} tokens exceeded")
        self.window = window
        self.at_least = at_least


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


def _names(cards: dict[str, Any]) -> str:
    return ", ".join(f"'{name[:100]}'" for name in sorted(cards)[:20]) or "no model"
