"""A policy behind an OpenAI-compatible server, vLLM above all: exact tokens in, typed errors out.

What must stay true: a completion that is collected for training carries the token ids and logprobs that the server
sampled, from the very model that was asked for; anything less is a PolicyResponseError, never a re-tokenisation. The
context window is known before the first prompt is made. Every number that bends the distribution is sent, because a
server fills what is left out from the model's own generation config; what a server does not take is known (`as_sent`).

Start vLLM with `--logprobs-mode processed_logprobs`, or its logprobs are those before temperature and truncation.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from lamer_graph.errors import ConfigError, PolicyError, PolicyResponseError, PromptTooLongError
from lamer_graph.policies.answers import read_answer
from lamer_graph.policies.base import Policy
from lamer_graph.policies.cards import names, window_of_card
from lamer_graph.policies.control import OPEN_THOUGHT
from lamer_graph.policies.refusals import (
    NEUTRAL,
    Dialect,
    cannot_be_had,
    lacking,
    named_in,
    of_system_role,
    spare,
)
from lamer_graph.policies.rendering import Rendered, check_template_args, fold_system
from lamer_graph.policies.stopping import check_stop, end_of, ended
from lamer_graph.policies.thoughts import MARKS, may_think
from lamer_graph.policies.transport import CHAT, CONNECT_TIMEOUT, ContextOverflow, RequestRefused, Transport
from lamer_graph.text import plain_json
from lamer_graph.types import Completion, Message, Sampling

TAIL = 32
"""Tokens at the end of a prompt in which its template may open a thought."""
TIMEOUT_S, TIMEOUT_S_PER_TOKEN = 60.0, 0.1
"""How long an attempt may take unless it is said: to be answered at all, and for every token that was asked for."""


@functools.cache
def _warn_of_lost_rules(model: str, address: str) -> None:
    """Once in a process, however many policies ask the same server."""
    logging.getLogger(__name__).warning(
        "the chat template of '%s' (%s) leaves out what the system says: right for a policy that was taught without "
        "the rules, such as the shipped ones; else give fold_system=True",
        model,
        address,
    )


class OpenAIPolicy(Policy):
    """Chat completions from `base_url` (its path is kept; `/v1` where it has none).

    `model=None` takes the server's only one at `connect`, which the first call does if nobody did. `training=True`
    demands token ids and logprobs of every answer, and that `model` itself answered; otherwise any OpenAI-compatible
    server will do, and `policy_version` is whoever answered. `timeout` is seconds per attempt, by default 60 and a
    tenth for every token asked for; a connection error, 429 or 5xx is tried `max_retries` times more with exponential
    backoff, and for at least `outage_s` seconds (a managed server that is being restarted). `api_key` defaults to the
    environment variable LAMER_API_KEY; `context_window` to what the server says. `template_args` are sent with every
    request as vLLM's `chat_template_kwargs` (None: what the server renders with is not known here); `fold_system` says
    whether the system's words go into the user's message (None: where the server refuses them, which of a vLLM is known
    once connected, else once it has refused a call). `connect` also learns of a vLLM whether its template opens a
    thought, with whose mark (`opening`) answers then begin. Raises ConfigError for a malformed address or key, or
    numbers out of range.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        max_retries: int = 3,
        outage_s: float = 0.0,
        training: bool = False,
        context_window: int | None = None,
        template_args: Mapping[str, Any] | None = None,
        fold_system: bool | None = None,
    ) -> None:
        if (timeout is not None and timeout <= 0) or max_retries < 0 or outage_s < 0:
            raise ConfigError("policy timeout must be > 0, max_retries >= 0 and outage_s >= 0")
        if context_window is not None and context_window < 1:
            raise ConfigError(f"context_window must be at least 1 token, not {context_window}")
        self._http = Transport(base_url, api_key, max_retries=max_retries, outage_s=outage_s)
        self.address = self._http.address
        self.model = model
        self.context_window = context_window
        self.training = training
        check_template_args({} if template_args is None else template_args, None, str(model))
        self.template_args = None if template_args is None else dict(template_args)
        self.folds_system = fold_system
        self._may_fold = fold_system is None
        self.opening: str | None = None
        """The mark of the thought that answers begin inside of, '' if with none; None if that is not known here."""
        self.thinks: bool | None = None
        """Whether answers may hold thoughts, so that no stop string may end them; None if that is not known here."""
        self.gives_tokens = False
        """Whether the server said that it is a vLLM, which gives exact tokens to who asks; known once connected."""
        self._timeout = timeout
        self._card: dict[str, Any] = {}
        self._connected = False
        self._connecting: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()
        self._dialect = Dialect()

    def __repr__(self) -> str:
        return f"OpenAIPolicy({self.address!r}, {self.model!r})"

    # -- the server ---------------------------------------------------------------------------------------------------

    async def connect(self) -> OpenAIPolicy:
        """Preflight: is the server there, does it accept the key, does it serve the model; learns the context window.

        Reports an unreachable or silent server within 20 s. Returns self. Raises PolicyConnectionError,
        PolicyAuthError, PolicyResponseError, and ConfigError if the model is not served, none was chosen of several, or
        it is to be trained on and nobody says how long its context is.
        """
        # 3 attempts of at most 5 s and two waits of at most 1 s: below 20 s whatever the server does.
        cards = await self._cards(CONNECT_TIMEOUT, preflight=True)
        if self._chosen(cards) not in cards:
            raise ConfigError(f"{self.address} does not serve '{self.model}'; it serves {names(cards)}")
        self._learn(cards)
        if self.gives_tokens:
            if self.folds_system is None:
                self.folds_system = await self._refuses_system()
            if self.opening is None or self.thinks is None:
                await self._look_for_thoughts()
        return self

    async def _refuses_system(self) -> bool | None:
        """Whether the template refuses system messages, so that their words have to be folded; None: not known.

        One that leaves them out is warned of only, because the policy may have been taught so.
        """
        user = Message(role="user", content="What the user says.")
        alone: int | None = None
        try:
            alone = await self._count([user], folded=False)
            together = await self._count([Message(role="system", content="What the system says."), user], folded=False)
        except PolicyError as error:
            return True if alone is not None and isinstance(error, RequestRefused) else None
        if together == alone:
            _warn_of_lost_rules(str(self.model), self.address)
        return False

    async def _look_for_thoughts(self) -> None:
        """Learn `opening` and `thinks` from the end of a prompt as the server renders it, where it shows that."""
        try:
            ids = (await self._tokenized([Message(role="user", content="?")], folded=False)).get("tokens")
            if not isinstance(ids, list):
                return
            end = {"model": self.model, "tokens": ids[-TAIL:]}
            said = str((await self._http.post("/detokenize", end, timeout=self._limit(0), root=True)).get("prompt"))
            marks = {"prompt": "".join(MARKS), "add_special_tokens": False, "return_token_strs": True}
            asked = {"model": self.model, **marks}
            known = (await self._http.post("/tokenize", asked, timeout=self._limit(0), root=True)).get("token_strs")
        except PolicyError:
            return
        mark = OPEN_THOUGHT.search(said)
        if self.opening is None:
            # Mistral's marks are special tokens, which leave no text: nobody could see where the thought ends.
            self.opening = mark[0] if mark and not mark[0].startswith("[") else ""
        if self.thinks is None:
            self.thinks = may_think(said, not isinstance(known, list) or not MARKS.isdisjoint(known))

    async def window(self) -> int | None:
        """The context window; None where the server (then none that is trained on) does not say. Raises as `connect`
        does, but that a model unknown to the server is for the call itself to find out."""
        if not self._connected and (self.model is None or self.context_window is None):
            loop = asyncio.get_running_loop()
            task = self._connecting.get(loop)
            if task is None or task.done():
                # All calls that wait for it share one attempt, and its failure.
                task = self._connecting[loop] = loop.create_task(self._look())
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(task)
        return self.context_window

    async def _look(self) -> None:
        """`connect` in the midst of work: as patient with the server as a call is."""
        try:
            cards = await self._cards(self._limit(0))
        except PolicyResponseError:  # many servers have no such list, and need none
            if self.model is None or self.training:
                raise
            cards = {}
        self._chosen(cards)
        self._learn(cards)

    async def _cards(self, timeout: float, preflight: bool = False) -> dict[str, dict[str, Any]]:
        """What the server says of its models, by name."""
        served = (await self._http.get("/models", timeout=timeout, preflight=preflight)).get("data")
        if not isinstance(served, list) or not all(isinstance(card, dict) and "id" in card for card in served):
            raise PolicyResponseError(f"{self._http.where('/models')} gave something else than a list of models")
        return {str(card["id"]): card for card in served}

    def _chosen(self, cards: dict[str, dict[str, Any]]) -> str:
        """The model, or the server's only one. Raises ConfigError."""
        if self.model is None:
            if len(cards) != 1:
                raise ConfigError(f"{self.address} serves {names(cards)}: say which one as the model")
            self.model = next(iter(cards))
        return self.model

    def _learn(self, cards: dict[str, dict[str, Any]]) -> None:
        """Take from the cards what they say of the model. Raises ConfigError."""
        card = cards.get(self.model or "")
        if card is not None:
            self._card = card
            self.gives_tokens = card.get("owned_by") == "vllm"
            if self.context_window is None:
                self.context_window = window_of_card(card, cards)
            if self.context_window is None and self.training:
                raise ConfigError(
                    f"{self.address} does not say how long the context of '{self.model}' is: {self._no_collecting()}"
                )
        self._connected = True

    def _no_collecting(self) -> str:
        """Why a server that says no context window is not collected from, and what to do instead."""
        why = "" if self.gives_tokens else "it is no vLLM, so it returns no token ids and cannot be collected from; "
        return (
            f"trials could not be kept within it; {why}collect from vLLM itself rather than a proxy (lamer-graph serve "
            "--policy DIR), or in this process (--policy DIR); eval and play do without (in Python, of a vLLM: give "
            "context_window)"
        )

    @property
    def rendering(self) -> Rendered | None:
        """As the base says it; a server that was found to refuse system messages renders folded ones."""
        if self.template_args is None and self._dialect.folded and not self.gives_tokens:
            return {"template": {}, "folded": True}
        return super().rendering

    @property
    def stops(self) -> bool:  # type: ignore[override]
        """Not where a string inside a thought would end the answer; then who reads it finds the string."""
        return not self.thinks

    def identity(self) -> dict[str, Any]:
        """The model by name and, where the server's card says so, the folder that it was read from."""
        return {"served": self.model, **{key: self._card[key] for key in ("root", "parent") if self._card.get(key)}}

    # -- calls --------------------------------------------------------------------------------------------------------

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One completion. Raises PolicyError's subclasses; see the class."""
        check_stop(sampling.stop)
        window = await self.window()
        most = sampling.max_tokens if window is None else min(sampling.max_tokens, window)
        dialect = self._dialect  # what the present call learns holds for later ones once it was the reason
        while True:
            body = self._body(messages, sampling, dialect)
            body[dialect.limit] = most
            try:
                data = await self._http.post(CHAT, body, timeout=self._limit(most))
            except ContextOverflow as overflow:
                most = await self._room(messages, overflow, most)
            except RequestRefused as refused:
                dialect = self._other_way(refused, dialect, body, messages, sampling)
            else:
                self._learnt(dialect)
                done = self._completion(data, sampling.stop, told="stop" in body)
                if "stop" not in body or not _cut_in_thought(done, sampling.stop):
                    return done
                self.thinks = True  # the server was not to stop there: asked again, it is not told to

    def _other_way(
        self,
        refused: RequestRefused,
        dialect: Dialect,
        body: dict[str, Any],
        messages: Sequence[Message],
        sampling: Sampling,
    ) -> Dialect:
        """How to ask again after a refusal. Raises it, or what says more, where nothing but other words would help."""
        if (renamed := dialect.renamed(refused.words)) is not None:
            return renamed
        if self._folds_after(refused, messages, dialect.folded):
            return replace(dialect, folded=True)
        if self.training:
            raise refused
        if (other := dialect.without(refused.words, body)) is not None:
            return other
        named = named_in(refused.words, body)
        asked = [name for name in sampling.to_json() if name in named - spare(body)]
        if asked:
            unknown = lacking(refused.words)
            if unknown:
                self._dialect = replace(self._dialect, lacks=self._dialect.lacks | set(asked))
            # Of a field that is not there the words say no more, and may name others that nobody asked for.
            said = self.address if unknown else str(refused)
            raise PolicyResponseError(f"{cannot_be_had(asked, sampling)} ({said})") from None
        if not named and sampling.top_k != NEUTRAL["top_k"]:
            raise PolicyResponseError(
                f"{refused}; top_k {sampling.top_k} may be why: if so, use top_k 0 (--sampling train)"
            ) from None
        raise refused

    def _folds_after(self, refused: RequestRefused, messages: Sequence[Message], folded: bool) -> bool:
        """Whether the call is to be made again with the system's words in the user's message."""
        if folded or self.folds_system or not self._may_fold:
            return False
        return of_system_role(refused.words) and any(message["role"] == "system" for message in messages)

    def _learnt(self, dialect: Dialect) -> None:
        self._dialect = self._dialect.merged(dialect)
        if self._dialect.folded:
            self.folds_system = True

    def unheeded(self, sampling: Sampling) -> list[str]:
        """The fields of the sampling that the server has refused, where they ask for something."""
        no_stop = sampling.stop and self.training and not self.stops
        return [*self._dialect.unheeded(sampling), *(["stop"] if no_stop else [])]

    def why_unheeded(self, sampling: Sampling) -> str:
        if "stop" in self.unheeded(sampling):
            return f"answers of '{self.model}' may hold thoughts, and {self.address} would stop inside: leave stop out"
        return f"{cannot_be_had(self.unheeded(sampling), sampling)} ({self.address})"

    def as_sent(self, sampling: Sampling) -> dict[str, Any]:
        """What of `sampling` the server takes, as far as is known; asked after the first call, all of it is known."""
        sent = sampling.to_json()
        return {**sent, **dict.fromkeys(sorted(self._dialect.unsent({**NEUTRAL, **sent})))}

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered prompt by vLLM's `/tokenize`: a round trip, so ask only when near the limit."""
        if self.model is None:
            await self.window()
        folded = bool(self.folds_system)
        try:
            return await self._count(messages, folded)
        except RequestRefused as refused:
            if not self._folds_after(refused, messages, folded):
                raise
        return await self._count(messages, folded=True)

    async def _count(self, messages: Sequence[Message], folded: bool) -> int:
        count = (await self._tokenized(messages, folded)).get("count")
        if not isinstance(count, int):
            raise PolicyResponseError(f"{self.address}/tokenize gave no token count: is this a vLLM server?")
        return count

    async def _tokenized(self, messages: Sequence[Message], folded: bool) -> dict[str, Any]:
        body = {"model": self.model, **self._prompt(messages, folded), "add_generation_prompt": True}
        return await self._http.post("/tokenize", body, timeout=self._limit(0), root=True)

    async def aclose(self) -> None:
        """Close the connections: those of this loop and of idle ones at once, of running ones by themselves."""
        await self._http.aclose()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _limit(self, tokens: int) -> float:
        """Seconds for an attempt that asks for so many tokens."""
        return TIMEOUT_S + TIMEOUT_S_PER_TOKEN * tokens if self._timeout is None else self._timeout

    def _prompt(self, messages: Sequence[Message], folded: bool) -> dict[str, Any]:
        """The fields of a request that make its prompt."""
        chat = fold_system(messages) if folded else list(messages)
        prompt: dict[str, Any] = {"messages": plain_json(chat)}
        if self.template_args:
            prompt["chat_template_kwargs"] = self.template_args
        return prompt

    def _body(self, messages: Sequence[Message], sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            **self._prompt(messages, dialect.folded or bool(self.folds_system)),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **NEUTRAL,
            "top_k": sampling.top_k,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop and self.stops:
            body["stop"] = list(sampling.stop)
        for name in dialect.unsent(body):
            del body[name]
        if "stop" in body and (self.training or self.gives_tokens):
            body["include_stop_str_in_output"] = True
        if self.training:
            body.update(logprobs=True, return_token_ids=True)
        return body

    def _completion(self, data: dict[str, Any], stops: Sequence[str], *, told: bool) -> Completion:
        """Check an answer and take it apart; whether the server was `told` of the stop strings. Raises
        PolicyResponseError."""
        answered = data.get("model")
        if self.training and answered != self.model:
            raise PolicyResponseError(
                f"asked {self.address} for model '{self.model}' but '{self._http.clean(answered)}' answered"
            )
        answer = read_answer(data, self.address, self.opening or "", stops if told else ())
        version = answered if isinstance(answered, str) and answered else str(self.model)
        if answer.exact:
            tokens = answer.prompt_token_ids, answer.token_ids, answer.logprobs
            return Completion(answer.text, *tokens, version, answer.finish_reason, answer.thoughts)
        if self.training:
            raise PolicyResponseError(
                f"{self.address} gave {len(answer.prompt_token_ids)} prompt ids, {len(answer.token_ids)} token ids and "
                f"{len(answer.logprobs)} logprobs: training needs vLLM with return_token_ids and finite logprobs for "
                "every token"
            )
        text = ended(answer.text, stops)
        return Completion(text, [], [], [], version, answer.finish_reason, answer.thoughts)

    async def _room(self, messages: Sequence[Message], overflow: ContextOverflow, asked: int) -> int:
        """How many tokens, less than `asked`, the context has left for the answer.

        Raises PromptTooLongError that says by how many tokens; vLLM itself stops counting one token past the limit.
        """
        window = overflow.window
        qualifier = ""
        try:
            count = await self.count_tokens(messages)
        except PolicyError:
            if overflow.at_least is None:
                raise PromptTooLongError(
                    f"prompt exceeds the context of {window} tokens of '{self.model}' ({self.address})"
                ) from None
            count, qualifier = overflow.at_least, "at least "
        if not qualifier and 0 < window - count < asked:
            return window - count
        raise PromptTooLongError(
            f"prompt of {qualifier}{count} tokens exceeds the context of {window} of '{self.model}' ({self.address}) "
            f"by {qualifier}{count - window}: serve it with a longer context or shorten history and memory"
        ) from None


def _cut_in_thought(done: Completion, stops: Sequence[str]) -> bool:
    """Whether a stop string ended an answer from inside of a thought."""
    return done.finish_reason == "stop" and done.text.endswith(tuple(stops)) and end_of(done.text, stops) is None
