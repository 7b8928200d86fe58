"""What a chat completion says: its text and tokens, and whether words of the answer were put somewhere else.

What must stay true: the text is what the model said to the player. An answer whose words a server's parser took away
is an error that names the parser, never an empty action; one that ended inside its thought is that thought, as a
server without a parser would have given it. Pure functions over the server's JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from lamer_graph.errors import PolicyResponseError

REASONING_FIELDS = ("reasoning", "reasoning_content")
"""Where a reasoning parser puts what it takes for thoughts: vLLM's field, and its older name that others still use."""

STOPPED_BY = ("stop_reason", "matched_stop")
"""Where servers name the stop string that ended an answer; something else where another token did."""

_NO_WORDS = re.compile(r"<[^<>\s]*>|\N{REPLACEMENT CHARACTER}")
"""Tokens that leave no text: special ones, and bytes of a character that was never finished."""


class Answer(NamedTuple):
    """Text, tokens and why it ended; `thoughts` are what a parser took out of the text. `exact` says whether there is a
    finite logprob for every token."""

    text: str
    prompt_token_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    thoughts: str = ""

    @property
    def exact(self) -> bool:
        return (
            len(self.logprobs) == len(self.token_ids) > 0
            and bool(self.prompt_token_ids)
            and all(map(math.isfinite, self.logprobs))
        )


def read_answer(data: dict[str, Any], address: str, opening: str = "", stops: Sequence[str] = ()) -> Answer:
    """The first choice of a completion. Raises PolicyResponseError, with `address` in it.

    `opening` is the mark of the thought that answers begin inside of (`Renderer.opening`). It is put before a text that
    no parser has freed of its thought. `stops` are the strings that the server was told to stop at.
    """
    try:
        choice = data["choices"][0]
        message = choice["message"]
        finish = choice["finish_reason"] or ""
        entries = (choice.get("logprobs") or {}).get("content") or ()
        answer = Answer(
            message["content"] or "",
            data.get("prompt_token_ids") or [],
            choice.get("token_ids") or [],
            [entry["logprob"] for entry in entries],
            finish,
        )
        answer.exact  # noqa: B018  (numbers, or a TypeError)
        if answer.text == "":
            said = "".join(str(entry.get("token") or "") for entry in entries)
            return answer._replace(text=_elsewhere(message, finish, said, address))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise PolicyResponseError(f"{address} gave a malformed completion ({type(error).__name__})") from error
    if not isinstance(answer.text, str):
        raise PolicyResponseError(f"{address} gave a malformed completion (text is {type(answer.text).__name__})")
    answer = answer._replace(text=_with_stop(answer, choice, stops))
    thoughts = next((words for field in REASONING_FIELDS if isinstance(words := message.get(field), str)), None)
    return answer._replace(text=opening + answer.text) if thoughts is None else answer._replace(thoughts=thoughts)


def _with_stop(answer: Answer, choice: dict[str, Any], stops: Sequence[str]) -> str:
    """The text with the stop string that ended it, which most servers cut away.

    Some say which it was (vLLM, SGLang). Of others it is taken to be a closing tag whose opening one stands open.
    """
    text = answer.text
    if answer.finish_reason != "stop" or text.endswith(tuple(stops)):
        return text
    for field in STOPPED_BY:
        if field in choice:
            return text + choice[field] if choice[field] in stops else text
    open_tags = (stop for stop in stops if stop.startswith("</") and text.rfind(f"<{stop[2:]}") > text.rfind(stop))
    return text + next(open_tags, "")


def _elsewhere(message: dict[str, Any], finish: str, said: str, address: str) -> str:
    """The text of an answer without content. Raises PolicyResponseError where a parser has the words."""
    for field in REASONING_FIELDS:
        words = message.get(field)
        if not isinstance(words, str) or not words.strip():
            continue
        if finish == "length":  # out of tokens before the answer began: the model's own doing
            return f"<think>\n{words}"
        raise PolicyResponseError(
            f"{address} put the whole answer into '{field}' and left its content empty: the server's reasoning parser "
            "takes it for a thought; serve without --reasoning-parser, or with thinking on in the chat template"
        )
    if message.get("tool_calls"):
        raise PolicyResponseError(
            f"{address} answered with tool calls and no text: serve without --enable-auto-tool-choice and "
            "--tool-call-parser"
        )
    if isinstance(refusal := message.get("refusal"), str):
        return refusal
    if words := _NO_WORDS.sub("", said).strip():
        raise PolicyResponseError(
            f"{address} sampled {words[:80]!r} but gave no text: a reasoning or tool parser of the server took the "
            "words; serve without --reasoning-parser and --tool-call-parser"
        )
    return ""
