"""How a request goes on with its thread, whatever of the conversation a client sends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from starlette.exceptions import HTTPException

from lamer_graph.web.agent.threads import Step, next_step


def step(before: Any, asked: Any, **more: bool) -> Step:
    return next_step(before, asked, **{"waits": False, "cut": False, "retried": False, **more})


def talk(*words: str) -> list[Any]:
    """A conversation in which every word of a person is answered."""
    return [message for word in words for message in (HumanMessage(word), AIMessage(f"{word}!"))]


def said(found: Step) -> list[str]:
    return [message.text for message in found.messages]


@given(st.lists(st.sampled_from("abc"), max_size=5), st.sampled_from("abc"), st.integers(0, 5))
def test_the_whole_its_end_and_what_is_new_make_the_same_thread(words: list[str], new: str, cut: int) -> None:
    before = talk(*words)
    ways = [[HumanMessage(new)], [*talk(*words), HumanMessage(new)]]
    if words:
        ways.append([*talk(*words[min(cut, len(words) - 1) :]), HumanMessage(new)])  # a client that forgets the oldest
        ways.append([SystemMessage("It is noon."), *talk(*words), HumanMessage(new)])
    for asked in ways:
        found = step(before, asked)
        if found.do == "answer again":  # the same words said again and again cannot be told from a retry
            assert new in words
            continue
        assert found.do == "say"
        assert said(found)[-1] == new
        assert not any(isinstance(message, AIMessage) for message in found.messages) or not before


def test_words_of_the_agent_that_the_thread_has_not_do_not_matter() -> None:
    before = [HumanMessage("a")]  # every attempt failed: there is no answer
    assert said(step(before, [*talk("a"), HumanMessage("b")])) == ["b"]


def test_another_conversation_is_refused() -> None:
    with pytest.raises(HTTPException, match="another conversation"):
        step(talk("a"), [*talk("z"), HumanMessage("b")])


def test_a_first_request_may_bring_a_history_and_a_system_message() -> None:
    asked = [SystemMessage("Be brief."), *talk("a"), HumanMessage("b")]
    assert list(step([], asked).messages) == asked


def test_the_thread_keeps_its_system_message_and_says_so() -> None:
    before = [SystemMessage("It is nine."), *talk("a")]
    found = step(before, [SystemMessage("It is ten."), *talk("a"), HumanMessage("b")])
    assert (said(found), found.left_out) == (["b"], True)
    assert not step(before, [SystemMessage("It is nine."), *talk("a"), HumanMessage("b")]).left_out


def test_what_was_sent_before_is_answered_again_and_what_was_cut_short_goes_on() -> None:
    assert step(talk("a"), [HumanMessage("a")], retried=True).do == "answer again"
    assert step(talk("a"), talk("a")[:1]).do == "say"  # a person may say the same twice
    assert step(talk("a", "b"), [*talk("a"), HumanMessage("b")]).do == "answer again"
    assert step([HumanMessage("a")], [HumanMessage("a")], cut=True).do == "go on"
    assert step([HumanMessage("a")], [HumanMessage("b")], cut=True).do == "say"
    assert step(talk("a"), [HumanMessage("yes")], waits=True).do == "reply"
