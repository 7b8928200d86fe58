"""A standard prompt begins with the one before it: for caches, in tokens, whatever is played and said."""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_tokenizers import CUTTING, trained_tokenizer
from random_trials import ODD, Call, random_calls

ENVS = ["minesweeper:4x4-3", "sokoban:6x6-2", "alfworld", "webshop:1000"]
"""The second half's observations do not tell everything, so that their turns show them."""
SHOWN = ENVS[2:]


@functools.cache
def tokenizer_of(model: str) -> Any:
    calls = [call for spec in ENVS for call in random_calls(spec, 1)]
    return trained_tokenizer(model, [message["content"] for call in calls for message in call.messages])


def user(call: Call) -> str:
    return call.messages[1]["content"]


def stem(call: Call, *, observed: bool = False) -> str:
    """What of the call's user message stays: memory and turns; with `observed` also what is seen now."""
    text = user(call)
    now = "## At the end you see:\n" if call.turn is None else f"## Turn {call.turn}. You see:\n"
    if observed:
        now = next(
            mark
            for mark in ("## Possible actions include:\n", f"## Attempt {call.episode} of ")
            if f"\n\n{mark}" in text
        )
    place = f"\n\n{text}".rindex(f"\n\n{now}")
    return text[: max(0, place - 2)] if place else ""


def head(tokenizer: Any, call: Call, kept: str) -> list[int]:
    """The ids of the call's prompt up to the end of `kept`, which its user message begins with, and the next piece's
    mark."""
    text = rendered(tokenizer, call)
    begin = text[: text.index(user(call))] + (f"{kept}\n\n##" if kept else "##")
    assert text.startswith(begin)
    return ids(tokenizer, begin)


def rendered(tokenizer: Any, call: Call) -> str:
    return str(tokenizer.apply_chat_template(call.messages, add_generation_prompt=True, tokenize=False))


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("spec", ENVS)
@settings(max_examples=9, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    contents=st.sampled_from(["none", "reflection", "both"]),
    model=st.sampled_from(sorted(CUTTING)),
    strategy=st.sampled_from(["lamer", "react", "plan"]),
    thoughts=st.sampled_from(["hidden", "shown"]),
)
def test_a_prompt_begins_with_the_one_before_it_in_characters_and_in_tokens(
    spec: str, seed: int, contents: str, model: str, strategy: str, thoughts: str
) -> None:
    tokenizer = tokenizer_of(model)
    asked = {"strategy": strategy, "thoughts": thoughts}
    calls = list(random_calls(spec, seed, contents, ODD, max_episodes=2, max_turns=6, **asked))
    prompts = [ids(tokenizer, rendered(tokenizer, call)) for call in calls]
    for (before, first), (after, second) in pairwise(zip(calls, prompts, strict=True)):
        if before.episode != after.episode:
            continue
        assert before.messages[0] == after.messages[0]
        assert stem(after).startswith(stem(before))
        for kept in [stem(before), *([stem(before, observed=True)] if spec in SHOWN else [])]:
            assert user(after).startswith(f"{kept}\n\n## " if kept else "## ")
            shared = head(tokenizer, before, kept)
            assert first[: len(shared)] == shared == second[: len(shared)]


@pytest.mark.parametrize("spec", ENVS)
@pytest.mark.parametrize("seed", range(3))
def test_the_memory_of_an_episode_begins_with_that_of_the_one_before(spec: str, seed: int) -> None:
    first = [call for call in random_calls(spec, seed, "reflection") if call.turn == 1]
    for before, after in pairwise(first):
        assert user(after).startswith(stem(before))
        assert len(stem(after)) > len(stem(before))


def test_the_system_message_is_one_for_all_trials_of_an_environment() -> None:
    for spec in ENVS:
        said = {call.messages[0]["content"] for seed in range(5) for call in random_calls(spec, seed, max_turns=2)}
        assert len(said) == 1


def test_turns_are_told_by_action_and_outcome_where_one_observation_tells_all() -> None:
    for spec in ENVS:
        *_, last = (call for call in random_calls(spec, 3, "none", max_episodes=1))
        shown = user(last).count("You see:\n")
        assert shown == (last.turn if spec in SHOWN else 1)
        assert user(last).count("You played: ") == (last.turn or 0) - 1
