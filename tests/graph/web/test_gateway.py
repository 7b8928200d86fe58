"""The gateway: what an agent of any kind asks a model is recorded, its trials told apart, and nothing of it lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from lamer_graph import OpenAIPolicy, RunLog, Sampling
from lamer_graph.cli import main
from lamer_graph.runlog import read_trials
from lamer_graph.runlog.schema import check
from lamer_graph.serving.vllm import VllmServer
from lamer_graph.web.gateway.app import CALL_HEADER, TRIAL_HEADER, Gateway
from lamer_graph.web.gateway.relay import Relay
from lamer_graph.web.listening import Listening
from scripted_server import completion, scripted_server

ASK: Any = [{"role": "user", "content": "Open (0, 1)=2 Act"}]
SAID = completion(message={"role": "assistant", "content": "hello"})
STREAM = {"Content-Type": "text/event-stream", "Connection": "close"}


@contextmanager
def gateway(upstream: str, folder: Path, key: str | None = None, timeout: float = 20.0) -> Iterator[httpx2.Client]:
    """A client of a gateway's own routes, with its key."""
    with RunLog.create(folder, resume=True) as log:
        made = Gateway(Relay(upstream, None, timeout), log, key=key)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        with (
            Listening(made.app, "127.0.0.1", 0, keyed=False) as listening,
            httpx2.Client(base_url=listening.base_url, headers=headers, trust_env=False, timeout=30) as client,
        ):
            yield client


def opened(client: httpx2.Client, **more: Any) -> dict[str, Any]:
    answer = client.post("/lamer/trials", json={"task": "which cell?", **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def agent_of(trial: dict[str, Any]) -> openai.OpenAI:
    """An agent's client, which knows nothing of gateways."""
    http = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=trial["base_url"], api_key=trial["api_key"], max_retries=0, http_client=http)


def chunk(delta: dict[str, Any], **more: Any) -> bytes:
    """A chunk of a stream as vLLM sends it; `more` is the chunk's, `choice` within it the choice's."""
    choice = {"index": 0, "delta": delta, "finish_reason": None, **more.pop("choice", {})}
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def of_token(token: int, logprob: float, **more: Any) -> dict[str, Any]:
    return {"choice": {"token_ids": [token], "logprobs": {"content": [{"token": "t", "logprob": logprob}]}, **more}}


# -- a real server ----------------------------------------------------------------------------------------------------


async def test_what_is_recorded_is_what_the_policy_client_gets(vllm_server: VllmServer, tmp_path: Path) -> None:
    with gateway(vllm_server.base_url, tmp_path / "run") as client:
        trial = opened(client)
        agent = agent_of(trial)
        asked: Any = {"model": vllm_server.model_name, "messages": ASK, "max_tokens": 12, "seed": 4}
        said = agent.chat.completions.create(**asked)
        parts = list(agent.chat.completions.create(**asked, stream=True))
        assert client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"score": 0.5}).json()["trainable"] == 2
        assert client.get("/v1/models").json()["data"][0]["id"] == vllm_server.model_name
    streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert said.choices[0].message.content == streamed
    assert said.choices[0].logprobs is None  # it had not asked for them
    assert not hasattr(said.choices[0], "token_ids")
    assert all(part.usage is None and part.choices for part in parts)
    policy = await OpenAIPolicy(vllm_server.base_url, training=True).connect()
    done = await policy.generate(ASK, Sampling(max_tokens=12, seed=4))
    await policy.aclose()
    assert check(tmp_path / "run").ok
    (line,) = read_trials(tmp_path / "run")
    for turn in line["episodes"][0]["turns"]:
        call = turn["call"]
        assert call["prompt_token_ids"] == list(done.prompt_token_ids)
        assert call["token_ids"] == list(done.token_ids)
        assert call["logprobs"] == pytest.approx(list(done.logprobs), abs=1e-4)
        assert (call["policy_version"], call["seed"]) == (vllm_server.model_name, 4)
    assert [turn["reward"] for turn in line["episodes"][0]["turns"]] == [0.0, 0.5]
    assert line["sampling"] == {
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 12,
    }  # fmt: skip


def test_what_is_recorded_can_be_trained_on(vllm_server: VllmServer, tiny_model_dir: Path, tmp_path: Path) -> None:
    from lamer_trainers.loop.train import check as check_run
    from lamer_trainers.runfile import load_run

    with gateway(vllm_server.base_url, tmp_path / "run") as client:
        trial = opened(client)
        agent_of(trial).chat.completions.create(model=vllm_server.model_name, messages=ASK, max_tokens=8)
        client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": True}).raise_for_status()
    file = tmp_path / "agent.yaml"
    file.write_text(f"policy: {tiny_model_dir}\nlogs: [{tmp_path / 'run'}]\ncollect: {{env: 'app:agent', tasks: 1}}\n")
    run = load_run(file, changes=["optimise.old_logprobs=recomputed"])
    check_run(run, tmp_path / "trained", resume=False)


def test_the_cut_stream_of_a_real_server_has_no_tokens(vllm_server: VllmServer, tmp_path: Path) -> None:
    with gateway(vllm_server.base_url, tmp_path / "run") as client:
        trial = opened(client)
        stream = agent_of(trial).chat.completions.create(
            model=vllm_server.model_name, messages=ASK, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
        end = f"/lamer/trials/{trial['trial_id']}/end"
        late = time.monotonic() + 20
        while (answer := client.post(end, json={"success": False})).status_code == 409 and time.monotonic() < late:
            time.sleep(0.05)  # the gateway has yet to hear that its agent has gone
        assert (answer.json()["calls"], answer.json()["trainable"]) == (1, 0)
    (line,) = read_trials(tmp_path / "run")
    assert line["episodes"][0]["truncated"]
    assert line["episodes"][0]["turns"][0]["call"]["finish_reason"] == "cut"


# -- trials -----------------------------------------------------------------------------------------------------------


def test_a_trial_is_attempts_of_calls_and_the_reflections_between(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}}
    calls = completion(message={"role": "assistant", "content": None, "tool_calls": [call]})
    remark = completion(message={"role": "assistant", "content": "<remark>Say blue.</remark>"})
    with (
        scripted_server((200, calls, {}), (200, SAID, {}), (200, remark, {}), (200, SAID, {})) as (url, asked),
        gateway(url, tmp_path / "run") as client,
    ):
        trial = opened(client, split="train")
        agent = agent_of(trial)
        tools: Any = [{"type": "function", "function": {"name": "search", "parameters": {}}}]
        first = agent.chat.completions.create(model="m", messages=ASK, tools=tools, temperature=0.5)
        assert first.choices[0].message.tool_calls[0].function.name == "search"  # type: ignore[index, union-attr]
        found: Any = [
            *ASK,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
        ]
        agent.chat.completions.create(model="m", messages=found, temperature=0.5)
        attempts = f"/lamer/trials/{trial['trial_id']}/attempts"
        grade = {"success": False, "feedback": "no", "attempt": 1}
        assert client.post(attempts, json=grade).json()["attempts"] == 1
        assert client.post(attempts, json=grade).json()["attempts"] == 1  # the answer was lost, and it is asked again
        agent.chat.completions.create(model="m", messages=ASK, extra_headers={CALL_HEADER: "reflection"})
        agent.chat.completions.create(model="m", messages=ASK)
        end = f"/lamer/trials/{trial['trial_id']}/end"
        assert client.post(end, json={"success": True}).json() == {
            "trial_id": trial["trial_id"], "logged": True, "calls": 4, "trainable": 4,
        }  # fmt: skip
        assert client.post(end).json() == {"trial_id": trial["trial_id"], "logged": True}
    assert asked[0]["body"]["tools"] == tools
    assert check(tmp_path / "run").ok
    (line,) = read_trials(tmp_path / "run")
    (first_turn, second_turn), (last,) = (episode["turns"] for episode in line["episodes"])
    assert first_turn["action"] == 'assistant calls search({"q":"x"})'
    roles = [role for role, _ in second_turn["call"]["messages"]]
    assert roles == ["user", "assistant", "tool"]
    assert second_turn["observation"] == "nothing"
    assert last["reward"] == 1.0
    (reflection,) = line["reflections"]
    assert (reflection["episode"], reflection["text"]) == (0, "Say blue.")
    assert line["sampling"]["temperature"] is None  # not all were drawn alike
    assert (line["task"]["split"], line["success"]) == ("train", True)


def test_an_assistant_that_calls_tools_need_not_say_anything(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    messages = [
        *ASK,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
    ]
    with scripted_server((200, SAID, {})) as (url, asked), gateway(url, tmp_path / "run") as client:
        trial = opened(client)
        agent_of(trial).chat.completions.create(model="m", messages=messages)  # type: ignore[arg-type]
        client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": True}).raise_for_status()
        assert asked[0]["body"]["messages"] == messages
    assert check(tmp_path / "run").ok


@pytest.mark.parametrize("arguments", ['"Thekali"', "[1]", "{broken", ""])
def test_a_call_that_nobody_can_read_is_recorded_and_told_to_the_model_again(tmp_path: Path, arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": arguments}}
    said = completion(message={"role": "assistant", "content": None, "tool_calls": [call]})
    with scripted_server((200, said, {})) as (url, asked), gateway(url, tmp_path / "run") as client:
        trial = opened(client)
        history: Any = [
            *ASK,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "not readable"},
        ]
        for messages in (ASK, history):
            agent_of(trial).chat.completions.create(model="m", messages=messages)
        assert asked[1]["body"]["messages"] == history
        client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": False}).raise_for_status()
    assert check(tmp_path / "run").ok
    (line,) = read_trials(tmp_path / "run")
    first = line["episodes"][0]["turns"][0]
    assert (first["valid"], first["action"]) == (False, f"assistant calls search({arguments}) [not readable]")


def test_a_call_that_a_client_sends_once_more_is_one_turn_and_a_reflection_is_one(tmp_path: Path) -> None:
    with scripted_server((200, SAID, {})) as (url, _), gateway(url, tmp_path / "run") as client:
        trial = opened(client)
        agent = agent_of(trial)
        agent.chat.completions.create(model="m", messages=ASK)
        agent.chat.completions.create(model="m", messages=ASK, extra_headers={"x-stainless-retry-count": "1"})
        client.post(f"/lamer/trials/{trial['trial_id']}/attempts", json={"success": False}).raise_for_status()
        again = client.post(f"/lamer/trials/{trial['trial_id']}/attempts", json={"success": False})
        assert again.status_code == 409  # the answer was lost: what was graded is not graded twice
        other = client.post(f"/lamer/trials/{trial['trial_id']}/attempts", json={"success": True, "attempt": 1})
        assert "another grade already" in other.json()["error"]["message"]
        for _ in range(2):
            agent.chat.completions.create(model="m", messages=ASK, extra_headers={CALL_HEADER: "reflection"})
        agent.chat.completions.create(model="m", messages=ASK)
        client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": True}).raise_for_status()
    (line,) = read_trials(tmp_path / "run")
    assert [len(episode["turns"]) for episode in line["episodes"]] == [1, 1]
    assert len(line["reflections"]) == 1


def test_trials_of_one_task_are_a_group_and_told_apart(tmp_path: Path) -> None:
    with scripted_server((200, SAID, {})) as (url, _), gateway(url, tmp_path / "run") as client:
        trials = [opened(client) for _ in range(3)]
        for number, trial in enumerate(trials):
            for _ in range(number + 1):
                agent_of(trial).chat.completions.create(model="m", messages=ASK)
        for trial in trials:
            client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": False})
    lines = list(read_trials(tmp_path / "run"))
    assert len({line["task"]["id"] for line in lines}) == 1
    assert [line["trial"] for line in lines] == [0, 1, 2]
    assert [len(line["episodes"][0]["turns"]) for line in lines] == [1, 2, 3]


def test_the_key_of_one_trial_is_no_other_trials(tmp_path: Path) -> None:
    with scripted_server((200, SAID, {})) as (url, _), gateway(url, tmp_path / "run", key="sk-own") as client:
        mine, other = opened(client), opened(client)
        agent = agent_of(mine)
        with pytest.raises(openai.PermissionDeniedError, match="another trial's"):
            agent.chat.completions.create(model="m", messages=ASK, extra_headers={TRIAL_HEADER: other["trial_id"]})
        for forged in (
            "sk-other",
            mine["api_key"][:-1] + "x",
            mine["api_key"].replace("-1-", "-2-"),
            "lt-x-y",
            "lt-٣-y",
        ):
            with pytest.raises((openai.AuthenticationError, UnicodeEncodeError)) as refused:
                agent_of({**mine, "api_key": forged}).chat.completions.create(model="m", messages=ASK)
            assert "sk-own" not in str(refused.value)
        for route in ("", f"/{mine['trial_id']}/attempts", f"/{mine['trial_id']}/end"):
            answer = client.post(
                f"/lamer/trials{route}", headers={"Authorization": f"Bearer {mine['api_key']}"}, json={}
            )
            assert answer.status_code == 401  # an agent grades nobody, itself least of all
        client.post(  # the gateway's own key, with the trial in a header
            "/v1/chat/completions", json={"messages": ASK}, headers={TRIAL_HEADER: other["trial_id"]}
        ).raise_for_status()
        client.post(f"/lamer/trials/{other['trial_id']}/end", json={"success": True}).raise_for_status()
        with pytest.raises(openai.AuthenticationError, match="may be over"):
            agent_of(other).chat.completions.create(model="m", messages=ASK)
        assert client.get("/v1/models", headers={"Authorization": "Bearer no"}).status_code == 401
    assert "sk-own" not in (tmp_path / "run" / "trials.jsonl").read_text()


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/lamer/trials", {}, 400, "say which task"),
        ("/lamer/trials", {"task": 7}, 400, "say which task"),
        ("/lamer/trials", {"task": "x", "tasks": 1}, 400, "unknown field 'tasks'"),
        ("/lamer/trials/T/attempts", {"success": False, "feedbak": "x"}, 400, "unknown field 'feedbak'"),
        ("/lamer/trials", {"task": "x", "split": "all"}, 400, "train, val, test"),
        ("/lamer/trials", {"task": "x", "trial_id": "a/b"}, 400, "letters, digits"),
        ("/lamer/trials/T/attempts", {}, 400, "what the attempt came to"),
        ("/lamer/trials/T/attempts", {"success": 1}, 400, "true or false"),
        ("/lamer/trials/T/attempts", {"score": True}, 400, "finite number"),
        ("/lamer/trials/T/attempts", {"success": True, "attempt": 3}, 409, "not the one that is being made: 1 is"),
        ("/lamer/trials/T/attempts", {"success": True}, 409, "no call has been made"),
        ("/lamer/trials/T/end", {"success": True}, 409, "no call has been made"),
        ("/lamer/trials/T/end", {}, 409, "nothing has been tried"),
        ("/lamer/trials/none/end", {"success": True}, 404, "no trial 'none' is open"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages must be a list"),
        ("/v1/chat/completions", {"messages": [{"role": "king", "content": "x"}]}, 400, "malformed"),
        ("/v1/chat/completions", {"messages": ASK, "n": 2}, 400, "one answer"),
        ("/v1/responses", {"input": "x"}, 404, "records chat completions"),
    ],
)
def test_bad_input_is_one_line_and_reaches_no_model(
    tmp_path: Path, path: str, body: Any, status: int, words: str
) -> None:
    with scripted_server((200, SAID, {})) as (url, asked), gateway(url, tmp_path / "run") as client:
        opened(client, trial_id="T")
        answer = client.post(path, json=body, headers={TRIAL_HEADER: "T"})
        assert answer.status_code == status
        assert words in answer.json()["error"]["message"]
        assert "\n" not in answer.json()["error"]["message"]
        assert not asked


def test_a_call_that_says_not_whose_it_is_is_refused(tmp_path: Path) -> None:
    with scripted_server((200, SAID, {})) as (url, _), gateway(url, tmp_path / "run") as client:
        answer = client.post("/v1/chat/completions", json={"messages": ASK})
        assert answer.status_code == 400
        assert "Open a trial" in answer.json()["error"]["message"]
        over = {"Authorization": "Bearer lt-7-0123"}
        assert client.post("/v1/chat/completions", json={"messages": ASK}, headers=over).status_code == 401
        assert client.post(
            "/v1/chat/completions", content=b"x" * (5 << 20), headers={TRIAL_HEADER: "T"}
        ).status_code in (
            404,
            413,
        )


def test_bodies_are_bounded(tmp_path: Path) -> None:
    with scripted_server((200, SAID, {})) as (url, _), gateway(url, tmp_path / "run") as client:
        opened(client, trial_id="T")
        long = {"messages": [{"role": "user", "content": "x" * (5 << 20)}]}
        assert client.post("/v1/chat/completions", json=long, headers={TRIAL_HEADER: "T"}).status_code == 413


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_server_that_dies_in_mid_stream_is_no_answer(tmp_path: Path) -> None:
    half = chunk({"role": "assistant", "content": ""}, prompt_token_ids=[1, 4]) + chunk(
        {"content": "he"}, **of_token(5, -1)
    )
    with (
        scripted_server((200, half, {**STREAM, "Content-Length": str(len(half) + 100)})) as (url, _),
        gateway(url, tmp_path / "run") as client,
    ):
        trial = opened(client)
        with pytest.raises(openai.APIError, match="broke off its answer"):
            list(agent_of(trial).chat.completions.create(model="m", messages=ASK, stream=True))
        end = client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": False}).json()
        assert (end["calls"], end["trainable"]) == (1, 0)
    assert check(tmp_path / "run").ok


@pytest.mark.parametrize("lost", ["a token", "the end"])
def test_a_stream_that_lacks_something_is_recorded_without_tokens(tmp_path: Path, lost: str) -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    chunks = [
        chunk({"role": "assistant", "content": ""}, prompt_token_ids=[1, 4]),
        chunk({"content": "he"}, **of_token(5, -1.0)),
        chunk({"content": "y"}, **of_token(2, -0.5, finish_reason="stop")),
        b"data: " + json.dumps({"model": "m", "choices": [], "usage": usage}).encode() + b"\n\n",
        b"data: [DONE]\n\n",
    ]
    del chunks[1 if lost == "a token" else 2 : 2 if lost == "a token" else 5]
    body = b"".join(chunks)
    with scripted_server((200, body, STREAM)) as (url, _), gateway(url, tmp_path / "run") as client:
        trial = opened(client)
        stream = agent_of(trial).chat.completions.create(model="m", messages=ASK, stream=True)
        if lost == "the end":
            with pytest.raises(openai.APIError, match="broke off"):
                list(stream)
        else:
            list(stream)
        assert client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": False}).json()["trainable"] == 0


def test_a_server_without_tokens_is_recorded_all_the_same(tmp_path: Path) -> None:
    refusal = {"error": {"message": "Unrecognized request argument supplied: top_k", "type": "invalid_request_error"}}
    plain = {"model": "m", "choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]}
    with (
        scripted_server((400, refusal, {}), (200, plain, {})) as (url, asked),
        gateway(url, tmp_path / "run") as client,
    ):
        trial = opened(client)
        for _ in range(2):
            said = agent_of(trial).chat.completions.create(model="m", messages=ASK)
            assert said.choices[0].message.content == "hello"
        end = client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": True}).json()
        assert (end["calls"], end["trainable"]) == (2, 0)
    assert len(asked) == 3
    assert "top_k" not in asked[1]["body"]
    (line,) = read_trials(tmp_path / "run")
    assert line["sampling"]["temperature"] is None  # nobody knows what the server does by itself


def test_what_the_server_refuses_the_agent_reads_and_nothing_is_recorded(tmp_path: Path) -> None:
    long = {"error": {"message": "maximum context length is 8 tokens", "type": "BadRequestError", "code": 400}}
    with scripted_server((400, long, {})) as (url, asked), gateway(url, tmp_path / "run") as client:
        trial = opened(client)
        with pytest.raises(openai.BadRequestError, match="maximum context length"):
            agent_of(trial).chat.completions.create(model="m", messages=ASK)
        assert len(asked) == 1
        answer = client.post(f"/lamer/trials/{trial['trial_id']}/end")
        assert "nothing has been tried" in answer.json()["error"]["message"]
        assert client.delete(f"/lamer/trials/{trial['trial_id']}").json()["logged"] is False


def test_a_server_that_is_not_there_or_hangs_is_said_so(tmp_path: Path) -> None:
    with (
        gateway("http://127.0.0.1:9", tmp_path / "gone") as client,
        pytest.raises(openai.InternalServerError, match=r"cannot reach http://127\.0\.0\.1:9"),
    ):
        agent_of(opened(client)).chat.completions.create(model="m", messages=ASK)
    silent = {**STREAM, "Content-Length": "100", "Connection": "keep-alive"}
    with scripted_server((200, b"", silent)) as (url, _), gateway(url, tmp_path / "silent", timeout=1.0) as client:
        trial = opened(client)
        with pytest.raises(openai.APIError, match="fell silent for 1 s"):
            list(agent_of(trial).chat.completions.create(model="m", messages=ASK, stream=True))


def test_a_trial_is_not_ended_over_a_call_that_is_being_answered(tmp_path: Path) -> None:
    silent = {**STREAM, "Content-Length": "100", "Connection": "keep-alive"}
    with scripted_server((200, b"", silent)) as (url, _), gateway(url, tmp_path / "run", timeout=30.0) as client:
        trial = opened(client)
        with agent_of(trial).chat.completions.with_streaming_response.create(model="m", messages=ASK, stream=True):
            answer = client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": True})
            assert answer.status_code == 409
            assert "still being answered" in answer.json()["error"]["message"]


COMMAND = [sys.executable, "-m", "lamer_graph.cli", "gateway", "--port", "0", "--json"]


def started(url: str, folder: Path, **env: str) -> tuple[subprocess.Popen[str], str]:
    server = subprocess.Popen(
        [*COMMAND, "--upstream", url, "--out", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    assert server.stdout is not None
    return server, json.loads(server.stdout.readline())["base_url"]


def test_kill_9_loses_no_call_and_the_trial_goes_on(tmp_path: Path) -> None:
    with scripted_server((200, SAID, {})) as (url, _):
        server, address = started(url, tmp_path / "run")
        with server, httpx2.Client(trust_env=False, timeout=30) as client:
            root = address.removesuffix("/v1")
            trial = client.post(f"{root}/lamer/trials", json={"task": "x"}).json()
            agent_of(trial).chat.completions.create(model="m", messages=ASK)
            client.post(f"{root}/lamer/trials/{trial['trial_id']}/attempts", json={"success": False}).raise_for_status()
            agent_of(trial).chat.completions.create(model="m", messages=ASK)
            os.kill(server.pid, signal.SIGKILL)
        server, address = started(url, tmp_path / "run")
        with server, httpx2.Client(trust_env=False, timeout=30) as client:
            root = address.removesuffix("/v1")
            agent = agent_of({**trial, "base_url": address})  # the same key is good
            agent.chat.completions.create(model="m", messages=ASK)
            end = client.post(f"{root}/lamer/trials/{trial['trial_id']}/end", json={"success": True}).json()
            assert (end["calls"], end["trainable"]) == (3, 3)
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=30) == 0
    (line,) = read_trials(tmp_path / "run")
    assert [len(episode["turns"]) for episode in line["episodes"]] == [1, 2]


def test_a_trial_in_the_log_that_the_journal_still_has_is_ended_once(tmp_path: Path) -> None:
    """As after a kill between the two writes."""
    with scripted_server((200, SAID, {})) as (url, _):
        with gateway(url, tmp_path / "run") as client:
            trial = opened(client)
            agent_of(trial).chat.completions.create(model="m", messages=ASK)
            kept = {path: path.read_bytes() for path in (tmp_path / "run").glob("open_trials.sqlite*")}
            client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": True}).raise_for_status()
        for path, data in kept.items():
            path.write_bytes(data)
        for _ in range(2):
            with gateway(url, tmp_path / "run") as client:
                client.post(f"/lamer/trials/{trial['trial_id']}/end", json={"success": True}).raise_for_status()
    assert len(list(read_trials(tmp_path / "run"))) == 1


def test_an_end_that_was_killed_behind_its_grade_is_asked_for_again(tmp_path: Path) -> None:
    with scripted_server((200, SAID, {})) as (url, _), gateway(url, tmp_path / "run") as client:
        trial = opened(client)
        agent_of(trial).chat.completions.create(model="m", messages=ASK)
        grade = {"success": False, "score": 0.25}
        client.post(f"/lamer/trials/{trial['trial_id']}/attempts", json=grade).raise_for_status()
        client.post(f"/lamer/trials/{trial['trial_id']}/end", json=grade).raise_for_status()
    (line,) = read_trials(tmp_path / "run")
    assert [episode["reward"] for episode in line["episodes"]] == [0.25]


def test_two_gateways_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        scripted_server((200, SAID, {})) as (url, _),
        gateway(url, tmp_path / "run"),
        pytest.raises(SystemExit) as leave,
    ):
        main(["gateway", "--upstream", url, "--out", str(tmp_path / "run"), "--port", "0"])
    assert leave.value.code != 0
    assert "another gateway" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--upstream", "localhost:8000"], "must look like http://host:port/v1"),
        (["--upstream", "http://127.0.0.1:1", "--name", "a b"], "one word"),
        (["--upstream", "http://127.0.0.1:1", "--host", "0.0.0.0"], "ask for a key"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LAMER_API_KEY", raising=False)
    with pytest.raises(SystemExit) as leave:
        main(["gateway", *arguments, "--out", str(tmp_path / "run"), "--port", "0"])
    assert leave.value.code == 2
    assert words in capsys.readouterr().err
