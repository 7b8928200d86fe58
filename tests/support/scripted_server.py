"""A server whose answers are given one by one, for what one call makes of one answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CARDS = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096, "parent": None}]}


@contextmanager
def scripted_server(
    *answers: tuple[int, dict[str, Any] | bytes, dict[str, str]], port: int = 0, cards: Any = CARDS
) -> Iterator[tuple[str, list[Any]]]:
    """Answers the n-th POST with the n-th status, body and headers (the last one for ever), and every GET with `cards`
    (404 for None); yields the POSTs."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            self._send(404 if cards is None else 200, {} if cards is None else cards, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, "body": body, "headers": self.headers, "at": time.monotonic()})
            self._send(*answers[min(len(seen), len(answers)) - 1])

        def _send(self, status: int, answer: Any, headers: dict[str, str]) -> None:
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def completion(**changes: Any) -> dict[str, Any]:
    """An answer of model `m` with two tokens."""
    choice = {
        "message": {"content": "hi"},
        "finish_reason": "stop",
        "token_ids": [5, 2],
        "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -0.25}]},
    }
    choice.update({key: value for key, value in changes.items() if key in choice})
    top = {"model": "m", "choices": [choice], "prompt_token_ids": [1, 4]}
    top.update({key: value for key, value in changes.items() if key in top})
    return top
