"""OpenAIPolicy: exact tokens from a real vLLM; typed, bounded errors from servers that misbehave."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from fake_server import fake_server
from lamer_envs import make
from lamer_graph.errors import (
    ConfigError,
    PolicyAuthError,
    PolicyConnectionError,
    PolicyError,
    PolicyResponseError,
    PromptTooLongError,
)
from lamer_graph.policies.control import control_tokens_of
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.serving.vllm import VllmServer
from lamer_graph.trial.prompts import PromptBuilder, Remembered, View
from lamer_graph.types import Message, Sampling
from scripted_server import completion, scripted_server

ACT: list[Message] = [{"role": "system", "content": "You play."}, {"role": "user", "content": "Open (0, 1)=2 Act"}]
KEY = "sk-very-secret-123"


# -- a real server ----------------------------------------------------------------------------------------------------


async def test_a_completion_has_the_exact_tokens_of_the_server(vllm_server: VllmServer, tiny_model_dir: Path) -> None:
    policy = await OpenAIPolicy(vllm_server.base_url, training=True).connect()
    assert (policy.model, policy.context_window) == (vllm_server.model_name, 2048)
    done = await policy.generate(ACT, Sampling(max_tokens=12, seed=4))
    assert policy.gives_tokens
    assert policy.opening == ""  # known, by /detokenize
    assert done.trainable
    assert done.policy_version == vllm_server.model_name
    assert len(done.token_ids) == 12
    assert done.finish_reason == "length"
    local = LocalPolicy(tiny_model_dir)
    assert list(done.prompt_token_ids) == local.encode(ACT)
    assert await policy.count_tokens(ACT) == len(done.prompt_token_ids)
    again = await policy.generate(ACT, Sampling(max_tokens=12, seed=4))
    other = await policy.generate(ACT, Sampling(max_tokens=12, seed=5))
    assert again.token_ids == done.token_ids != other.token_ids
    await policy.aclose()
    local.close()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_server_and_local_model_mean_the_same_logprobs(
    vllm_server: VllmServer, tiny_model_dir: Path, temperature: float
) -> None:
    policy = vllm_server.policy()
    local = LocalPolicy(tiny_model_dir)
    prompts: list[list[Message]] = [
        [{"role": "user", "content": f"Open (0, {i})=2 Closed (2, 3) Act"}] for i in range(8)
    ]
    worst = 0.0
    for number, messages in enumerate(prompts):
        done = await policy.generate(messages, Sampling(temperature=temperature, max_tokens=16, seed=number))
        scored = local.score(done.prompt_token_ids, done.token_ids, temperature)
        worst = max(worst, float(np.abs(np.array(done.logprobs) - scored).max()))
        if temperature != 1.0:
            # The check has teeth: at another temperature the numbers are far apart.
            assert np.abs(np.array(done.logprobs) - local.score(messages, done.token_ids)).max() > 0.1
    assert worst < 0.02
    await policy.aclose()
    local.close()


async def test_truncated_sampling_reports_the_truncated_distribution_like_the_local_one(
    vllm_server: VllmServer, tiny_model_dir: Path
) -> None:
    policy = vllm_server.policy()
    local = LocalPolicy(tiny_model_dir)
    sampling = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=1)
    served: dict[int, float] = {}
    drawn: dict[int, float] = {}
    for into, source in ((served, policy), (drawn, local)):
        done = await asyncio.gather(*(source.generate(ACT, sampling.with_seed(seed)) for seed in range(100)))
        into.update({one.token_ids[0]: one.logprobs[0] for one in done})
    both = served.keys() & drawn.keys()
    assert len(both) >= 5
    assert max(abs(served[token] - drawn[token]) for token in both) < 0.02
    await policy.aclose()
    local.close()


async def test_text_from_outside_reaches_the_server_without_control_tokens(
    vllm_server: VllmServer, tiny_model_dir: Path
) -> None:
    policy = vllm_server.policy()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert policy.control_tokens == control_tokens_of(tokenizer)
    control = sorted(policy.control_tokens)
    ids = set(tokenizer.convert_tokens_to_ids(control))
    builder = PromptBuilder(make("minesweeper:4x4-3"), style="compact", control=policy.control_tokens)

    async def control_ids(text: str) -> list[int]:
        messages = builder.act(View(2, "Open", (), [Remembered("reflection", text, 1)]))
        done = await policy.generate(messages, Sampling(max_tokens=1, seed=1))
        return [i for i in done.prompt_token_ids if i in ids]

    harmless = await control_ids("harmless")
    assert harmless
    for hostile in (*control, "".join(control), f"{control[0][:2]}{control[0]}{control[0][2:]}"):
        assert await control_ids(hostile) == harmless
    await policy.aclose()


async def test_a_prompt_beyond_the_context_says_by_how_many_tokens(vllm_server: VllmServer) -> None:
    policy = vllm_server.policy()
    for count in (1_100, 30_000):
        messages: list[Message] = [{"role": "user", "content": "é" * count}]
        tokens = await policy.count_tokens(messages)
        with pytest.raises(
            PromptTooLongError, match=f"{tokens} tokens exceeds the context of 2048 .* by {tokens - 2048}:"
        ):
            await policy.generate(messages, Sampling())
    await policy.aclose()


async def test_a_model_that_is_not_served_is_refused_with_those_that_are(vllm_server: VllmServer) -> None:
    with pytest.raises(ConfigError, match=f"does not serve 'other'; it serves '{vllm_server.model_name}'"):
        await OpenAIPolicy(vllm_server.base_url, "other").connect()
    with pytest.raises(PolicyResponseError, match="404"):
        await OpenAIPolicy(vllm_server.base_url, "other").generate(ACT, Sampling())


def test_one_policy_serves_sync_callers_and_several_event_loops(vllm_server: VllmServer) -> None:
    policy = vllm_server.policy()
    sampling = Sampling(max_tokens=3, seed=1)
    reference = policy.generate_sync(ACT, sampling).token_ids
    for _ in range(3):
        assert asyncio.run(policy.generate(ACT, sampling)).token_ids == reference
    assert policy.generate_sync(ACT, sampling).token_ids == reference
    # Clients of closed loops are dropped: the kept loop's and at most the last closed one's are left.
    assert 1 <= len(policy._http._clients) <= 2


# -- servers that misbehave -------------------------------------------------------------------------------------------


async def test_a_server_that_is_not_there_is_reported_with_its_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(PolicyConnectionError, match=f"cannot reach {address} after 3 attempts"):
        await OpenAIPolicy(f"{address}/v1").connect()
    assert time.monotonic() - started < 5


async def test_a_silent_server_is_reported_with_its_address_within_20_s() -> None:
    with fake_server("hang") as server:
        started = time.monotonic()
        with pytest.raises(PolicyConnectionError, match=f"{server.url} did not answer within 5 s"):
            await OpenAIPolicy(server.url).connect()
        assert 5 <= time.monotonic() - started < 20


async def test_a_call_that_hangs_ends_after_its_timeout() -> None:
    with fake_server("chat hang") as server:
        policy = await OpenAIPolicy(server.url, timeout=0.3).connect()
        started = time.monotonic()
        with pytest.raises(PolicyConnectionError, match=f"{server.url} did not answer within 0.3 s"):
            await policy.generate(ACT, Sampling(seed=1))
        assert 0.3 <= time.monotonic() - started < 2


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_are_not_tried_again_and_not_told(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"error": {"message": f"key {KEY} is wrong"}}
    with scripted_server((status, body, {})) as (address, seen):
        policy = OpenAIPolicy(address, "m", api_key=KEY)
        with pytest.raises(PolicyAuthError, match=rf"{address} refused the credentials \({status}\)") as caught:
            await policy.generate(ACT, Sampling())
    assert len(seen) == 1
    assert seen[0]["headers"]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value) + repr(policy) + caplog.text


async def test_server_words_in_an_error_are_one_line_bounded_and_without_the_key() -> None:
    wordy = {"error": {"message": f"no\n{KEY}\n" + "x" * 5000}}
    with (
        scripted_server((422, wordy, {})) as (address, _),
        pytest.raises(PolicyResponseError, match=r"422\): no \*\*\* xxx") as caught,
    ):
        await OpenAIPolicy(address, "m", api_key=KEY).generate(ACT, Sampling())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_passing_failures_are_tried_again(status: int) -> None:
    bad: tuple[int, dict[str, Any], dict[str, str]] = (status, {"error": {"message": "busy"}}, {})
    with scripted_server(bad, bad, (200, completion(), {})) as (address, seen):
        done = await OpenAIPolicy(address, "m").generate(ACT, Sampling())
    assert (done.text, done.token_ids, done.logprobs) == ("hi", [5, 2], [-0.5, -0.25])
    assert len(seen) == 3


async def test_lasting_failures_end_in_an_error_with_address_and_status() -> None:
    with (
        scripted_server((500, {"error": {"message": "engine dead"}}, {})) as (address, seen),
        pytest.raises(PolicyConnectionError) as caught,
    ):
        await OpenAIPolicy(address, "m", max_retries=2).generate(ACT, Sampling())
    assert f"{address} kept failing with status 500: engine dead" in str(caught.value)
    assert len(seen) == 3


async def test_a_429_is_tried_again_when_it_says() -> None:
    with scripted_server((429, {}, {"Retry-After": "0.8"}), (200, completion(), {})) as (address, seen):
        await OpenAIPolicy(address, "m").generate(ACT, Sampling())
    assert 0.75 < seen[1]["at"] - seen[0]["at"] < 2


async def test_connections_that_break_are_tried_again_through_an_outage() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    policy = OpenAIPolicy(f"http://127.0.0.1:{port}", "m", max_retries=0, outage_s=20)
    waiting = asyncio.create_task(policy.generate(ACT, Sampling()))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    with scripted_server((200, completion(), {}), port=port):
        assert (await waiting).text == "hi"


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (completion(token_ids=None), "0 token ids and 2 logprobs"),
        (completion(prompt_token_ids=None), "0 prompt ids"),
        (completion(logprobs=None), "2 token ids and 0 logprobs"),
        (completion(logprobs={"content": [{"logprob": -0.5}]}), "2 token ids and 1 logprobs"),
    ],
)
async def test_incomplete_tokens_are_an_error_when_training_and_a_plain_text_otherwise(
    answer: dict[str, Any], complaint: str
) -> None:
    with scripted_server((200, answer, {})) as (address, _):
        with pytest.raises(PolicyResponseError, match=complaint):
            await OpenAIPolicy(address, "m", training=True).generate(ACT, Sampling())
        done = await OpenAIPolicy(address, "m").generate(ACT, Sampling())
    assert done.text == "hi"
    assert not done.trainable
    assert list(done.token_ids) == []


async def test_another_model_in_the_answer_is_an_error_when_training_and_is_recorded_otherwise() -> None:
    with scripted_server((200, completion(model="m-2026-11-29"), {})) as (address, _):
        with pytest.raises(PolicyResponseError, match="for model 'm' but 'm-2026-11-29' answered"):
            await OpenAIPolicy(address, "m", training=True).generate(ACT, Sampling())
        done = await OpenAIPolicy(address, "m").generate(ACT, Sampling())
    assert (done.text, done.policy_version) == ("hi", "m-2026-11-29")


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", completion(choices=[]), completion(message=None), completion(message={"content": 7})]
)
async def test_malformed_answers_are_errors(answer: Any) -> None:
    with scripted_server((200, answer, {})) as (address, _), pytest.raises(PolicyResponseError, match=address):
        await OpenAIPolicy(address, "m").generate(ACT, Sampling())


async def test_every_number_that_bends_the_distribution_is_sent_and_tokens_are_asked_for_when_training() -> None:
    with scripted_server((200, completion(), {})) as (address, seen):
        sampling = Sampling(temperature=0.7, top_p=0.9, top_k=5, seed=3)
        await OpenAIPolicy(address, "m", training=True).generate(ACT, sampling)
        await OpenAIPolicy(address, "m").generate(ACT, Sampling(max_tokens=7))
    pure = {"repetition_penalty": 1.0, "min_p": 0.0}
    assert seen[0]["body"] == {
        "model": "m",
        "messages": ACT,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "max_tokens": 512,
        "seed": 3,
        "logprobs": True,
        "return_token_ids": True,
        **pure,
    }
    expected = {"model": "m", "messages": ACT, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 7, **pure}
    assert seen[1]["body"] == expected


@pytest.mark.parametrize("address", ["", "localhost:8000", "ftp://host/v1", "http://", "/v1"])
def test_malformed_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="must look like http://host:port/v1"):
        OpenAIPolicy(address)


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_without_a_token_is_refused(window: int) -> None:
    with pytest.raises(ConfigError, match=f"context_window must be at least 1 token, not {window}"):
        OpenAIPolicy("http://host", "m", context_window=window)


async def test_a_key_with_a_line_break_at_its_end_is_the_key_and_what_is_none_is_refused_untold() -> None:
    with scripted_server((200, completion(), {})) as (address, seen):
        await OpenAIPolicy(address, "m", api_key=f" {KEY}\n").generate(ACT, Sampling())
    assert seen[0]["headers"]["Authorization"] == f"Bearer {KEY}"
    for key in ("secret\nkey", "secret\0key", "secr\u00e9t"):
        with pytest.raises(ConfigError, match="what no HTTP header takes") as caught:
            OpenAIPolicy("http://host", "m", api_key=key)
        assert "secr" not in str(caught.value)


def test_credentials_in_an_address_are_not_told() -> None:
    policy = OpenAIPolicy("http://user:hunter2@127.0.0.1:1/v1", "m", max_retries=0)
    with pytest.raises(PolicyError) as caught:
        policy.generate_sync(ACT, Sampling())
    assert "hunter2" not in str(caught.value) + repr(policy)
