"""`examples/app` on LangGraph's own server, driven by its SDK over HTTP. In an environment of its own: `make
test-langgraph`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("langgraph_api") is None, reason="no LangGraph server here: make test-langgraph"
)
APP = Path(__file__).parents[3] / "examples" / "app"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `langgraph dev` on a copy of the example."""
    folder = tmp_path_factory.mktemp("app")
    shutil.copytree(APP, folder, dirs_exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "langgraph"), "dev", "--no-browser", "--no-reload"]
    env = {**os.environ, "LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], cwd=folder, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        late = time.monotonic() + 120
        while "Starting 1 background workers" not in (folder / "log.txt").read_text():
            assert process.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < late
            time.sleep(0.2)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


@pytest.fixture
async def client(server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    from langgraph_sdk import get_client

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with get_client(url=server) as made:
        yield made


async def ids(client: Any) -> dict[str, str]:
    return {one["graph_id"]: one["assistant_id"] for one in await client.assistants.search()}


async def test_schemas_say_what_a_task_is_and_the_drawing_shows_the_episode(client: Any) -> None:
    found = await ids(client)
    schemas = await client.assistants.get_schemas(found["player"])
    assert set(schemas["input_schema"]["$defs"]["LamerTask"]["properties"]) == {"seed", "instance", "trial"}
    assert {"namespace", "user_id", "seed"} <= set(schemas["context_schema"]["properties"])
    assert "messages" in (await client.assistants.get_schemas(found["helper"]))["input_schema"]["properties"]
    for name, inner in (("player", "episode:act"), ("helper", "attempt:guess")):
        graph = await client.assistants.get_graph(found[name], xray=True)
        assert inner in {node["id"] for node in graph["nodes"]}


async def test_a_thread_plays_and_another_user_plays_on(client: Any) -> None:
    thread = await client.threads.create()
    made = await client.runs.wait(thread["thread_id"], "player", input={"task": {"seed": 3}})
    assert made["episodes"][0]["turns"]
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"]["success"] == made["success"]
    again = await client.runs.wait(thread["thread_id"], "player", input={"task": {"seed": 3}}, context={"seed": 4})
    assert again["episodes"]


async def test_an_apps_retries_are_streamed(client: Any) -> None:
    thread = await client.threads.create()
    asked = {"messages": [{"role": "user", "content": "Which city?"}]}
    seen = [
        part.data
        async for part in client.runs.stream(thread["thread_id"], "helper", input=asked, stream_mode="custom")
        if part.event == "custom"
    ]
    assert [event["event"] for event in seen] == ["turn", "attempt", "reflection", "turn", "attempt"]
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"]["messages"][-1]["content"] == "Turku"


@pytest.mark.parametrize("sync", [True, False])
async def test_a_remote_graph_is_an_episode(server: str, sync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from langgraph.pregel.remote import RemoteGraph

    from lamer_graph import Grade, with_retries

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    seen: list[Any] = []

    def grade(task: Any, result: Any) -> Grade:
        seen.append(result)
        return Grade(len(seen) > 1, "not yet")

    app = with_retries(RemoteGraph("helper", url=server), grade=grade, reflect=lambda _, feedback: feedback)
    asked = {"messages": [("user", "Which city?")]}
    made = await asyncio.to_thread(app.invoke, asked) if sync else await app.ainvoke(asked)
    assert (made["success"], len(made["attempts"])) == (True, 2)
    assert made["messages"][-1].text == "Turku"
