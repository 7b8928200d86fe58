"""What a completion says: words that a server's parser took away are an error that names the parser."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_graph.errors import PolicyResponseError
from lamer_graph.policies.answers import Answer, read_answer
from lamer_graph.policies.thoughts import as_thought
from lamer_graph.trial.answers import conclusion, extract


def answer_of(message: dict[str, Any], finish: str = "stop", said: tuple[str, ...] = (), opening: str = "") -> Answer:
    entries = [{"token": token, "logprob": -0.5} for token in said]
    choice = {"message": message, "finish_reason": finish, "logprobs": {"content": entries}}
    data = {"choices": [{**choice, "token_ids": [7] * len(said)}], "prompt_token_ids": [1]}
    return read_answer(data, "http://h", opening)


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


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thoughts_beside_an_answer_are_left_out_of_its_text_and_kept(field: str) -> None:
    answer = answer_of({"content": "(1, 2)", field: "Maybe (3, 4)"})
    assert answer.text == "(1, 2)"
    assert answer.thoughts == "Maybe (3, 4)"
    assert answer_of({"content": "(1, 2)", field: None}).thoughts == ""


MARKED = st.lists(st.sampled_from(["<think>", "</think>", "[/THINK]", "a", "<action>b</action>"])).map("".join)


@given(st.one_of(st.text(max_size=60), MARKED))
def test_whatever_a_thought_says_it_stays_one_in_the_text_of_a_log(words: str) -> None:
    logged = f"{as_thought(words)}<action>(1, 2)</action>"
    assert extract(logged, "action").text == "(1, 2)"
    assert conclusion(logged).strip() == "<action>(1, 2)</action>"


@pytest.mark.parametrize("finish", ["length", "stop"])
@pytest.mark.parametrize("reasoning", [{}, {"reasoning": None}])
def test_a_thought_that_the_template_opened_stands_in_the_text_with_its_mark(
    finish: str, reasoning: dict[str, Any]
) -> None:
    cut = {"content": "maybe <action>(1, 1)</action> but", **reasoning}
    assert extract(answer_of(cut, finish).text, "action").text == "(1, 1)"
    assert extract(answer_of(cut, finish, opening="<think>\n").text, "action") == (None, "no_tag")
    told = {"content": "maybe <action>(1, 1)</action></think><action>b</action>", **reasoning}
    assert extract(answer_of(told, finish, opening="<think>\n").text, "action").text == "b"
    again = {"content": "<think>maybe</think><action>b</action>", **reasoning}
    assert extract(answer_of(again, finish, opening="<think>\n").text, "action").text == "b"


@pytest.mark.parametrize("reasoning", ["Maybe (3, 4)", ""])
def test_a_text_that_a_parser_has_freed_of_its_thought_begins_in_none(reasoning: str) -> None:
    assert answer_of({"content": "(1, 2)", "reasoning": reasoning}, opening="<think>\n").text == "(1, 2)"


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
