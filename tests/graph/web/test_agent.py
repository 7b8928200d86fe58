"""The served agent: any OpenAI or MCP client asks it, and nobody's memory or thread is another's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic import SecretStr

from agents import CODE, agent_of, graded, learner, reviews
from lamer_graph import MemoryConfig, create_lamer_agent, with_retries
from lamer_graph.cli import main
from lamer_graph.errors import ConfigError
from lamer_graph.web.agent.app import AgentServer
from lamer_graph.web.agent.served import Served, ServedApp, ServedPlayer
from lamer_graph.web.agent.users import ONLY, Users
from lamer_graph.web.listening import Listening
from lamer_memory import ChromaMemory
from lamer_memory.hygiene import all_namespaces
from scripted import ScriptedPolicy

ANNA, BOB = "key-of-anna-0001", "key-of-bob-000002"
ASK: Any = [{"role": "user", "content": "What is the code word?"}]


@contextmanager
def serving(served: Served, keys: dict[str, str] | None = None, timeout: float = 30.0) -> Iterator[str]:
    """The address of a server of the agent."""
    users = Users(keys or {})
    server = AgentServer(served, users, timeout=timeout)
    with Listening(server.app, "127.0.0.1", 0, keyed=users.keyed) as listening:
        yield listening.base_url


def client(url: str, key: str = "none") -> openai.OpenAI:
    http = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, http_client=http)


def learning(**more: Any) -> ServedApp:
    """An agent that solves its task in the second attempt."""
    agent, model = agent_of()
    return ServedApp(with_retries(agent, grade=graded, reflect=model, **more), "helper")


# -- clients ----------------------------------------------------------------------------------------------------------


def test_an_openai_client_gets_the_last_answer_and_what_it_took() -> None:
    with serving(learning()) as url:
        api = client(url)
        assert [card.id for card in api.models.list()] == ["helper"]
        assert api.models.retrieve("helper").owned_by == "lamer-graph"
        said = api.chat.completions.create(model="helper", messages=ASK, temperature=0.2)
    message = said.choices[0].message
    assert message.content == CODE
    assert (said.model, said.choices[0].finish_reason) == ("helper", "stop")
    extra = said.model_extra or {}
    assert extra["lamer"] == {"success": True, "attempts": 2, "waits": False, "ignored": ["temperature"]}
    told = (message.model_extra or {})["reasoning_content"]
    assert "[1] not solved: the code word is not red" in told
    assert f"[1] learnt: The code word is {CODE}." in told
    assert '[2] ai: search({"query":"code word"})' in told


def test_a_stream_tells_the_way_as_reasoning_and_the_answer_last() -> None:
    with serving(learning()) as url:
        parts = list(
            client(url).chat.completions.create(
                model="helper", messages=ASK, stream=True, stream_options={"include_usage": True}
            )
        )
    deltas = [part.choices[0].delta for part in parts if part.choices]
    reasoning = [(delta.model_extra or {}).get("reasoning_content") for delta in deltas]
    assert deltas[0].role == "assistant"
    assert (
        len([line for line in reasoning if line]) == 9
    )  # twice a call, its result, an answer and a grade, and a reflection
    assert "".join(delta.content or "" for delta in deltas) == CODE
    assert deltas[-2].content == CODE  # behind all reasoning
    assert parts[-1].usage is not None
    assert parts[-2].choices[0].finish_reason == "stop"


def test_chat_openai_and_a_command_line_talk_to_it() -> None:
    """OpenAI's own command line is gone since version 3 of its package."""
    with serving(learning(), {"anna": ANNA}) as url:
        http = openai.DefaultHttpxClient(trust_env=False)
        chat = ChatOpenAI(base_url=f"{url}/v1", api_key=SecretStr(ANNA), model="helper", http_client=http)
        assert chat.invoke("What is the code word?").text == CODE
        command = ["curl", "-sS", "--noproxy", "*", f"{url}/v1/chat/completions", "-H", f"Authorization: Bearer {ANNA}"]
        body = json.dumps({"model": "helper", "messages": ASK})
        done = subprocess.run([*command, "-d", body], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == CODE


async def test_an_mcp_client_has_the_agent_as_a_tool() -> None:
    with serving(learning(), {"anna": ANNA}) as url:
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {ANNA}"}, trust_env=False, timeout=30) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http)) as mcp,
        ):
            (tool,) = (await mcp.list_tools()).tools
            assert tool.name == "helper"
            seen: list[str | None] = []

            async def progress(_: float, __: float | None, message: str | None) -> None:
                seen.append(message)

            found = await mcp.call_tool("helper", {"task": "What is the code word?"}, progress_callback=progress)
            assert found.structured_content == {"answer": CODE, "success": True, "attempts": 2, "waits": False}
            for wrong, why in (({"task": " "}, "must say"), ({"task": "x", "thread": "t"}, "keeps no threads")):
                refused = await mcp.call_tool("helper", wrong)
                assert refused.is_error
                assert why in str(refused.content)
        with httpx2.Client(trust_env=False) as plain:
            assert plain.post(f"{url}/mcp", json={}).status_code == 401
    assert any(line and "not solved" in line for line in seen)


# -- whose ------------------------------------------------------------------------------------------------------------


def test_no_users_memory_reaches_another_whatever_a_request_says(tmp_path: Path) -> None:
    """Anna's lesson solves Anna's next task at once. Bob, who claims to be her in every way that there is, has none."""
    backend = ChromaMemory(tmp_path / "memory")
    memory = MemoryConfig("reflection", backend=backend, scope="tasks")
    agent, model = agent_of()
    app = with_retries(agent, grade=graded, reflect=model, memory=memory, name="helper", max_attempts=2)
    other: Any = [{"role": "user", "content": "Tell me the code word."}]
    with serving(ServedApp(app, "helper"), {"anna": ANNA, "bob": BOB}) as url:
        anna, bob = client(url, ANNA), client(url, BOB)
        assert attempts(anna.chat.completions.create(model="helper", messages=ASK)) == 2
        assert attempts(anna.chat.completions.create(model="helper", messages=other)) == 1
        model.asked.clear()
        claims: list[dict[str, Any]] = [
            {},
            {"user": "anna"},
            {"metadata": {"user_id": "anna", "namespace": "anna"}},
            {"extra_headers": {"X-User-Id": "anna", "user_id": "anna"}},
        ]
        for number, claim in enumerate(claims):
            task: Any = [{"role": "user", "content": f"What is the code word? {number}"}]
            bob.chat.completions.create(model="helper", messages=task, **claim)
            first = model.asked[0]
            assert CODE not in str(first), claim
            model.asked.clear()
            backend.delete(("bob", "app:helper"))
        hostile = {"configurable": {"user_id": "anna"}}
        with pytest.raises(openai.BadRequestError, match="unknown field 'configurable'"):
            bob.chat.completions.create(model="helper", messages=ASK, extra_body=hostile)
    backend.close()


def attempts(said: Any) -> int:
    return int(said.model_extra["lamer"]["attempts"])


def test_a_thread_goes_on_and_is_its_users_alone() -> None:
    """The agent says how many messages it was asked with."""
    agent, _ = agent_of(
        lambda messages: AIMessage(f"{len([m for m in messages if m.type == 'human'])} asked"), tools=()
    )
    app = ServedApp(agent, "counter", InMemorySaver())
    with serving(app, {"anna": ANNA, "bob": BOB}) as url:
        anna, bob = client(url, ANNA), client(url, BOB)

        def ask(who: openai.OpenAI, messages: Any, thread: str = "t") -> str | None:
            said = who.chat.completions.create(model="counter", messages=messages, metadata={"thread_id": thread})
            return said.choices[0].message.content

        one, two = ({"role": "user", "content": text} for text in ("one", "two"))
        assert ask(anna, [one]) == "1 asked"
        assert ask(anna, [two]) == "2 asked"  # only what is new
        said = [one, {"role": "assistant", "content": "1 asked"}, two, {"role": "assistant", "content": "2 asked"}]
        assert ask(anna, [*said, one]) == "3 asked"  # all of it, as chat clients send it
        assert ask(bob, [one]) == "1 asked"
        assert ask(bob, [one], "anna/t") == "1 asked"
        by_header = anna.chat.completions.create(model="counter", messages=[two], extra_headers={"X-Thread-Id": "t"})
        assert by_header.choices[0].message.content == "4 asked"
        with pytest.raises(openai.BadRequestError, match="name two threads"):
            anna.chat.completions.create(
                model="counter", messages=[two], metadata={"thread_id": "t"}, extra_headers={"X-Thread-Id": "u"}
            )


def test_a_request_that_a_client_sends_once_more_is_answered_again_without_work() -> None:
    agent, model = agent_of()
    app = with_retries(agent, grade=graded, reflect=model, checkpointer=InMemorySaver())
    with serving(ServedApp(app, "helper")) as url:
        api, thread = client(url), {"thread_id": "t"}
        first = api.chat.completions.create(model="helper", messages=ASK, metadata=thread)
        count = len(model.asked)
        again = api.chat.completions.create(
            model="helper", messages=ASK, metadata=thread, extra_headers={"x-stainless-retry-count": "1"}
        )
        assert (attempts(again), len(model.asked)) == (attempts(first), count)
        api.chat.completions.create(model="helper", messages=ASK, metadata=thread)  # asked anew
        assert len(model.asked) > count
        with httpx2.Client(trust_env=False) as http:
            assert http.delete(f"{url}/v1/threads/t").json()["deleted"] is True
        assert app.get_state({"configurable": {"thread_id": learning().place_of(ONLY, "t")}}).values == {}


def test_a_failing_grader_is_said_so_to_an_mcp_client_too() -> None:
    def broken(*_: Any) -> float:
        raise ValueError("no such column")

    agent, _ = agent_of()
    served = ServedApp(with_retries(agent, grade=broken, memory="none"), "helper")

    async def ask(url: str) -> Any:
        async with (
            httpx2.AsyncClient(trust_env=False, timeout=30) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http)) as mcp,
        ):
            return await mcp.call_tool("helper", {"task": "x"})

    with serving(served) as url:
        assert "no such column" in str(asyncio.run(ask(url)).content)


def test_names_of_threads_are_made_of_user_and_thread() -> None:
    app = learning()
    places = {app.place_of(user, thread) for user, thread in (("a", "b/c"), ("a/b", "c"), ("a", "b"), ('a","b', "c"))}
    assert len(places) == 4


def test_a_person_is_asked_and_replies_on_the_thread() -> None:
    seen: list[Any] = []

    def answer(messages: Any) -> AIMessage:
        seen.append(messages)
        return learner(messages)

    agent, model = agent_of(answer)
    app = with_retries(agent, grade=graded, reflect=model, review="reflection", checkpointer=InMemorySaver())
    with serving(ServedApp(app, "helper")) as url:
        api = client(url)
        thread: Any = {"metadata": {"thread_id": "t"}}
        first = api.chat.completions.create(model="helper", messages=ASK, **thread)
        assert (first.model_extra or {})["lamer"]["waits"] is True
        assert json.loads(first.choices[0].message.content or "")["reflection"] == f"The code word is {CODE}."
        reply: Any = [{"role": "user", "content": "Ask the librarian."}]
        second = api.chat.completions.create(model="helper", messages=reply, **thread)
    assert (second.model_extra or {})["lamer"]["waits"] is True  # the second attempt failed without the word
    lessons = [str(messages[0].content) for messages in seen if not reviews(messages)]
    assert "> Ask the librarian." in lessons[-1]


def test_a_request_that_was_cut_short_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed in the second attempt; the same request to a new server repeats none of the first."""
    module = tmp_path / "slow_app.py"
    module.write_text(SLOW_APP)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "CALLS": str(tmp_path / "calls")}
    env.pop("LAMER_API_KEY", None)
    command = [sys.executable, "-m", "lamer_graph.cli", "agent", "serve", "--app", "slow_app:make", "--port", "0"]
    command += ["--json", "--threads", str(tmp_path / "threads.sqlite")]

    def started(hang: str) -> tuple[subprocess.Popen[str], str]:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env={**env, "HANG": hang})
        assert server.stdout is not None
        return server, json.loads(server.stdout.readline())["base_url"].removesuffix("/v1")

    thread: Any = {"metadata": {"thread_id": "t"}}
    server, url = started("1")
    with server:
        asking = threading.Thread(target=lambda: _ignored(client(url), thread), daemon=True)
        asking.start()
        while not (tmp_path / "calls").exists() or len((tmp_path / "calls").read_text().splitlines()) < 4:
            assert server.poll() is None
        os.kill(server.pid, signal.SIGKILL)
    server, url = started("")
    with server:
        said = client(url).chat.completions.create(model="slow", messages=ASK, **thread)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
    assert said.choices[0].message.content == CODE
    assert attempts(said) == 2
    # Two calls and a reflection of the first attempt, the call that hung, and it again with the one behind it.
    assert (tmp_path / "calls").read_text().splitlines() == ["act", "act", "reflect", "act", "act", "act"]


def _ignored(api: openai.OpenAI, thread: Any) -> None:
    with suppress(openai.OpenAIError):
        api.chat.completions.create(model="slow", messages=ASK, **thread)


SLOW_APP = """
import os, time
from agents import agent_of, graded, learner, reviews
from lamer_graph import with_retries

def noted(messages):
    with open(os.environ["CALLS"], "a") as file:
        file.write("reflect\\n" if reviews(messages) else "act\\n")
    if os.environ["HANG"] and len(open(os.environ["CALLS"]).readlines()) == 4:
        time.sleep(60)
    return learner(messages)

def make():
    agent, model = agent_of(noted)
    return with_retries(agent, grade=graded, reflect=model, name="slow")
"""


# -- policies that play -----------------------------------------------------------------------------------------------


def test_a_policy_that_plays_is_asked_for_a_task() -> None:
    policy = ScriptedPolicy(lambda *_: "<action>(1, 1)</action>")
    agent = create_lamer_agent(policy, "minesweeper:4x4-3", "none", max_episodes=2, max_turns=2)
    with serving(ServedPlayer(agent, "minesweeper:4x4-3", "player")) as url:
        api = client(url)
        said = api.chat.completions.create(model="player", messages=[{"role": "user", "content": '{"seed": 3}'}])
        assert "minesweeper:4x4-3: " in (said.choices[0].message.content or "")
        assert attempts(said) in (1, 2)
        for text in ("hello", "[1]", '{"seed": 1, "instance": {}}', "true", '{"instance": "/etc/passwd"}'):
            with pytest.raises((openai.BadRequestError, openai.InternalServerError)) as refused:
                api.chat.completions.create(model="player", messages=[{"role": "user", "content": text}])
            assert "passwd" not in str(refused.value) or "not its path" in str(refused.value)


def test_a_served_policy_keeps_each_users_memory_in_a_store_of_ones_own(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"anna": ANNA, "bob": BOB}))
    command = [sys.executable, "-m", "lamer_graph.cli", "agent", "serve", "--port", "0", "--json", "--keys", str(keys)]
    command += ["--backend", "chroma", "--scope", "tasks", "--memory-url", str(tmp_path / "memory"), "--seed", "1"]
    command += ["--select", "ucb", "--control", "0.5"]  # a server's memory is live
    env = {name: value for name, value in os.environ.items() if name != "LAMER_API_KEY"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        for key in (ANNA, BOB):
            asks = client(told["base_url"].removesuffix("/v1"), key).chat.completions
            for seed in range(4):  # only what was failed is remembered: nobody wins four boards at once
                asks.create(model=told["model"], messages=[{"role": "user", "content": f'{{"seed": {seed}}}'}])
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0
    backend = ChromaMemory(tmp_path / "memory")
    assert {name[0] for name in all_namespaces(backend)} == {"anna", "bob"}
    backend.close()


# -- bad input and faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"messages": []}, 400, "messages must be a list"),
        ({"messages": "hi"}, 400, "messages must be a list"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "malformed"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "must be a user's"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "and say something"),
        ({"messages": [*ASK, {"role": "tool", "tool_call_id": "x", "content": "paid"}]}, 400, "must be a user's"),
        ({"messages": ASK, "model": "gpt-5"}, 404, "it is 'helper'"),
        ({"messages": ASK, "tools": [{"type": "function"}]}, 400, "tools of its own"),
        ({"messages": ASK, "n": 3}, 400, "one answer"),
        ({"messages": ASK, "response_format": {"type": "json_object"}}, 400, "answers in text"),
        ({"messages": ASK, "stream": "yes"}, 400, "true or false"),
        ({"messages": ASK, "metadata": {"thread_id": "t"}}, 400, "keeps no threads"),
        ({"messages": ASK, "metadata": "t"}, 400, "must be an object"),
        ({"messages": ASK, "metadata": {"thread_id": "x" * 300}}, 400, "1 to 200 characters"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(body: dict[str, Any], status: int, words: str) -> None:
    agent, model = agent_of()
    app = ServedApp(with_retries(agent, grade=graded, reflect=model), "helper")
    with serving(app) as url, httpx2.Client(trust_env=False, timeout=30) as http:
        answer = http.post(f"{url}/v1/chat/completions", json=body)
    assert (answer.status_code, model.asked) == (status, [])
    assert words in answer.json()["error"]["message"]
    assert "\n" not in answer.json()["error"]["message"]


def test_bodies_are_bounded_and_other_routes_say_where_to_go() -> None:
    with serving(learning()) as url, httpx2.Client(trust_env=False, timeout=30) as http:
        assert http.post(f"{url}/v1/chat/completions", content=b"[1]").status_code == 400
        assert http.post(f"{url}/v1/chat/completions", content=b"{").status_code == 400
        assert http.post(f"{url}/v1/chat/completions", content=b"x" * (5 << 20)).status_code == 413
        assert "/v1/chat/completions" in http.post(f"{url}/v1/responses", json={}).json()["error"]["message"]


def test_a_wrong_key_is_refused_everywhere_and_never_shown() -> None:
    with serving(learning(), {"anna": ANNA}) as url, httpx2.Client(trust_env=False, timeout=30) as http:
        for key in ("", "Bearer", f"Bearer {BOB}", f"Basic {ANNA}", "Bearer \xff"):
            headers = {"Authorization": key.encode("latin-1")}
            for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("POST", "/mcp")):
                answer = http.request(method, f"{url}{path}", json={"messages": ASK}, headers=headers)
                assert answer.status_code == 401
                assert ANNA not in answer.text


def test_a_web_page_cannot_speak_to_a_server_without_keys() -> None:
    with serving(learning()) as url, httpx2.Client(trust_env=False, timeout=30) as http:
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
            answer = http.post(f"{url}/v1/chat/completions", json={"messages": ASK}, headers=headers)
            assert answer.status_code == 403
        local = {"Origin": "http://localhost:3000"}
        assert http.post(f"{url}/v1/chat/completions", json={"messages": ASK}, headers=local).status_code == 200


def test_what_the_agents_own_parts_do_wrong_is_told_apart() -> None:
    def down(_: Any) -> AIMessage:
        raise openai.APIConnectionError(request=httpx2.Request("POST", "http://x"))  # type: ignore[arg-type]

    agent, _ = agent_of(down)
    with serving(ServedApp(with_retries(agent, grade=graded, memory="none"), "helper")) as url:
        with pytest.raises(openai.InternalServerError) as failed:
            client(url).chat.completions.create(model="helper", messages=ASK)
        with pytest.raises(openai.APIError, match="APIConnectionError"):
            list(client(url).chat.completions.create(model="helper", messages=ASK, stream=True))
    assert "Traceback" not in str(failed.value)


def test_work_has_an_end_and_a_thread_does_one_thing_at_a_time() -> None:
    async def hangs(_: Any, __: Any) -> float:
        await asyncio.sleep(30)
        return 0.0

    agent, _ = agent_of()
    app = ServedApp(with_retries(agent, grade=hangs, memory="none", checkpointer=InMemorySaver()), "helper")
    thread: Any = {"metadata": {"thread_id": "t"}}
    with (
        serving(app, timeout=3.0) as url,
        client(url).chat.completions.with_streaming_response.create(
            model="helper", messages=ASK, stream=True, **thread
        ) as stream,
    ):
        lines = stream.iter_lines()
        while "ai: red" not in next(lines):
            pass
        with pytest.raises(openai.ConflictError, match="is being answered"):
            client(url).chat.completions.create(model="helper", messages=ASK, **thread)
        assert any("did not come to an end within 3 s" in line for line in lines)


def test_who_goes_away_ends_the_work() -> None:
    began, ended = threading.Event(), threading.Event()

    async def hangs(_: Any, __: Any) -> float:
        began.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()
        return 0.0

    agent, _ = agent_of()
    with serving(ServedApp(with_retries(agent, grade=hangs, memory="none"), "helper")) as url:
        with client(url).chat.completions.create(model="helper", messages=ASK, stream=True) as stream:
            next(iter(stream))
            assert began.wait(10)
        assert ended.wait(10)
        ended.clear()
        with pytest.raises(openai.APITimeoutError):
            client(url).with_options(timeout=2.0).chat.completions.create(model="helper", messages=ASK)
        assert ended.wait(10)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"anna": "short"}, "at least 16 characters"),
        ({" ": ANNA}, "1 to 100 printable"),
        ({"anna": ANNA, "bob": ANNA}, "have the same key"),
        ({"anna": 7}, "must be ASCII text"),
    ],
)
def test_keys_that_tell_nobody_apart_are_refused(keys: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        Users(keys)
    assert ANNA not in str(refused.value)


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMER_API_KEY", raising=False)
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"anna": ANNA, "bob": BOB}))
    assert len(Users.of(file)) == 2
    assert not Users.of(None).keyed
    monkeypatch.setenv("LAMER_API_KEY", ANNA)
    assert Users.of(None).keyed
    with pytest.raises(ConfigError, match="exclude each other"):
        Users.of(file)
    monkeypatch.delenv("LAMER_API_KEY")
    for text in ("[]", "{}", "no"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="JSON object of keys"):
            Users.of(file)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--app", "nowhere:app"], "cannot be imported"),
        (["--app", "nowhere.py:app"], "named as they are imported"),
        (["--app", "json:dumps"], "makes no graph by itself"),
        (["--app", "json:__name__"], "must be a compiled LangGraph graph"),
        (["--app", "x:y", "--env", "webshop"], "leave out the options"),
        (["--threads", "t.sqlite"], "use it with --app"),
        (["--keys", "none.json"], "cannot read the keys"),
        (["--host", "0.0.0.0"], "ask for a key"),
        (["--split", "val"], "are about runs"),
        (["--scope", "tasks", "--backend", "chroma", "--memory-url", "./m", "--live"], "are about runs"),
        (["--backend", "chroma", "--scope", "tasks"], "needs --memory-url"),
    ],
)
def test_bad_options_are_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAMER_API_KEY", raising=False)
    with pytest.raises(SystemExit) as leave:
        main(["agent", "serve", *arguments, "--port", "0"])
    assert leave.value.code == 2
    assert words in capsys.readouterr().err
