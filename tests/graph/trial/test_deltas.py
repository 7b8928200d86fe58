"""Calls kept by what is new in them come back exactly, and cost what is new."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from lamer_graph.trial.deltas import MOST, packed, pieces, unpacked

texts = st.text(alphabet=st.characters(), max_size=80) | st.lists(
    st.sampled_from(["You saw a desk 1 and a shelf 2. ", "turn 3", "\ud83d", "\U0001f600", "\n"]), max_size=12
).map("".join)
roles = st.sampled_from(["system", "user", "assistant"])
ids = st.lists(st.integers(0, 40) | st.sampled_from([0xD800, 0xDFFF, MOST - 1, MOST, 1 << 40]), max_size=90)
calls = st.builds(
    lambda messages, prompt: {"messages": messages, "prompt_token_ids": prompt, "token_ids": [1], "seed": 3},
    st.lists(st.builds(lambda role, text: {"role": role, "content": text}, roles, texts), max_size=4),
    ids,
)


def kept(made: list[Any]) -> list[Any]:
    return [packed(call, before) for call, before in zip(made, [None, *made], strict=False)]


@given(st.lists(calls, max_size=6))
def test_calls_come_back_exactly(made: list[Any]) -> None:
    assert unpacked(kept(made)) == made
    assert unpacked(made) == made


@given(old=texts, new=texts)
def test_pieces_put_together_are_the_text(old: str, new: str) -> None:
    assert "".join(old[start : start + length] + added for start, length, added in pieces(old, new)) == new


def test_a_call_costs_what_is_new_in_it() -> None:
    made = []
    for turn in range(60):
        history = "".join(f"Turn {i}. You saw:\nOn the shelf {i * 7} you see a bowl {i}.\n" for i in range(turn))
        text = f"# Attempt 1 of 3, turn {turn} of 60\n{history}Now you see:\nOn the shelf {turn * 7} you see nothing.\n"
        prompt = [ord(c) for c in text]
        made.append({"messages": [{"role": "user", "content": text}], "prompt_token_ids": prompt})
    sizes = [len(orjson.dumps(call)) for call in kept(made)]
    assert max(sizes[30:]) < 1.1 * max(sizes[1:30])
    assert sum(sizes) < 0.1 * len(orjson.dumps(made))
    assert unpacked(orjson.loads(orjson.dumps(kept(made)))) == made


def test_a_prompt_that_lost_its_oldest_turns_costs_little() -> None:
    pieces_of = [f"Turn {i}. You saw a bowl {i * 31} on a shelf {i * 17}.\n" for i in range(40)]
    cut = pieces("rules\n" + "".join(pieces_of), "rules\n" + "".join(pieces_of[7:]) + "one more")
    assert len(orjson.dumps(cut)) < 120
