"""What a completion says: words that a server's parser took away are an error that names the parser."""

from __future__ import annotations

from typing import Any

import pytest

from lamer_graph.errors import PolicyResponseError
from lamer_graph.policies.answers import Answer, read_answer


def answer_of(message: dict[str, Any], finish: str = "stop", said: tuple[str, ...] = ()) -> Answer:
    entries = [{"token": token, "logprob": -0.5} for token in said]
    choice = {"message": message, "finish_reason": finish, "logprobs": {"content": entries}}
    return read_answer({"choices": [{**choice, "token_ids": [7] * len(said)}], "prompt_token_ids": [1]}, "http://h")


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("content", [None, ""])
def test_an_answer_that_a_reasoning_parser_took_is_an_error_that_names_parser_and_fix(
    field: str, content: str | None
) -> None:
    message = {"content": content, field: "<action>(1, 2)</action>"}
    with pytest.raises(
        PolicyResponseError, match=f"http://h .*'{field}'.*reasoning parser.*--reasoning-parser"
    ) as caught:
        answer_of(message, said=("<action>", "(1, 2)", "</action>"))
    assert "\n" not in str(caught.value)


def test_a_thought_that_ran_out_of_tokens_is_the_thought_as_without_a_parser() -> None:
    answer = answer_of({"content": None, "reasoning": "Maybe (1, 2)"}, "length", ("Maybe", " (1, 2)"))
    assert answer.text == "<think>\nMaybe (1, 2)"
    assert answer.exact


def test_thoughts_beside_an_answer_are_left_out() -> None:
    assert answer_of({"content": "(1, 2)", "reasoning": "Maybe (3, 4)"}).text == "(1, 2)"


def test_tokens_with_words_but_no_text_are_an_error() -> None:
    with pytest.raises(PolicyResponseError, match=r"sampled '\(1, 2\)' but gave no text: a reasoning or tool parser"):
        answer_of({"content": None}, said=("(1, ", "2)", "<|im_end|>"))


@pytest.mark.parametrize("said", [(), ("<|im_end|>",), ("<|im_start|>", "<|im_end|>"), ("\ufffd", "</s>"), ("", " ")])
def test_an_answer_of_nothing_but_special_tokens_is_empty(said: tuple[str, ...]) -> None:
    assert answer_of({"content": ""}, said=said).text == ""


def test_tool_calls_without_text_are_an_error_and_a_refusal_is_text() -> None:
    with pytest.raises(PolicyResponseError, match=r"tool calls and no text: .*--tool-call-parser"):
        answer_of({"content": None, "tool_calls": [{"id": "1"}]})
    assert answer_of({"content": None, "refusal": "I will not."}).text == "I will not."
