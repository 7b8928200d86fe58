"""A small HTTP server with vLLM's shape and chosen faults, for tests of what a client does when a server misbehaves.

It plays like `scripted.random_player` unless it is given another `player`: the answer depends on the request's seed
alone, so runs repeat.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lamer_graph.types import Sampling
from scripted import Answer, random_player

MODEL = "fake-policy"
OPENAI_FIELDS = {"model", "messages", "temperature", "top_p", "max_tokens", "seed", "logprobs", "stop"}
WORD_TOKENS = 4
"""Characters per token of its make-believe tokenizer."""


class FakeServer(ThreadingHTTPServer):
    """`fault` is one of the names below and may be changed while it runs, and so may its `player`; `calls` counts chat
    completions.

    `asked` is the body of the latest of them. `events` are what it was told besides, in order, with a `chat` for every
    run of completions; `adapters` are loaded.
    """

    daemon_threads = True
    FAULTS = (
        "401",
        "500",
        "hang",
        "no token ids",
        "another model",
        "garbage",
        "chat 500",
        "chat hang",
        "insomnia",
        "plain",  # no fault, but no vLLM: an OpenAI-compatible server that refuses what OpenAI's API has not
        "plain, no system",  # and its model has no system role
        "plain, no stop",  # and its model takes no stop strings
        "plain, new limit",  # and it knows `max_completion_tokens` alone
    )

    def __init__(self, fault: str = "", *, delay: float = 0.0, context: int = 8192) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault = fault
        self.delay = delay
        self.context = context
        self.calls = 0
        self.asked: dict[str, Any] = {}
        self.player: Answer = random_player
        self.answer: str | None = None
        self.prompt_end: str | None = "<|im_start|>assistant\n"
        """What its template writes before an answer; None: it has no `/detokenize`."""
        self.token_strs = ["<", "think", ">"]
        self.root = "/models/fake"
        self.adapters: set[str] = set()
        self.asleep = False
        self.events: list[str] = []
        self.stopping = threading.Event()

    @property
    def plain(self) -> bool:
        return self.fault.startswith("plain")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet per answer: two would wait 40 ms for each other
    server: FakeServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send(self, body: Any, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _broken(self, chat: bool) -> bool:
        fault = self.server.fault
        if chat and fault.startswith("chat "):
            fault = fault.removeprefix("chat ")
        if fault in ("401", "500"):
            self._send({"error": {"message": f"the fault is {fault}"}}, int(fault))
        elif fault == "hang":
            self.server.stopping.wait(60)
            self.close_connection = True
        elif fault == "garbage":
            self._send(b"<html>not what you want</html>")
        else:
            return False
        return True

    def _told(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Sleep and adapters, answered as vLLM 0.32 does."""
        server = self.server
        server.events.append(path)
        if path == "/v1/load_lora_adapter":
            server.adapters.add(body["lora_name"])
        elif path == "/v1/unload_lora_adapter":
            server.adapters.remove(body["lora_name"])
        else:
            server.asleep = path.startswith("/sleep") or server.fault == "insomnia"
        return {"status": "sleeping" if server.asleep else "awake"}

    def do_GET(self) -> None:
        if self._broken(chat=False):
            return
        if self.server.plain:
            self._send({"data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "somebody"}]})
            return
        # As vLLM 0.32: the window is on the base's card alone.
        about = {"object": "model", "owned_by": "vllm", "root": self.server.root, "parent": None}
        cards = [{"id": MODEL, **about, "max_model_len": self.server.context}]
        cards += [{"id": name, **about, "parent": MODEL, "max_model_len": None} for name in self.server.adapters]
        self._send({"data": cards})

    def _refused(self, body: dict[str, Any], prompt: int) -> bool:
        """Requests that the real server refuses, in its words."""
        context, asked = self.server.context, body.get("max_tokens", 0)
        status, words = 400, ""
        if self.server.plain:
            known = OPENAI_FIELDS
            if self.server.fault == "plain, new limit":
                known = known - {"max_tokens"} | {"max_completion_tokens"}
            if unknown := sorted(body.keys() - known):
                plural = "s" if len(unknown) > 1 else ""
                words = f"Unrecognized request argument{plural} supplied: {', '.join(unknown)}"
            elif self.server.fault == "plain, no system" and "system" in {m["role"] for m in body["messages"]}:
                words = "System role not supported"
            elif self.server.fault == "plain, no stop" and "stop" in body:
                words = "Unsupported parameter: 'stop' is not supported with this model."
        elif body["model"] not in (MODEL, *self.server.adapters):
            status, words = 404, f"The model `{body['model']}` does not exist."
        elif asked > context:
            words = f"max_tokens={asked} cannot be greater than max_model_len={context}. Please request fewer."
        elif prompt > context:
            words = (
                f"This model's maximum context length is {context} tokens. However, your request contains at least "
                f"{context + 1} input tokens. Please reduce the length of the input messages."
            )
        if words:
            self._send({"error": {"message": words}}, status)
        return bool(words)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._broken(chat=True):
            return
        if self.path == "/detokenize":
            end = self.server.prompt_end
            self._send({"prompt": end} if end is not None else {"detail": "Not Found"}, 404 if end is None else 200)
            return
        if self.path == "/tokenize" and "prompt" in body:
            strs = self.server.token_strs if body.get("return_token_strs") else None
            self._send({"count": len(body["prompt"]), "tokens": [7] * len(body["prompt"]), "token_strs": strs})
            return
        if "messages" not in body:
            self._send(self._told(self.path, body))
            return
        prompt = sum(len(message["content"]) for message in body["messages"]) // WORD_TOKENS
        if self.path == "/tokenize":
            self._send({"count": prompt, "max_model_len": self.server.context, "tokens": [7] * prompt})
            return
        if self._refused(body, prompt):
            return
        self.server.calls += 1
        self.server.asked = body
        event = "chat asleep" if self.server.asleep else "chat"
        if self.server.events[-1:] != [event]:
            self.server.events.append(event)
        time.sleep(self.server.delay)
        text = self.server.answer or self.server.player(body["messages"], Sampling(seed=body["seed"]))
        text, stopped = _stopped(text, body.get("stop") or [])
        ids = [ord(character) for character in text]
        if stopped is not None and not body.get("include_stop_str_in_output"):
            text = text.removesuffix(stopped)
        choice: dict[str, Any] = {"message": {"content": text}, "finish_reason": "stop"}
        if not self.server.plain:
            choice["stop_reason"] = stopped
        answer = {"model": body["model"] if body["model"] in self.server.adapters else MODEL, "choices": [choice]}
        if self.server.fault == "another model":
            answer["model"] = "somebody-else"
        if self.server.plain:
            answer["model"] = f"{MODEL}-2026-11-29"
        if body.get("return_token_ids") and self.server.fault != "no token ids":
            answer["prompt_token_ids"] = [1, 2, 3]
            choice["token_ids"] = ids
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": chr(token), "logprob": -0.5} for token in ids]}
        self._send(answer)


def _stopped(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text up to its first stop string, as far as vLLM samples it, and which string that was."""
    found = min(((text.find(stop), stop) for stop in stops if stop in text), default=None)
    return (text, None) if found is None else (text[: found[0] + len(found[1])], found[1])


@contextmanager
def fake_server(fault: str = "", *, delay: float = 0.0, context: int = 8192) -> Iterator[FakeServer]:
    """A server on a free port until the end of the block."""
    server = FakeServer(fault, delay=delay, context=context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
