"""Over OpenEnv's wire every environment is what it is locally; bad input is refused and sessions do not mix."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

pytest.importorskip("openenv", reason="no extra `openenv` here: make test-openenv")

from openenv.core import GenericEnvClient
from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from lamer_envs import EnvParameterError, make, names
from lamer_envs.checker import STRANGE_TEXTS
from lamer_envs.errors import RemoteEnvError
from lamer_envs.openenv import MAX_MESSAGE_BYTES, MAX_TEXT_CHARS, EnvServer, LamerAction, LamerEnvClient, is_loopback

SMALL = {"webshop": "webshop:50"}
SPECS = [SMALL.get(name, name) for name in names()]


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as stack:
        yield {spec: stack.enter_context(EnvServer(spec, port=0)).base_url for spec in SPECS}


@pytest.fixture(scope="module")
def board(urls: dict[str, str]) -> str:
    return urls["minesweeper"]


def played(url: str, spec: str, seed: int, actions: list[str]) -> None:
    """Play over the wire and locally, and compare all there is to compare."""
    env = make(spec)
    state = env.reset(seed)
    with LamerEnvClient(url).sync() as client:
        first = client.reset(seed=seed).observation
        assert (first.text, first.reward, first.done, first.turn) == (env.observe(state), None, False, 0)
        assert first.admissible == env.admissible(state)
        assert first.metadata == {
            "spec": env.spec,
            "rules": env.rules,
            "action_format": env.action_format,
            "max_turns": env.max_turns,
        }
        for turn, action in enumerate(actions[: env.max_turns], start=1):
            step = env.step(state, action)
            state = step.state
            result = client.step(action)
            seen = result.observation
            assert (seen.text, seen.reward, seen.success, seen.valid) == (
                step.observation,
                step.reward,
                step.success,
                step.valid,
            )
            assert (result.reward, result.done) == (step.reward, step.done or turn == env.max_turns)
            assert (seen.turn, seen.truncated) == (turn, not step.done and turn == env.max_turns)
            assert seen.admissible == env.admissible(state)
            remote = client.state()
            assert remote.env_state == state
            assert (remote.seed, remote.step_count, remote.spec) == (seed, turn, env.spec)
            if step.done:
                break


@pytest.mark.parametrize("spec", SPECS)
def test_an_experts_game_over_the_wire_equals_the_local_one(spec: str, urls: dict[str, str]) -> None:
    env = make(spec)
    for seed in (0, 7, 123_456):
        plan = env.solve(env.reset(seed))
        assert plan is not None
        played(urls[spec], spec, seed, plan)


@pytest.mark.parametrize("spec", SPECS)
def test_weak_and_strange_games_over_the_wire_equal_the_local_ones(spec: str, urls: dict[str, str]) -> None:
    env, rng = make(spec), random.Random(spec)
    texts = [text for text in STRANGE_TEXTS if "\ud800" not in text]  # that one the client refuses
    for seed in (1, 2):
        state, actions = env.reset(seed), []
        for _ in range(env.max_turns):
            actions.append(env.weak(state, rng) if rng.random() < 0.6 else rng.choice(texts))
            step = env.step(state, actions[-1])
            if step.done:
                break
            state = step.state
        played(urls[spec], spec, seed, actions)


@pytest.mark.parametrize("spec", SPECS)
def test_a_split_and_an_index_name_a_task_of_that_split(spec: str, urls: dict[str, str]) -> None:
    env = make(spec)
    with LamerEnvClient(urls[spec]).sync() as client:
        for split in env.splits:
            seeds = list(islice(env.seeds(split), 3))
            for index, seed in enumerate(seeds):
                assert client.reset(split=split, index=index).observation.text == env.observe(env.reset(seed))
                assert client.state().seed == seed
    shown = json.loads(http(urls[spec], f"/{env.name}/splits")[1])
    assert env.splits == tuple(split["name"] for split in (shown["splits"] if isinstance(shown, dict) else shown))


def test_openenvs_generic_client_plays_too(board: str) -> None:
    env = make("minesweeper")
    state = env.reset(3)
    with GenericEnvClient(board).sync() as client:
        assert client.reset(seed=3).observation["text"] == env.observe(state)
        for action in env.solve(state) or []:
            result = client.step({"text": action})
        assert result.done
        assert result.reward == 10.0
        assert result.observation["success"] is True


def test_an_instance_can_be_played_but_no_path_opened(urls: dict[str, str]) -> None:
    with LamerEnvClient(urls["sokoban"]).sync() as client:
        first = client.reset(instance={"xsb": ["#####", "#@$.#", "#####"]})
        assert first.observation.text == "# # # # #\n# @ $ . #\n# # # # #"
        assert client.step(LamerAction(text="right")).observation.success
        for bad, message in (("/etc/passwd", "JSON object"), ({"xsb": ["#"]}, "."), ({}, ".")):
            with pytest.raises(RemoteEnvError, match=message) as raised:
                client.reset(instance=bad)
            assert raised.value.code == "EXECUTION_ERROR"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sede": 3}, "not 'sede'"),
        ({"seed": -1}, "seed must be an integer"),
        ({"seed": "3"}, "seed must be an integer"),
        ({"seed": True}, "seed must be an integer"),
        ({"seed": 2**63}, "seed must be an integer"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"seed": 1, "split": "test", "index": 0}, "one of"),
        ({"split": "test"}, "split with index"),
        ({"split": "nowhere", "index": 0}, "split must be one of train, val, test"),
        ({"split": ["test"], "index": 0}, "split must be one of"),
        ({"split": "test", "index": 10**6}, "index must be an integer"),
        ({"episode_id": "x" * 300}, "episode_id"),
    ],
)
def test_wrong_reset_arguments_are_named_and_the_episode_goes_on(
    arguments: dict[str, Any], message: str, board: str
) -> None:
    with LamerEnvClient(board).sync() as client:
        client.reset(seed=5)
        before = client.state()
        with pytest.raises(RemoteEnvError, match=message) as raised:
            client.reset(**arguments)
        assert raised.value.code == "EXECUTION_ERROR"
        assert client.state() == before


@pytest.mark.parametrize(
    ("frame", "code", "goes_on"),
    [
        ("no json", "INVALID_JSON", True),
        ("", "INVALID_JSON", True),
        ('{"type": "jump"}', "UNKNOWN_TYPE", True),
        ("{}", "UNKNOWN_TYPE", True),
        ('{"type": "step"}', "VALIDATION_ERROR", True),
        ('{"type": "step", "data": "up"}', "VALIDATION_ERROR", True),
        ('{"type": "step", "data": {}}', "VALIDATION_ERROR", True),
        ('{"type": "step", "data": {"text": 3}}', "VALIDATION_ERROR", True),
        ('{"type": "step", "data": {"text": "(1, 1)", "tool": "x"}}', "VALIDATION_ERROR", True),
        (
            json.dumps({"type": "step", "data": {"text": "x" * (MAX_TEXT_CHARS + 1)}}),
            "VALIDATION_ERROR",
            True,
        ),
        ('{"type": "reset", "data": []}', "VALIDATION_ERROR", True),
        ('{"type": "state", "more": 1}', "VALIDATION_ERROR", True),
        ("[1, 2]", "SESSION_ERROR", False),
        ("1" * 5000, "SESSION_ERROR", False),
        ("[" * 100_000, "SESSION_ERROR", False),
        ('{"type": "step", "data": {"text": "\\ud800"}}', "SESSION_ERROR", False),
    ],
)
def test_a_malformed_frame_is_answered_with_a_code(frame: str, code: str, goes_on: bool, board: str) -> None:
    with connect(board.replace("http", "ws") + "/ws") as wire:

        def ask(message: str) -> dict[str, Any]:
            wire.send(message)
            answer: dict[str, Any] = json.loads(wire.recv(timeout=10))
            return answer

        assert ask('{"type": "reset", "data": {"seed": 5}}')["type"] == "observation"
        answer = ask(frame)
        assert (answer["type"], answer["data"]["code"]) == ("error", code)
        if goes_on:
            assert ask('{"type": "state"}')["data"]["seed"] == 5
        else:
            with pytest.raises(ConnectionClosed):
                wire.recv(timeout=10)
    played(board, "minesweeper", 5, ["(1, 1)"])


def test_calls_out_of_order_are_refused(board: str) -> None:
    env = make("minesweeper")
    with LamerEnvClient(board).sync() as client:
        assert client.state().env_state is None
        with pytest.raises(RemoteEnvError, match="call reset before step"):
            client.step("(1, 1)")
        client.reset(seed=0)
        for action in env.solve(env.reset(0)) or []:
            client.step(action)
        with pytest.raises(RemoteEnvError, match="the episode is over"):
            client.step("(1, 1)")
        with pytest.raises(ValidationError):
            client.step("x" * (MAX_TEXT_CHARS + 1))
        assert not client.reset(seed=1).done


def test_the_budget_truncates_an_episode() -> None:
    with EnvServer("minesweeper", port=0, max_turns=2) as server, LamerEnvClient(server.base_url).sync() as client:
        assert client.reset(seed=0).observation.metadata["max_turns"] == 2
        assert client.step("no action").done is False
        last = client.step("no action")
        assert last.done
        assert last.observation.truncated
        with pytest.raises(RemoteEnvError, match="the episode is over"):
            client.step("no action")


@pytest.mark.parametrize("spec", SPECS)
async def test_sessions_played_at_once_do_not_mix(spec: str, urls: dict[str, str]) -> None:
    env = make(spec)

    async def one(seed: int) -> int:
        rng, state, turns = random.Random(seed), env.reset(seed), 0
        async with LamerEnvClient(urls[spec]) as client:
            assert (await client.reset(seed=seed)).observation.text == env.observe(state)
            while turns < min(4, env.max_turns) and (choices := env.admissible(state)):
                action = rng.choice(choices)
                step = env.step(state, action)
                result = await client.step(action)
                assert (result.observation.text, result.reward) == (step.observation, step.reward)
                assert (await client.state()).env_state == step.state
                state, turns = step.state, turns + 1
        return turns

    assert min(await asyncio.gather(*(one(seed) for seed in range(12)))) >= 1


def test_sessions_are_bounded_in_number_and_their_places_come_back() -> None:
    with EnvServer("minesweeper", port=0, max_sessions=2) as server:
        with LamerEnvClient(server.base_url).sync() as one, LamerEnvClient(server.base_url).sync() as two:
            one.reset(seed=1)
            two.reset(seed=2)
            with LamerEnvClient(server.base_url).sync() as three:
                with pytest.raises(RemoteEnvError, match="capacity") as raised:
                    three.reset(seed=3)
                assert raised.value.code == "CAPACITY_REACHED"
            assert one.step("no action").observation.turn == 1
        _until_played(server.base_url)


@pytest.mark.parametrize("limits", [{"idle_seconds": 0.3}, {"session_seconds": 0.5}])
def test_a_session_that_is_silent_or_old_is_closed_and_its_place_comes_back(limits: dict[str, float]) -> None:
    with EnvServer("minesweeper", port=0, max_sessions=1, **limits) as server:
        with connect(server.base_url.replace("http", "ws") + "/ws") as wire:
            wire.send('{"type": "reset", "data": {}}')
            assert json.loads(wire.recv(timeout=10))["type"] == "observation"
            assert json.loads(wire.recv(timeout=10))["data"]["code"] == "SESSION_EXPIRED"
            with pytest.raises(ConnectionClosed):
                wire.recv(timeout=10)
        _until_played(server.base_url)


def test_a_client_whose_session_expired_is_told_to_reset() -> None:
    with EnvServer("minesweeper", port=0, idle_seconds=0.3) as server, LamerEnvClient(server.base_url).sync() as client:
        client.reset(seed=1)
        time.sleep(0.8)
        with pytest.raises(RemoteEnvError):
            client.step("(1, 1)")
        assert client.reset(seed=1).observation.turn == 0


def _until_played(url: str) -> None:
    """A place is free within a few seconds: the server frees it after the closing handshake."""
    for attempt in range(20):
        with LamerEnvClient(url).sync() as client:
            try:
                assert client.reset(seed=1).observation.turn == 0
                return
            except RemoteEnvError:
                assert attempt < 19
                time.sleep(0.2)


def test_beyond_this_machine_only_with_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(EnvParameterError, match="API key"):
            EnvServer("minesweeper", host=host, port=0)
    assert all(is_loopback(host) for host in ("127.0.0.1", "::1", "localhost"))


def test_with_a_key_every_call_but_health_needs_it() -> None:
    with EnvServer("minesweeper", host="0.0.0.0", port=0, api_key="right") as server:
        url = server.base_url.replace("0.0.0.0", "127.0.0.1")
        with LamerEnvClient(url, api_key="right").sync() as client:
            assert client.reset(seed=1).observation.turn == 0
        for wrong in (None, "wrong", "right1"):
            with pytest.raises(ConnectionError, match="403"), LamerEnvClient(url, api_key=wrong).sync():
                pass
        assert http(url, "/schema")[0] == 401
        assert http(url, "/health")[0] == 200
        assert http(url, "/schema", {"Authorization": "Bearer right"})[0] == 200
        assert http(url, "/schema", {"Authorization": "Bearer \xff"})[0] == 401


def test_pages_of_other_sites_tools_and_large_requests_are_refused(board: str) -> None:
    with pytest.raises(ConnectionError, match="403"):
        LamerEnvClient(board, headers={"Origin": "http://example.org"}).sync().connect()
    assert http(board, "/metadata", {"Origin": board})[0] == 200
    assert http(board, "/mcp", body=b"{}")[0] == 404
    assert http(board, "/reset", {"Content-Length": str(MAX_MESSAGE_BYTES + 1)}, b"{}")[0] == 413
    assert http(board, "/reset", {"Transfer-Encoding": "chunked"}, [b"{}"])[0] == 411
    with connect(board.replace("http", "ws") + "/ws") as wire:
        wire.send("x" * (MAX_MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed, match="1009"):
            wire.recv(timeout=10)


def test_the_stateless_routes_answer_and_refuse_in_one_line(board: str) -> None:
    env = make("minesweeper")
    status, body = http(board, "/reset", body=b'{"seed": 4}')
    assert (status, json.loads(body)["observation"]["text"]) == (200, env.observe(env.reset(4)))
    status, body = http(board, "/step", body=b'{"action": {"text": "(1, 1)"}}')
    assert (status, json.loads(body)["code"]) == (400, "SessionError")
    assert http(board, "/step", body=b'{"action": {"words": 1}}')[0] == 422
    assert http(board, "/reset", body=b'{"seed": -4}')[0] == 422
    assert env.rules in json.loads(http(board, "/metadata")[1])["description"]
    assert "env_state" in json.loads(http(board, "/schema")[1])["state"]["properties"]
    status, body = http(board, "/minesweeper/task", body=b'{"split": "test", "index": 1}')
    assert (status, list(islice(env.seeds("test"), 2))[1]) == (200, _seed_in(json.loads(body)))
    assert http(board, "/minesweeper/task", body=b'{"split": "none", "index": 1}')[0] == 400


def _seed_in(answer: dict[str, Any]) -> int:
    found = answer.get("task", answer)
    return int(found["seed"])


def test_wrong_settings_are_refused_before_anything_listens() -> None:
    for wrong in ({"max_turns": 0}, {"max_sessions": 0}, {"idle_seconds": 0.0}, {"api_key": "caf\xe9"}):
        with pytest.raises(EnvParameterError):
            EnvServer("minesweeper", port=0, **wrong)  # type: ignore[arg-type]
    with EnvServer("minesweeper", port=0) as server:
        port = int(server.base_url.rpartition(":")[2])
        with pytest.raises(EnvParameterError, match=f"port {port}"):
            EnvServer("minesweeper", port=port)


def http(url: str, path: str, headers: dict[str, str] | None = None, body: Any = None) -> tuple[int, str]:
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json", **(headers or {})})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
