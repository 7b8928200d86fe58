"""Text from outside in the one form that every encoding and database takes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_graph.text import loads, plain, plain_json

ANY = st.text(st.characters())


@given(ANY)
def test_any_text_becomes_one_that_can_be_encoded_and_stored(text: str) -> None:
    safe = plain(text)
    assert "\0" not in safe
    assert safe.encode().decode() == safe
    assert plain(safe) == safe


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_text_that_needs_no_escape_stays_as_it_is(text: str) -> None:
    assert plain(text) is text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a\x00b", r"a\x00b"),
        ("half \ud83d", r"half \ud83d"),
        ("\ude00 half", r"\ude00 half"),
        ("whole \ud83d\ude00", "whole \U0001f600"),
        ("both \x00 \ud83d, é", r"both \x00 \ud83d, é"),
    ],
)
def test_what_cannot_be_stored_survives_in_escaped_form(text: str, safe: str) -> None:
    assert plain(text) == safe
    assert plain_json({text: [text, {"in": (text, 1, None)}]}) == {safe: [safe, {"in": [safe, 1, None]}]}


@given(st.recursive(ANY | st.integers(-(2**53), 2**53) | st.none(), lambda inner: st.lists(inner)))
def test_json_with_half_a_pair_is_read(value: object) -> None:
    assert plain_json(loads(json.dumps(value).encode())) == plain_json(value)


def test_what_is_not_json_is_refused() -> None:
    for bad in (b"{", b'{"a": \\ud83d}', b"\xff", b"[" * 100_000 + b'"\\ud83d"'):
        with pytest.raises(ValueError, match=r"."):
            loads(bad)
