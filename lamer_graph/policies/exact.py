"""The exact tokens of a LangChain message: where they ride, and whether they are whole.

What must stay true: a message has all tokens that were sampled for it, with a finite logprob each, or it has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage

TOKENS_KEY = "lamer"
"""Key of `response_metadata` under which a message's tokens are: `prompt_token_ids`, `token_ids`, `logprobs` (nats, of
the distribution that was sampled from), `policy_version`, who answered, and `sampling`, how, where that is known."""
RAW_KEY = "lamer_text"
"""Key of `response_metadata` under which an answer's words stand as they were sampled, where LangChain took them
apart."""


def exact(message: AIMessage) -> Mapping[str, Any] | None:
    """A message's tokens, None where it has none or not all (a stream was cut, a parser kept some to itself)."""
    made = message.response_metadata.get(TOKENS_KEY)
    if not isinstance(made, Mapping) or not made.get("prompt_token_ids") or not made.get("policy_version"):
        return None
    ids, logprobs = made.get("token_ids"), made.get("logprobs")
    if not isinstance(ids, Sequence) or not isinstance(logprobs, Sequence) or len(ids) != len(logprobs) or not ids:
        return None
    if (usage := message.usage_metadata) and usage["output_tokens"] != len(ids):
        return None
    return made if all(isinstance(value, int | float) and math.isfinite(value) for value in logprobs) else None


DRAWN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens")
"""What of a request says how its answer was drawn."""


def drawn(requests: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """How answers were drawn, where all were drawn alike; None for what is not known, or was not alike."""
    found: dict[str, Any] = {}
    for name in DRAWN:
        values = [(one or {}).get(name) for one in requests]
        found[name] = values[0] if values and all(value == values[0] for value in values) else None
    return found


def tokens_of(data: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tokens of one choice of a completion, None where the server gave not all of them."""
    prompt, made, logprobs = data.get("prompt_token_ids"), choice.get("token_ids"), _logprobs(choice)
    if not prompt or not made or len(made) != len(logprobs) or not all(map(math.isfinite, logprobs)):
        return None
    return {
        "prompt_token_ids": list(prompt),
        "token_ids": list(made),
        "logprobs": logprobs,
        "policy_version": str(data.get("model")),
    }


def part_of(chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    """What a chunk of a stream adds to the tokens."""
    part: dict[str, Any] = {}
    if prompt := chunk.get("prompt_token_ids"):
        part["prompt_token_ids"] = list(prompt)
    if made := choice.get("token_ids"):
        part.update(token_ids=list(made), logprobs=_logprobs(choice))
    if choice.get("finish_reason"):  # once: texts of several chunks are joined
        part["policy_version"] = str(chunk.get("model"))
    return part


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    entries = (choice.get("logprobs") or {}).get("content") or ()
    return [float(entry["logprob"]) for entry in entries]
