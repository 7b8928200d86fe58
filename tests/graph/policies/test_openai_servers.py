"""OpenAIPolicy and servers of every kind: windows of adapters, fields that a server lacks, answers that hide, time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from fake_server import MODEL, FakeServer, fake_server
from lamer_graph import create_lamer_agent
from lamer_graph.errors import ConfigError, PolicyConnectionError, PolicyResponseError, PromptTooLongError
from lamer_graph.policies.base import Watched
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.trial.calls import call
from lamer_graph.trial.steps import Ask
from lamer_graph.types import Message, Sampling
from scripted_server import completion, scripted_server

ACT: list[Message] = [{"role": "user", "content": "Act"}]
ADAPTER = "policy-v0001"


def long_history(turns: int = 24, sampling: Sampling | None = None) -> Ask:
    """A prompt of many long turns, of which any number may be dropped."""

    def build(dropped: int) -> list[Message]:
        return [{"role": "user", "content": f"turn {turn} " + "x" * 80} for turn in range(dropped, turns)]

    return Ask(build, turns - 1, sampling or Sampling(max_tokens=8, seed=1))


# -- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connect", [True, False])
@pytest.mark.parametrize("training", [True, False])
async def test_an_adapters_window_is_its_bases_and_long_histories_are_trimmed_to_it(
    connect: bool, training: bool
) -> None:
    with fake_server(context=300) as server:
        server.adapters.add(ADAPTER)
        policy = OpenAIPolicy(server.url, ADAPTER, training=training)
        if connect:
            await policy.connect()
        reply = await call(policy, long_history())
        await policy.aclose()
    assert policy.context_window == 300
    assert 0 < reply.dropped < 23
    assert reply.completion.policy_version == ADAPTER


async def test_a_window_is_asked_for_once_by_all_calls_together() -> None:
    asked = []
    with fake_server() as server:
        policy = OpenAIPolicy(server.url, MODEL)
        cards = policy._cards

        async def counted(*arguments: Any, **options: Any) -> Any:
            asked.append(arguments)
            return await cards(*arguments, **options)

        policy._cards = counted  # type: ignore[method-assign]
        await asyncio.gather(*(policy.generate(ACT, Sampling(seed=seed)) for seed in range(20)))
        await policy.aclose()
    assert len(asked) == 1


async def test_a_failure_to_learn_the_window_is_shared_by_the_calls_that_waited_and_tried_again_by_the_next() -> None:
    with fake_server("500") as server:
        policy = OpenAIPolicy(server.url, MODEL, max_retries=0)
        calls = (policy.generate(ACT, Sampling(seed=seed)) for seed in range(20))
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in failed] == [PolicyConnectionError] * 20
        server.fault = ""
        assert (await policy.generate(ACT, Sampling(seed=1))).text
        await policy.aclose()


async def test_an_answer_longer_than_the_context_is_asked_for_as_long_as_it_can_be() -> None:
    with fake_server(context=400) as server:
        done = await OpenAIPolicy(server.url, MODEL).generate(ACT, Sampling(max_tokens=512, seed=1))
        assert server.asked["max_tokens"] == 400
    assert done.text


async def test_an_answer_that_would_not_fit_behind_the_prompt_gets_the_room_that_is_left() -> None:
    said = "This model's maximum context length is 100 tokens. However, you requested 130 tokens (70 in the messages)."
    answers = ((400, {"error": {"message": said}}, {}), (200, {"count": 70}, {}), (200, completion(), {}))
    with scripted_server(*answers) as (address, seen):
        policy = OpenAIPolicy(address, "m", context_window=4096)
        assert (await policy.generate(ACT, Sampling(max_tokens=60))).text == "hi"
        await policy.aclose()
    assert [request["body"].get("max_tokens") for request in seen] == [60, None, 30]


async def test_a_prompt_that_does_not_fit_at_all_says_by_how_much() -> None:
    with fake_server(context=64) as server:
        policy = OpenAIPolicy(server.url, MODEL)
        with pytest.raises(PromptTooLongError, match=r"prompt of 100 tokens exceeds the context of 64 .* by 36"):
            await policy.generate([{"role": "user", "content": "x" * 400}], Sampling(seed=1))
        await policy.aclose()


@pytest.mark.parametrize("connect", [True, False])
async def test_a_window_that_nobody_says_is_refused_for_training_and_unknown_otherwise(connect: bool) -> None:
    cards = {"data": [{"id": "m", "owned_by": "somebody"}]}

    async def asked(policy: OpenAIPolicy) -> int | None:
        if connect:
            await policy.connect()
        await policy.generate(ACT, Sampling())
        return await policy.window()

    with scripted_server((200, completion(), {}), cards=cards) as (address, _):
        with pytest.raises(
            ConfigError, match=r"does not say .* of 'm' is: .*cannot be collected from; .*--policy DIR.*context_window"
        ):
            await asked(OpenAIPolicy(address, "m", training=True))
        assert await asked(OpenAIPolicy(address, "m", training=True, context_window=512)) == 512
        assert await asked(OpenAIPolicy(address, "m")) is None


async def test_a_server_without_a_list_of_models_plays_but_is_not_trained_on() -> None:
    with scripted_server((200, completion(), {}), cards=None) as (address, _):
        assert (await OpenAIPolicy(address, "m").generate(ACT, Sampling())).text == "hi"
        with pytest.raises(PolicyResponseError, match="/v1/models is not there"):
            await OpenAIPolicy(address, "m", training=True).generate(ACT, Sampling())


# -- someone else's server --------------------------------------------------------------------------------------------


def test_the_ten_lines_work_against_a_plain_server(server: FakeServer) -> None:
    server.fault = "plain"
    agent = create_lamer_agent(OpenAIPolicy(server.url), "minesweeper:4x4-3", memory="reflection")
    result = agent.invoke({"task": {"seed": 7}})
    assert result["episodes"][0]["turns"]
    assert server.asked.keys() == {"model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop"}


async def test_what_a_server_does_not_take_is_left_out_and_known_to_be(server: FakeServer) -> None:
    policy = OpenAIPolicy(server.url)
    await policy.generate(ACT, Sampling(seed=1))
    assert policy.as_sent(Sampling(seed=1)) == Sampling(seed=1).to_json()
    server.fault = "plain"
    done = await policy.generate(ACT, Sampling(seed=1))
    assert done.policy_version == f"{MODEL}-2026-11-29"
    left_out = {"top_k": None, "min_p": None, "repetition_penalty": None}
    assert policy.as_sent(Sampling(seed=1)) == {**Sampling(seed=1).to_json(), **left_out}
    await policy.aclose()


@pytest.mark.parametrize(
    ("said", "left_out"),
    [
        ("Unknown parameter: 'top_k'.", {"top_k"}),
        ("top_k must be -1 (disable), or at least 1, got 0.", {"top_k"}),
        ('Unknown name "seed": Cannot find field.', {"seed"}),
        ("'top_p' is not supported with this model.", {"top_p"}),
        ("extra fields not permitted", {"top_k", "min_p", "repetition_penalty"}),
    ],
)
async def test_the_field_that_a_refusal_names_is_left_out(said: str, left_out: set[str]) -> None:
    refusal = (400, {"error": {"message": said}}, {})
    with scripted_server(refusal, (200, completion(), {})) as (address, seen):
        policy = OpenAIPolicy(address, "m")
        for _ in range(2):
            await policy.generate(ACT, Sampling(seed=1))
        await policy.aclose()
    bodies: Sequence[dict[str, Any]] = [request["body"] for request in seen]
    assert len(bodies) == 3
    assert bodies[0].keys() - bodies[1].keys() == left_out
    assert bodies[2] == bodies[1]
    assert {name for name, value in policy.as_sent(Sampling(seed=1)).items() if value is None} == left_out


async def test_a_newer_name_of_the_answers_length_is_used_where_the_server_says_so() -> None:
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    with scripted_server((400, {"error": {"message": said}}, {}), (200, completion(), {})) as (address, seen):
        await OpenAIPolicy(address, "m").generate(ACT, Sampling(max_tokens=9))
    assert "max_tokens" not in seen[1]["body"]
    assert seen[1]["body"]["max_completion_tokens"] == 9


@pytest.mark.parametrize(
    ("sampling", "training", "said"),
    [
        (Sampling(top_k=20), False, "top_k must be at most 10, got 20"),
        (Sampling(temperature=0.7), False, "'temperature' does not support 0.7 with this model."),
        (Sampling(), True, "Unknown parameter: 'top_k'."),
        (Sampling(), False, "the prompt is against our rules"),
    ],
)
async def test_a_refusal_that_nothing_harmless_mends_is_an_error_in_the_servers_words(
    sampling: Sampling, training: bool, said: str
) -> None:
    with scripted_server((400, {"error": {"message": said}}, {})) as (address, seen):
        policy = OpenAIPolicy(address, "m", training=training)
        with pytest.raises(PolicyResponseError, match=f"refused the request .400.: {said[:20]}"):
            await policy.generate(ACT, sampling)
        await policy.aclose()
    assert len(seen) <= 2
    assert policy.as_sent(sampling) == sampling.to_json()


TOP_K = "top_k 20 cannot be had from this server; use top_k 0 (--sampling train)"


async def test_what_was_asked_for_is_refused_before_and_after_the_server_is_known(server: FakeServer) -> None:
    server.fault = "plain"
    policy = OpenAIPolicy(server.url)
    asked = Sampling(top_k=20, seed=1)
    said = []
    for _ in range(2):
        with pytest.raises(PolicyResponseError) as refused:
            await policy.generate(ACT, asked)
        said.append(str(refused.value))
        await policy.generate(ACT, Sampling(seed=1))
    assert said[0] == said[1] == f"{TOP_K} ({server.url})"
    assert policy.unheeded(asked) == ["top_k"]
    assert policy.unheeded(Sampling(seed=1)) == []
    with pytest.raises(ConfigError) as unheeded:
        create_lamer_agent(Watched(policy, lambda: None), "minesweeper:4x4-3", sampling=asked)
    assert str(unheeded.value) == said[0]
    await policy.aclose()


async def test_a_field_that_is_not_named_is_named_as_a_guess() -> None:
    refusal = (400, {"error": {"message": "extra fields not permitted"}}, {})
    with (
        scripted_server(refusal) as (address, _),
        pytest.raises(PolicyResponseError, match=r"extra fields not permitted; top_k 20 may be why"),
    ):
        await OpenAIPolicy(address, "m").generate(ACT, Sampling(top_k=20))


async def test_a_server_that_takes_no_0_still_gets_a_20() -> None:
    refusal = (400, {"error": {"message": "top_k must be -1 (disable), or at least 1, got 0."}}, {})
    with scripted_server(refusal, (200, completion(), {})) as (address, seen):
        policy = OpenAIPolicy(address, "m")
        await policy.generate(ACT, Sampling(seed=1))
        assert policy.unheeded(Sampling(top_k=20)) == []
        await policy.generate(ACT, Sampling(top_k=20, seed=1))
        assert policy.as_sent(Sampling(top_k=20))["top_k"] == 20
        await policy.aclose()
    assert [request["body"].get("top_k") for request in seen] == [0, None, 20]


@pytest.mark.parametrize(
    "said",
    [
        "System role not supported",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
    ],
)
async def test_a_model_without_a_system_role_gets_its_words_in_the_users_message(said: str) -> None:
    refusal = (400, {"error": {"message": said}}, {})
    with scripted_server(refusal, (200, completion(), {})) as (address, seen):
        policy = OpenAIPolicy(address, "m")
        assert policy.rendering is None
        for _ in range(2):
            await policy.generate([{"role": "system", "content": "The rules."}, *ACT], Sampling())
        await policy.aclose()
    folded = [{"role": "user", "content": "The rules.\n\nAct"}]
    assert [request["body"]["messages"] == folded for request in seen] == [False, True, True]
    assert policy.folds_system is True


async def test_who_forbids_folding_gets_the_servers_refusal() -> None:
    refusal = (400, {"error": {"message": "System role not supported"}}, {})
    asked: list[Message] = [{"role": "system", "content": "The rules."}, *ACT]
    with (
        scripted_server(refusal) as (address, _),
        pytest.raises(PolicyResponseError, match="System role not supported"),
    ):
        await OpenAIPolicy(address, "m", fold_system=False).generate(asked, Sampling())


@pytest.mark.parametrize("fault", ["plain, no system", "plain, new limit"])
def test_an_agent_plays_on_servers_that_lack_more(server: FakeServer, fault: str) -> None:
    server.fault = fault
    policy = OpenAIPolicy(server.url)
    result = create_lamer_agent(policy, "minesweeper:4x4-3", memory="reflection").invoke({"task": {"seed": 7}})
    assert result["episodes"][0]["turns"]
    folded = fault == "plain, no system"
    assert policy.rendering == ({"template": {}, "folded": True} if folded else None)
    assert ("max_completion_tokens" in server.asked) is not folded
    assert ("system" in {message["role"] for message in server.asked["messages"]}) is not folded


@pytest.mark.parametrize(
    ("said", "renamed"),
    [
        ("Unrecognized request argument supplied: max_tokens", True),
        ("Unknown parameter: 'max_tokens'.", True),
        ("max_tokens must be at most 4096, got 5000", False),
    ],
)
async def test_a_limit_that_is_not_known_is_given_its_newer_name_and_one_too_large_is_not(
    said: str, renamed: bool
) -> None:
    with scripted_server((400, {"error": {"message": said}}, {}), (200, completion(), {})) as (address, seen):
        policy = OpenAIPolicy(address, "m")
        for _ in range(2):
            await policy.generate(ACT, Sampling(max_tokens=9))
        await policy.aclose()
    assert ["max_completion_tokens" in request["body"] for request in seen] == [False, renamed, renamed]


# -- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
async def test_words_that_a_reasoning_parser_took_are_never_an_empty_answer(training: bool) -> None:
    answer = completion(message={"content": None, "reasoning": "<action>(1, 2)</action>"})
    with (
        scripted_server((200, answer, {})) as (address, _),
        pytest.raises(PolicyResponseError, match="reasoning parser"),
    ):
        await OpenAIPolicy(address, "m", training=training).generate(ACT, Sampling())


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [("<|im_start|>assistant\n<think>\n", "<think>\n"), ("assistant\n", ""), ("[THINK]", ""), (None, "")],
)
async def test_a_thought_that_a_servers_template_opens_stands_in_the_text_once_connected(
    prompt: str | None, opening: str
) -> None:
    with fake_server() as server:
        server.prompt_end = prompt
        server.answer = "maybe <action>(1, 1)</action> but"
        policy = await OpenAIPolicy(server.url).connect()
        done = await policy.generate(ACT, Sampling(seed=1))
        assert done.text == opening + server.answer
        await policy.aclose()


async def test_half_a_surrogate_pair_in_an_answer_or_a_prompt_is_escaped_and_costs_no_call() -> None:
    answer = (
        b'{"model": "m", "prompt_token_ids": [1], "choices": [{"message": {"content": "a\\ud83db"}, "token_ids": [5], '
        b'"finish_reason": "stop", "logprobs": {"content": [{"token": "\\ud83d", "logprob": -1}]}}]}'
    )
    with scripted_server((200, answer, {})) as (address, seen):
        policy = OpenAIPolicy(address, "m", training=True)
        done = await policy.generate([{"role": "user", "content": "c\ud83dd \U0001f600"}], Sampling())
        await policy.aclose()
    assert done.text == "a\\ud83db"
    assert seen[0]["body"]["messages"] == [{"role": "user", "content": "c\\ud83dd \U0001f600"}]


# -- time -------------------------------------------------------------------------------------------------------------


async def test_the_time_for_an_answer_follows_its_length_unless_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamer_graph.policies.openai.TIMEOUT_S", 0.2)
    monkeypatch.setattr("lamer_graph.policies.openai.TIMEOUT_S_PER_TOKEN", 0.001)
    with fake_server(delay=0.8) as server:
        policy = OpenAIPolicy(server.url, MODEL, context_window=8192)
        with pytest.raises(PolicyConnectionError, match=r"did not answer within 0\.264 s"):
            await policy.generate(ACT, Sampling(max_tokens=64, seed=1))
        assert (await policy.generate(ACT, Sampling(max_tokens=6000, seed=1))).text
        said = OpenAIPolicy(server.url, MODEL, context_window=8192, timeout=0.3)
        with pytest.raises(PolicyConnectionError, match=r"did not answer within 0\.3 s"):
            await said.generate(ACT, Sampling(max_tokens=6000, seed=1))
        await policy.aclose()
        await said.aclose()
