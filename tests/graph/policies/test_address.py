"""Addresses: their paths are kept, malformed ones are refused, and loopback never goes through a proxy."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lamer_graph.errors import ConfigError, PolicyError
from lamer_graph.policies.address import is_loopback, is_this_machine, read_address
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.types import Message, Sampling
from scripted_server import completion, scripted_server

ACT: list[Message] = [{"role": "user", "content": "Act"}]


@pytest.mark.parametrize(
    ("address", "api", "root"),
    [
        ("http://host:8000", "http://host:8000/v1", "http://host:8000"),
        ("http://host:8000/", "http://host:8000/v1", "http://host:8000"),
        ("http://host:8000/v1/", "http://host:8000/v1", "http://host:8000"),
        ("https://host/v1beta/openai", "https://host/v1beta/openai", "https://host/v1beta/openai"),
        ("https://host/api/v1", "https://host/api/v1", "https://host/api"),
    ],
)
def test_the_path_of_an_address_is_kept_and_v1_stands_in_where_there_is_none(address: str, api: str, root: str) -> None:
    place = read_address(address)
    assert (place.api, place.root, place.shown) == (api, root, root)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "/v1",
        "http://host:99999/v1",
        "http://host:abc/v1",
        "http://[::1/v1",
        "http://256.1.1.1/v1",
        "http://ho\nst/v1",
        "http://host\x00/v1",
        "http://host/v1?key=1",
        "http://host/v1#top",
    ],
)
def test_a_malformed_address_is_refused_before_any_work(address: str) -> None:
    with pytest.raises(ConfigError, match="must look like http://host:port/v1") as caught:
        OpenAIPolicy(address)
    assert "\n" not in str(caught.value)


def test_a_refused_address_does_not_tell_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        OpenAIPolicy("http://user:hunter2@host:99999/v1")
    assert "hunter2" not in str(caught.value)


async def test_requests_go_below_the_base_path_and_tokens_are_counted_beside_v1() -> None:
    with scripted_server((200, {**completion(), "count": 3}, {})) as (address, seen):
        for base in ("", "/v1", "/v1beta/openai"):
            policy = OpenAIPolicy(f"{address}{base}", "m", context_window=100)
            await policy.generate(ACT, Sampling())
            await policy.count_tokens(ACT)
            await policy.aclose()
    assert [request["path"] for request in seen] == [
        "/v1/chat/completions",
        "/tokenize",
        "/v1/chat/completions",
        "/tokenize",
        "/v1beta/openai/chat/completions",
        "/v1beta/openai/tokenize",
    ]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("vllm.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("128.0.0.1", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_loopback_is_what_only_this_machine_can_reach(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
    assert is_this_machine(host) == (loopback or host in ("0.0.0.0", "::"))


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A proxy in the environment that answers for everybody; yields what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            data = json.dumps(completion(model="proxied")).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield asked
    server.shutdown()
    server.server_close()


async def test_loopback_never_goes_through_a_proxy_and_the_world_does(proxy: list[str]) -> None:
    for host in ("127.0.0.1:1", "127.0.0.2:1", "127.1.2.3:1", "[::1]:1", "localhost:1", "0.0.0.0:1"):
        with pytest.raises(PolicyError, match="cannot reach"):
            await OpenAIPolicy(f"http://{host}", "m", context_window=9, max_retries=0).generate(ACT, Sampling())
    assert proxy == []
    done = await OpenAIPolicy("http://model.example", "m", context_window=9).generate(ACT, Sampling())
    assert done.policy_version == "proxied"
    assert proxy == ["http://model.example/v1/chat/completions"]
