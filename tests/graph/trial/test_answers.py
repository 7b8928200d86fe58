"""Answers are read without their thoughts, by their first complete pair of tags, in linear time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_graph.trial.answers import MAX_REMARK_CHARS, conclusion, extract, extract_remark

INSIDE = st.text(alphabet=st.characters(exclude_characters="<>[]◁", exclude_categories=["Cs"]), min_size=1).filter(
    str.strip
)
NO_MARKS = st.text(alphabet=st.characters(exclude_characters="<>[]◁"))
THOUGHTS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("< Think >", "< / THINK>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
]


# -- tags -------------------------------------------------------------------------------------------------------------


@given(before=NO_MARKS, inside=INSIDE, after=st.text())
def test_the_first_complete_tag_is_found_whatever_follows_it(before: str, inside: str, after: str) -> None:
    if "think" not in after and "reasoning" not in after:
        assert extract(f"{before}<action>{inside}</action>{after}", "action") == (inside.strip(), None)


@given(st.text())
def test_any_text_is_read_without_an_exception(text: str) -> None:
    found = extract(text, "action")
    assert (found.text is None) != (found.failure is None)
    remark, _ = extract_remark(text)
    assert len(remark) <= MAX_REMARK_CHARS


@pytest.mark.parametrize(
    ("answer", "inside"),
    [
        ("<action>a</action><action>b</action>", "a"),
        ("< Action >\n  (1, 2)\n</ ACTION >", "(1, 2)"),
        ("<action>a</action> then <action>b", "a"),
        ("<action>a<action>b</action>", "b"),
        ("I answer between <action> tags. <action>b</action>", "b"),
        ("</action> <action>a</action>", "a"),
        ("<action>a</action></action>", "a"),
        ("<action>(1, 1)</action>\nTurn 2. You saw:\n? ?\n<action>(2, 2)</action>", "(1, 1)"),
    ],
)
def test_an_answer_ends_at_its_first_closing_tag(answer: str, inside: str) -> None:
    assert extract(answer, "action").text == inside


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("go left", "no_tag"),
        ("<action>go", "unclosed"),
        ("<action>  </action>", "empty"),
        ("<action></action><action>a</action>", "empty"),
        ("", "no_tag"),
    ],
)
def test_failures_are_typed(answer: str, failure: str) -> None:
    assert extract(answer, "action") == (None, failure)


@pytest.mark.parametrize(
    "attack",
    [
        "<action>" * 125_000,
        "<" * 1_000_000,
        "< " * 500_000 + "action>",
        "</action>" * 110_000,
        "<think>" * 140_000,
        "<think>" * 70_000 + "</think>" * 70_000,
        "</think>" * 125_000,
        "<think></think>" * 66_000,
        "<think>[THINK]" * 70_000,
        "<" + " " * 1_000_000 + "think>",
        "<action>" + "y" * 1_000_000 + "</remark>",
    ],
)
@pytest.mark.timeout(10)
def test_a_megabyte_of_hostile_answer_is_read_in_linear_time(attack: str) -> None:
    for tag in ("action", "remark"):
        extract(attack, tag)
    extract_remark(attack)


# -- thoughts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opening", "closing"), THOUGHTS)
def test_nothing_inside_a_thought_counts(opening: str, closing: str) -> None:
    inside = "maybe <action>(1, 1)</action> <remark>your reflection</remark> but it is a mine, no"
    for answer, action in (
        (f"{opening}{inside}{closing} I will open (2, 2).", None),
        (f"{opening}{inside}{closing} <action>(2, 2)</action>", "(2, 2)"),
        (f"{inside}{closing} <action>(2, 2)</action>", "(2, 2)"),  # the template opened it
        (f"{opening}{inside}", None),  # never closed
        (f"{opening}a{closing}{opening}{inside}{closing}<action>(2, 2)</action>", "(2, 2)"),
        (f"{opening}a {opening}b{closing} {inside}{closing} <action>(2, 2)</action>", "(2, 2)"),  # nested
        (f"{opening}I speak of {opening} here{closing} <action>(2, 2)</action>", "(2, 2)"),
        (f"<action>(2, 2)</action> {opening}{inside}{closing}", "(2, 2)"),
        (f"<action>(2, {opening}{inside}{closing} 2)</action>", "(2,   2)"),
    ):
        assert extract(answer, "action").text == action, answer


def test_marks_of_another_kind_neither_open_nor_close_a_thought() -> None:
    assert extract("<think>a</thinking><action>b</action></think><action>c</action>", "action").text == "c"
    assert extract("<think>a <reasoning></think><action>c</action>", "action").text == "c"
    assert extract("[think] thinking is fine <action>c</action>", "action").text == "c"


def test_a_second_turn_that_is_imagined_is_not_played() -> None:
    imagined = "hm</think><action>a</action><|im_end|>\nuser\nnow?\nassistant\nhm</think><action>b</action>"
    assert extract(imagined, "action").text == "a"


@given(st.lists(st.sampled_from(["<think>", "</think>", "[THINK]", "[/THINK]", "x", "<action>", "</action>"])))
def test_what_stands_between_a_mark_and_its_partner_never_counts(pieces: list[str]) -> None:
    text = "".join(pieces)
    rest = conclusion(text)
    simple = re.sub(r"<think>.*?</think>|\[THINK\].*?\[/THINK\]", "", text, flags=re.S)
    assert rest.count("x") <= simple.count("x")
    assert conclusion(f"<think>{text.replace('</think>', '')}</think>").strip() == ""
    if not re.search(r"think", text, re.I):
        assert rest == text


# -- reflections ------------------------------------------------------------------------------------------------------


def test_a_reflection_without_its_tag_is_kept_and_the_failure_reported() -> None:
    assert extract_remark("the left side is mined") == ("the left side is mined", "no_tag")
    assert extract_remark("hm <remark>the left side") == ("the left side", "unclosed")
    assert extract_remark("hm <remark> the left side </remark>") == ("the left side", None)
    assert extract_remark("<remark></remark>") == ("", "empty")
    assert len(extract_remark("<remark>" + "x" * 9_000 + "</remark>")[0]) == MAX_REMARK_CHARS


def test_bounds_are_applied_to_what_was_read() -> None:
    text, failure = extract_remark("<remark>" + "y" * 25_000 + "</remark>")
    assert (text, failure) == ("y" * MAX_REMARK_CHARS, None)
    assert extract("x" * 100_000 + "<action>a</action>" + "x" * 100_000, "action").text == "a"


@pytest.mark.parametrize(("opening", "closing"), THOUGHTS)
def test_the_conclusion_is_remembered_and_the_thought_is_not(opening: str, closing: str) -> None:
    thought = "t" * 3_000
    assert extract_remark(f"{opening}{thought}{closing}\nThe mine is at (2, 3).") == (
        "The mine is at (2, 3).",
        "no_tag",
    )
    quoting = f"{opening}I write <remark>your reflection</remark>{closing} The mine is at (2, 3)."
    assert extract_remark(quoting) == ("The mine is at (2, 3).", "no_tag")
    assert extract_remark(f"{opening}<remark>{thought}{closing}<remark>(2, 3)</remark>") == ("(2, 3)", None)
    assert extract_remark(f"{opening}{thought}") == ("", "no_tag")
    assert extract_remark(f"<remark>{opening}{thought}{closing}(2, 3)</remark>") == ("(2, 3)", None)
