"""Prompts are trimmed to the model's context in whole pieces, and memory that dies with the process is refilled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lamer_envs import make
from lamer_graph.errors import PolicyResponseError, PromptTooLongError
from lamer_graph.trial import calls
from lamer_graph.trial.driver import play_trial
from lamer_graph.trial.harness import make_harness
from lamer_graph.trial.steps import Ask
from lamer_graph.types import Message, Sampling
from lamer_memory import InContextMemory, MemoryConfig
from scripted import ScriptedPolicy, random_player

ENV = make("minesweeper", size=4, mines=3)


def played(policy: ScriptedPolicy, **options: Any) -> Any:
    harness = make_harness(policy, ENV, "trajectory", **options)
    return asyncio.run(play_trial(harness, {"seed": 1}))


def never_valid(messages: Any, sampling: Any) -> str:
    return "<action>(9, 9)</action>"


def lengths(policy: ScriptedPolicy) -> list[int]:
    return [sum(len(m["content"]) for m in messages) for messages in policy.seen]


def test_a_prompt_that_fits_is_sent_whole() -> None:
    policy = ScriptedPolicy(never_valid, window=1_000_000)
    result = played(policy)
    assert result.error is None
    assert all(t["call"]["dropped"] == 0 for e in result.state["episodes"] for t in e["turns"])


def test_a_long_prompt_loses_its_oldest_turns_keeps_the_newest_and_counts_them() -> None:
    whole = ScriptedPolicy(never_valid)
    played(whole, max_turns=30)
    window = max(lengths(whole)) - 500
    policy = ScriptedPolicy(never_valid, window=window)
    result = played(policy, max_turns=30, sampling=Sampling(max_tokens=100))
    dropped = [t["call"]["dropped"] for e in result.state["episodes"] for t in e["turns"]]
    assert result.error is None
    assert max(dropped) > 0
    assert max(lengths(policy)) <= window - 100
    for messages, count in zip(policy.seen, dropped, strict=True):
        text = messages[-1]["content"]
        own = [line for line in text.splitlines() if not line.startswith(">")]
        assert any("left out)" in line for line in own) == (count > 0)
        turns = [int(line.split()[1][:-1]) for line in text.splitlines() if line.startswith("Turn ")]
        assert turns == list(range(turns[0], turns[0] + len(turns))) if turns else True


def test_no_more_is_dropped_than_needed() -> None:
    whole = ScriptedPolicy(never_valid)
    played(whole, max_turns=30)
    window = max(lengths(whole)) - 500
    policy = ScriptedPolicy(never_valid, window=window)
    played(policy, max_turns=30, sampling=Sampling(max_tokens=100))
    piece = 90  # no piece of this prompt is longer
    assert max(lengths(policy)) > window - 100 - piece - 40


def test_a_context_that_cannot_hold_the_bare_prompt_is_an_error_that_says_by_how_much() -> None:
    result = played(ScriptedPolicy(random_player, window=700), sampling=Sampling(max_tokens=100))
    assert result.error["type"] == PromptTooLongError.__name__
    assert "more than the 600" in result.error["message"]


def test_the_answer_is_given_what_the_prompt_leaves_of_the_context() -> None:
    policy = ScriptedPolicy(never_valid, window=3_000)
    result = played(policy, sampling=Sampling(max_tokens=100_000))
    assert result.error is None
    for messages, sampling in zip(policy.seen, policy.samplings, strict=True):
        assert sampling.max_tokens == 3_000 - sum(len(m["content"]) for m in messages)


def test_records_of_a_finished_trial_do_not_pile_up_in_process_memory() -> None:
    backend = InContextMemory()
    harness = make_harness(ScriptedPolicy(random_player), ENV, MemoryConfig("both", backend=backend))
    played = asyncio.run(play_trial(harness, {"seed": 1}))
    assert len(played.state["records"]) == 4
    assert backend.namespaces() == []


class Counted(ScriptedPolicy):
    """One token for every `chars` characters, and a template of `template` tokens around them."""

    def __init__(self, *, window: int, chars: int = 1, template: int = 0, counts: bool = True) -> None:
        super().__init__(never_valid, window=window)
        self.chars, self.template, self.counts = chars, template, counts
        self.asked = 0

    def length(self, messages: Any) -> int:
        return self.template + sum(len(m["content"]) for m in messages) // self.chars

    async def count_tokens(self, messages: Any) -> int:
        self.asked += 1
        if not self.counts:
            raise PolicyResponseError("no such route")
        return self.length(messages)


def ask(prompt: int, max_tokens: int, pieces: int = 0) -> Ask:
    """A prompt of so many characters, in `pieces` that may be dropped."""

    def build(dropped: int) -> list[Message]:
        return [{"role": "user", "content": "x" * (prompt * (pieces - dropped) // pieces if pieces else prompt)}]

    return Ask(build, pieces, Sampling(max_tokens=max_tokens, seed=1))


def granted(policy: Counted, asked: Ask) -> int:
    asyncio.run(calls.call(policy, asked))
    return policy.samplings[-1].max_tokens


def test_an_answer_gets_what_was_asked_for_where_tokens_leave_the_room_and_bytes_would_not() -> None:
    policy = Counted(window=8192, chars=4, template=20)
    assert granted(policy, ask(5_000, max_tokens=6_000)) == 6_000  # 1,270 tokens, 5,000 bytes
    assert granted(policy, ask(10_000, max_tokens=6_000)) == 8192 - 2_520


def test_a_template_of_any_length_is_counted_before_a_prompt_passes_for_short() -> None:
    policy = Counted(window=2_000, template=900)
    # 1,000 bytes and an answer of 500: with 128 tokens for the template it would pass as it is.
    with pytest.raises(PromptTooLongError, match="400 more than the 1500"):
        granted(policy, ask(1_000, max_tokens=500))
    reply = asyncio.run(calls.call(policy, ask(1_000, max_tokens=500, pieces=10)))
    assert reply.dropped == 4  # 1,900 - 4 * 100 leaves the 500
    assert policy.length(reply.messages) + policy.samplings[-1].max_tokens == 2_000


def test_short_prompts_are_counted_once_for_their_template_and_never_again() -> None:
    policy = Counted(window=8192, template=900)
    for size in (10, 500, 2_000):
        assert granted(policy, ask(size, max_tokens=1_000)) == 1_000
    assert policy.asked == 1


def test_a_server_that_cannot_count_is_asked_within_what_bytes_prove() -> None:
    policy = Counted(window=8192, counts=False)
    assert granted(policy, ask(1_000, max_tokens=512)) == 512
    assert granted(policy, ask(5_000, max_tokens=6_000)) == 8192 - 5_000 - calls.MARGIN
    with pytest.raises(PolicyResponseError, match="no such route"):
        granted(policy, ask(9_000, max_tokens=6_000))
