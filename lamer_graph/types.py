"""Plain data that crosses module borders: messages, sampling, completions, seeds.

What must stay true: a Completion that is used for training holds the exact tokens that were sampled and the logprobs
of the distribution that they were sampled from. Nothing here tokenises again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from typing_extensions import TypedDict


class Message(TypedDict):
    """One chat message in OpenAI form."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn. `top_k=0` means off; `seed` makes the draw repeatable.

    It ends behind the first of the `stop` strings that stands outside of a thought; the string is kept in the text, and
    the tokens are all that were sampled up to the one that completed it.

    Train only on `temperature` with `top_p=1` and `top_k=0`: the logprobs of a truncated distribution are not those
    of the policy.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def with_seed(self, seed: int) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.max_tokens, seed, self.stop)

    def with_stop(self, *stop: str) -> Sampling:
        """The same, ending at these strings, too."""
        return replace(self, stop=(*self.stop, *stop))

    def to_json(self) -> dict[str, Any]:
        """As logs hold it: without stop strings where there are none, as logs were before them."""
        said = {**asdict(self), "stop": list(self.stop)}
        return said if self.stop else {name: value for name, value in said.items() if name != "stop"}


SAMPLING_PRESETS: dict[str, Sampling] = {
    # The distribution that training samples from (paper: temperature 1.0).
    "train": Sampling(temperature=1.0, top_p=1.0, top_k=0),
    # The paper's evaluation setting.
    "paper": Sampling(temperature=0.7, top_p=0.8, top_k=20),
}


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a policy.

    `token_ids` include the stop token if one was sampled; `logprobs[i]` is the log-probability (nats) of
    `token_ids[i]` under the sampling distribution. A policy that cannot give tokens leaves the three sequences empty:
    the call is then logged as not trainable. `thoughts` are words that a server's reasoning parser, or a provider, told
    apart from the text; "" where the text has them, or there are none. They are part of the tokens.
    """

    text: str
    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    policy_version: str
    finish_reason: str
    thoughts: str = ""

    @property
    def trainable(self) -> bool:
        return bool(self.token_ids) and len(self.token_ids) == len(self.logprobs)


def stable_seed(*parts: object) -> int:
    """A 62-bit seed from any JSON-like parts; the same in every process (never Python's `hash`)."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2
