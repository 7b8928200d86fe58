"""Stop strings: an answer ends behind the first outside of its thoughts, in whatever tokens it comes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_server import MODEL, fake_server
from lamer_graph.errors import ConfigError
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.policies.stopping import Watch, end_of, ended
from lamer_graph.serving.vllm import VllmServer
from lamer_graph.types import Message, Sampling
from scripted_server import scripted_server

STOP = "</action>"
THOUGHT = "<think>maybe <action>up</action>, no</think><action>down</action>"
ACT: list[Message] = [{"role": "user", "content": "Act"}]


def watched(pieces: Sequence[bytes], stops: Sequence[str]) -> tuple[int, str | None]:
    """After how many of the tokens, of which each is some bytes, the answer ends; and its text."""

    def decode(tokens: Sequence[int]) -> str:
        return b"".join(pieces[token] for token in tokens).decode(errors="replace")

    watch = Watch(stops, decode)
    for count in range(1, len(pieces) + 1):
        if watch.ends(list(range(count))):
            return count, watch.text
    return len(pieces), None


def cut(text: str, rng: random.Random, longest: int = 6) -> list[bytes]:
    """The bytes of a text as tokens of any length, characters cut through."""
    data, pieces = text.encode(), []
    while data:
        size = rng.randrange(1, longest + 1)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


# -- the string -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<action>up</action> and then", "<action>up</action>"),
        (f"{THOUGHT}!", THOUGHT),
        ("<think>say <action>up</action> and", None),
        ("[THINK]</action>[/THINK]</action>[THINK]", "[THINK]</action>[/THINK]</action>"),
        ("<think>a<think>b</think></action></think></action>.", "<think>a<think>b</think></action></think></action>"),
        ("<think>a<think>b</think></action> it goes on", None),
        ("nothing", None),
    ],
)
def test_an_answer_ends_behind_its_first_closing_tag_outside_of_thoughts(text: str, said: str | None) -> None:
    assert watched(cut(text, random.Random(1)), (STOP,))[1] == said
    if said is not None:
        assert ended(text, (STOP,)) == said


@given(
    text=st.text(st.sampled_from("ab</action>é語😀\ufffd "), max_size=60),
    stops=st.lists(st.text(st.sampled_from("ab</action>é語"), min_size=1, max_size=9), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_an_answer_ends_with_the_token_that_completes_the_string(text: str, stops: list[str], seed: int) -> None:
    pieces = cut(text, random.Random(seed))
    count, said = watched(pieces, stops)
    end = end_of(text, stops)
    if said is None:
        assert end is None
        return
    assert said == b"".join(pieces[:count]).decode(errors="replace")[: end_of(said, stops)]
    assert end_of(said, stops) == len(said)
    assert text.startswith(said)
    # No earlier token would have completed it.
    assert end_of(b"".join(pieces[: count - 1]).decode(errors="ignore"), stops) is None


def test_bytes_that_never_become_a_character_hold_nothing_up() -> None:
    pieces = [b"\xff"] * 9 + [b"</act", b"ion> and"]
    assert watched([*pieces, b"more"], (STOP,)) == (11, "\ufffd" * 9 + STOP)


# -- a policy in this process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True])
async def test_a_stopped_answer_is_the_beginning_of_the_whole_one(tiny_model_dir: Path, deterministic: bool) -> None:
    policy = LocalPolicy(tiny_model_dir, deterministic=deterministic)
    rng = random.Random(0)
    spanned = inside = 0
    for seed in range(30):
        whole = await policy.generate(ACT, Sampling(max_tokens=24, seed=seed))
        begin = rng.randrange(2, max(3, len(whole.text) // 2))
        stop = whole.text[begin : begin + rng.randrange(1, 8)]
        if "\ufffd" in stop or not stop:
            continue
        done = await policy.generate(ACT, Sampling(max_tokens=24, seed=seed, stop=(stop,)))
        assert done.text == whole.text[: whole.text.find(stop) + len(stop)]
        assert done.finish_reason == "stop"
        count = len(done.token_ids)
        assert list(done.token_ids) == list(whole.token_ids)[:count]
        assert list(done.logprobs) == pytest.approx(list(whole.logprobs)[:count], abs=2e-4)
        text = policy.decode(done.token_ids)
        assert text.startswith(done.text)
        assert stop not in policy.decode(list(done.token_ids)[:-1])
        spanned += not policy.decode(list(done.token_ids)[-1:]).endswith(stop)
        inside += text != done.text
    assert spanned
    policy.close()


async def test_rows_that_stop_hold_nobody_up_and_mix_with_those_that_do_not(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir)
    samplings = [Sampling(max_tokens=20, seed=seed, stop=(("a", "e", " ") if seed % 2 else ())) for seed in range(40)]
    done = await asyncio.gather(*(policy.generate(ACT, sampling) for sampling in samplings))
    for sampling, one in zip(samplings, done, strict=True):
        if sampling.stop and one.finish_reason == "stop":
            assert one.text == ended(one.text, sampling.stop)
        if not sampling.stop:
            assert len(one.token_ids) == 20 or one.finish_reason == "stop"
    policy.close()


@pytest.mark.parametrize("stop", ["</action>", ("",), (3,), ["</action>"]])
async def test_what_is_no_tuple_of_texts_is_refused(tiny_model_dir: Path, stop: object) -> None:
    policy = LocalPolicy(tiny_model_dir)
    with pytest.raises(ConfigError, match="stop must be a tuple of texts"):
        await policy.generate(ACT, Sampling(stop=stop))  # type: ignore[arg-type]
    policy.close()


# -- servers ----------------------------------------------------------------------------------------------------------


async def both_stop_alike(base_url: str, tiny_model_dir: Path, said: str | None) -> list[dict[str, object]]:
    """What a server answers to a call that stops, as it is on the wire, with the string kept and cut away."""
    policy = OpenAIPolicy(base_url, training=True)
    await policy.connect()
    found: list[dict[str, object]] = []
    for include in (True, False):
        body = policy._body(ACT, Sampling(max_tokens=24, seed=3), policy._dialect)
        body |= {"max_tokens": 24, "include_stop_str_in_output": include}
        if said is not None:
            body["stop"] = [said, "never said"]
        data = await policy._http.post("/chat/completions", body, timeout=60)
        choice = data["choices"][0]
        found.append(
            {
                "text": choice["message"]["content"],
                "stopped": choice["stop_reason"],
                "finish": choice["finish_reason"],
                "tokens": choice["token_ids"],
                "logprobs": [entry["logprob"] for entry in choice["logprobs"]["content"]],
            }
        )
    await policy.aclose()
    return found


async def test_vllm_stops_as_this_process_does(vllm_server: VllmServer, tiny_model_dir: Path) -> None:
    local = LocalPolicy(tiny_model_dir)
    policy = await vllm_server.policy().connect()
    assert policy.stops
    for seed in range(6):
        whole = await policy.generate(ACT, Sampling(max_tokens=24, seed=seed))
        stop = whole.text[3:8]
        if "\ufffd" in stop:
            continue
        done = await policy.generate(ACT, Sampling(max_tokens=24, seed=seed, stop=(stop, "never said")))
        assert done.text == whole.text[: whole.text.find(stop) + len(stop)]
        assert done.finish_reason == "stop"
        assert list(done.token_ids) == list(whole.token_ids)[: len(done.token_ids)]
        assert stop in local.decode(done.token_ids)
        assert stop not in local.decode(list(done.token_ids)[:-1])
        assert len(done.logprobs) == len(done.token_ids)
        scored = local.score(done.prompt_token_ids, done.token_ids)
        assert np.abs(np.array(done.logprobs) - scored).max() < 0.02
    await policy.aclose()
    local.close()


async def test_the_fake_server_stops_as_vllm_does(vllm_server: VllmServer, tiny_model_dir: Path) -> None:
    kept, cut_away = await both_stop_alike(vllm_server.base_url, tiny_model_dir, None)
    text = str(kept["text"])
    assert kept["stopped"] is None
    stop = text[3:8]
    with fake_server() as fake:
        fake.answer = text
        for url in (vllm_server.base_url, fake.url):
            kept, cut_away = await both_stop_alike(url, tiny_model_dir, stop)
            assert kept["text"] == text[: text.find(stop) + 5]
            assert cut_away["text"] == text[: text.find(stop)]
            for one in (kept, cut_away):
                assert one["stopped"] == stop
                assert one["finish"] == "stop"
                assert one["tokens"] == kept["tokens"]
                assert len(one["logprobs"]) == len(one["tokens"])  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", ["", "plain", "plain, no stop"])
@pytest.mark.parametrize("connect", [True, False])
async def test_every_servers_answer_ends_with_the_tag_that_stopped_it(fault: str, connect: bool) -> None:
    with fake_server(fault) as server:
        server.answer = "I open <action>(1, 2)</action> and then <action>(3, 4)</action>"
        policy = OpenAIPolicy(server.url, MODEL)
        if connect:
            await policy.connect()
        sampling = Sampling(seed=1, stop=(STOP, "</remark>"))
        assert policy.stops
        assert policy.unheeded(sampling) == []
        assert (await policy.generate(ACT, sampling)).text == "I open <action>(1, 2)</action>"
        assert server.asked.get("stop") == (None if "no stop" in fault else [STOP, "</remark>"])
        assert policy.as_sent(sampling)["stop"] == (None if "no stop" in fault else [STOP, "</remark>"])
        server.answer = "I say nothing"
        assert (await policy.generate(ACT, sampling)).text == "I say nothing"
        await policy.aclose()


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"stop_reason": STOP}, "<action>up</action>"),
        ({"stop_reason": None}, "<action>up"),
        ({"matched_stop": 2}, "<action>up"),
        ({"matched_stop": STOP}, "<action>up</action>"),
        ({}, "<action>up</action>"),
        ({"finish_reason": "length"}, "<action>up"),
    ],
)
async def test_a_string_that_was_cut_away_is_put_back_where_it_ended_the_answer(choice: Any, text: str) -> None:
    said = {"message": {"content": "<action>up"}, "finish_reason": "stop", **choice}
    with scripted_server((200, {"model": "m", "choices": [said]}, {})) as (address, _):
        policy = OpenAIPolicy(address, "m", context_window=4096)
        assert (await policy.generate(ACT, Sampling(stop=(STOP,)))).text == text
        await policy.aclose()


# -- thoughts at servers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["assistant\n<think>\n", "assistant\n"])
async def test_a_vllm_whose_answers_may_hold_thoughts_is_told_no_stop(end: str) -> None:
    with fake_server() as server:
        server.prompt_end, server.answer = end, THOUGHT
        server.token_strs = ["<think>"]
        policy = await OpenAIPolicy(server.url, MODEL, training=True).connect()
        assert not policy.stops
        done = await policy.generate(ACT, Sampling(seed=1))
        assert done.text.endswith(THOUGHT)
        sampling = Sampling(seed=1, stop=(STOP,))
        assert policy.unheeded(sampling) == ["stop"]
        assert "may hold thoughts" in policy.why_unheeded(sampling)
        await policy.generate(ACT, sampling)
        assert "stop" not in server.asked
        await policy.aclose()


@pytest.mark.parametrize("end", ["<think>\n\n</think>\n\n", "assistant\n"])
async def test_a_vllm_that_has_thought_or_cannot_is_told_to_stop(end: str) -> None:
    with fake_server() as server:
        server.prompt_end = end
        server.token_strs = ["<think>"] if "think" in end else ["<", "think", ">"]
        policy = await OpenAIPolicy(server.url, MODEL).connect()
        assert policy.stops
        await policy.aclose()


async def test_an_answer_that_was_stopped_inside_a_thought_is_asked_for_again_and_no_other_is() -> None:
    with fake_server("plain") as server:
        server.answer = THOUGHT
        policy = OpenAIPolicy(server.url, MODEL)
        sampling = Sampling(seed=1, stop=(STOP,))
        assert (await policy.generate(ACT, sampling)).text == THOUGHT
        assert server.calls == 2
        assert not policy.stops
        assert (await policy.generate(ACT, sampling)).text == THOUGHT
        assert server.calls == 3
        await policy.aclose()


async def test_the_real_vllm_shows_whether_its_answers_may_hold_thoughts(vllm_server: VllmServer) -> None:
    policy = await OpenAIPolicy(vllm_server.base_url).connect()
    assert policy.thinks is False
    assert vllm_server.policy().thinks is False
    await policy.aclose()
