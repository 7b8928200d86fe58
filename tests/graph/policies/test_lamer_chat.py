"""LamerChat: LangChain's chat model for a vLLM, whose messages keep their exact tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from lamer_graph import LamerChat, LocalPolicy, OpenAIPolicy, RunLog, Sampling, with_retries
from lamer_graph.errors import ConfigError
from lamer_graph.policies.exact import exact
from lamer_graph.runlog import read_trials
from lamer_graph.runlog.schema import check
from lamer_graph.serving.vllm import VllmServer
from scripted_server import completion, scripted_server

ACT = [HumanMessage("Open (0, 1)=2 Act")]


# -- a real server ----------------------------------------------------------------------------------------------------


async def test_a_message_has_the_tokens_that_the_policy_client_gets(
    vllm_server: VllmServer, tiny_model_dir: Path
) -> None:
    chat = LamerChat(vllm_server.base_url, vllm_server.model_name, max_tokens=12, seed=4)
    said = await chat.ainvoke(ACT)
    tokens = exact(said)
    assert tokens is not None
    policy = await OpenAIPolicy(vllm_server.base_url, training=True).connect()
    done = await policy.generate([{"role": "user", "content": ACT[0].text}], Sampling(max_tokens=12, seed=4))
    assert tokens["prompt_token_ids"] == list(done.prompt_token_ids)
    assert tokens["token_ids"] == list(done.token_ids)
    assert tokens["logprobs"] == pytest.approx(list(done.logprobs), abs=1e-4)
    assert tokens["policy_version"] == vllm_server.model_name
    assert said.text == done.text
    assert "logprobs" not in said.response_metadata  # the server's own form of them, with texts and bytes
    local = LocalPolicy(tiny_model_dir)
    assert tokens["logprobs"] == pytest.approx(
        list(local.score(tokens["prompt_token_ids"], tokens["token_ids"])), abs=0.02
    )
    assert exact(chat.invoke(ACT)) == tokens
    await policy.aclose()
    local.close()


async def test_a_stream_brings_the_same_tokens(vllm_server: VllmServer) -> None:
    chat = LamerChat(vllm_server.base_url, vllm_server.model_name, max_tokens=12, seed=4)
    whole = None
    async for chunk in chat.astream(ACT):
        whole = chunk if whole is None else whole + chunk
    assert isinstance(whole, AIMessage)
    said = await chat.ainvoke(ACT)
    assert exact(whole) == exact(said)
    assert whole.text == said.text


def test_structured_output_is_langchains(vllm_server: VllmServer) -> None:
    class Place(BaseModel):
        row: int

    chat = LamerChat(vllm_server.base_url, vllm_server.model_name, max_tokens=40, seed=1)
    found = chat.with_structured_output(Place, method="json_schema", include_raw=True).invoke(ACT)
    assert exact(found["raw"]) is not None
    assert found["parsed"] is None or isinstance(found["parsed"], Place)  # a random model may write an endless number


async def test_an_applications_log_can_be_trained_on(vllm_server: VllmServer, tmp_path: Path) -> None:
    from langchain.agents import create_agent

    chat = LamerChat(vllm_server.base_url, vllm_server.model_name, max_tokens=8)
    with RunLog.create(tmp_path / "run") as log:
        app = with_retries(
            create_agent(chat, []), grade=lambda *_: 0.5, reflect=chat, log=log, max_attempts=2,
            checkpointer=InMemorySaver(),
        )  # fmt: skip
        config: Any = {"configurable": {"thread_id": "t"}}
        async for _ in app.astream({"messages": ACT}, config, stream_mode="messages"):  # which makes models stream
            pass
    report = check(tmp_path / "run")
    assert report.ok
    assert (report.calls, report.untrainable_calls) == (3, 0)
    (trial,) = read_trials(tmp_path / "run")
    first, second = (episode["turns"][0]["call"] for episode in trial["episodes"])
    assert [role for role, _ in first["messages"]] == ["user"]
    assert [role for role, _ in second["messages"]] == ["system", "user"]
    assert len(second["prompt_token_ids"]) > len(first["prompt_token_ids"])


# -- servers of all kinds ---------------------------------------------------------------------------------------------


def test_another_server_is_asked_for_no_tokens() -> None:
    with scripted_server((200, completion(message={"role": "assistant", "content": "hello"}), {})) as (url, asked):
        said = LamerChat(url, "m", exact=False, api_key="sk-x").invoke(ACT)
    assert said.text == "hello"
    assert "return_token_ids" not in asked[0]["body"]


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"lamer": "no"},
        {"lamer": {"prompt_token_ids": [1], "token_ids": [2, 3], "logprobs": [-1.0], "policy_version": "m"}},
        {"lamer": {"prompt_token_ids": [1], "token_ids": [2], "logprobs": [float("nan")], "policy_version": "m"}},
        {"lamer": {"prompt_token_ids": [1], "token_ids": [2], "logprobs": [-1.0]}},  # a stream that was cut
        {"lamer": {"prompt_token_ids": [], "token_ids": [2], "logprobs": [-1.0], "policy_version": "m"}},
    ],
)
def test_tokens_are_whole_or_there_are_none(metadata: dict[str, Any]) -> None:
    assert exact(AIMessage("hm", response_metadata=metadata)) is None


def test_tokens_that_a_parser_kept_to_itself_are_missed() -> None:
    tokens = {"prompt_token_ids": [1], "token_ids": [2], "logprobs": [-1.0], "policy_version": "m"}
    usage: Any = {"input_tokens": 1, "output_tokens": 3, "total_tokens": 4}
    assert exact(AIMessage("", response_metadata={"lamer": tokens}, usage_metadata=usage)) is None
    usage["output_tokens"] = 1
    assert exact(AIMessage("", response_metadata={"lamer": tokens}, usage_metadata=usage)) == tokens


@pytest.mark.parametrize("arguments", ['"Thekali"', "[1]", "{broken"])
def test_a_call_whose_arguments_are_no_object_is_one_that_cannot_be_read(arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": arguments}}
    answer = completion(message={"role": "assistant", "content": None, "tool_calls": [call]})
    with scripted_server((200, answer, {})) as (url, _):
        said = LamerChat(url, "m").invoke(ACT)
    assert isinstance(said, AIMessage)
    assert (said.tool_calls, said.invalid_tool_calls[0]["args"]) == ([], arguments)
    assert exact(said) is not None


def test_a_malformed_address_is_refused_and_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="must look like http://host:port/v1"):
        LamerChat("localhost:8000")
    monkeypatch.setenv("LAMER_API_KEY", "sk-mine")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    chat = LamerChat("http://127.0.0.1:8000", "m")
    assert chat.openai_api_base == "http://127.0.0.1:8000/v1"
    assert chat.openai_api_key.get_secret_value() == "sk-mine"  # type: ignore[union-attr]
    assert "sk-mine" not in repr(chat)
