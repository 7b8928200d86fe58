"""What the gateway adds to a call: the same calls of a server that answers at once, through it and without, in turns.

Client, server and gateway share this process and its cores, so that the difference is more than the gateway would cost
on a machine of its own.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import orjson

from bench import row

CALLS, CONCURRENCY, REPEATS = 600, 16, 3
TOKENS, PROMPT = 60, 500
ASK: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "s" * 1500}, {"role": "user", "content": "u" * 800}],
}


def answer() -> bytes:
    """As vLLM gives it, with tokens and logprobs."""
    entry = {"token": "t", "logprob": -1.0, "bytes": [116], "top_logprobs": []}
    choice = {
        "message": {"role": "assistant", "content": "x" * TOKENS},
        "finish_reason": "stop",
        "token_ids": list(range(TOKENS)),
        "logprobs": {"content": [entry] * TOKENS},
    }
    return orjson.dumps({"model": "m", "prompt_token_ids": list(range(PROMPT)), "choices": [choice]})


async def _rate(url: str, headers: dict[str, str]) -> float:
    limits = httpx2.Limits(max_connections=CONCURRENCY)
    async with httpx2.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:
        turn = asyncio.Semaphore(CONCURRENCY)

        async def call() -> None:
            async with turn:
                (await client.post(f"{url}/v1/chat/completions", json=ASK, headers=headers)).raise_for_status()

        started = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(CALLS)))
        return CALLS / (time.perf_counter() - started)


def rows() -> list[dict[str, Any]]:
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    from lamer_graph import RunLog
    from lamer_graph.web.gateway.app import Gateway
    from lamer_graph.web.gateway.relay import Relay
    from lamer_graph.web.listening import Listening

    data = answer()

    async def chat(request: Any) -> Response:
        await request.body()
        return Response(data, media_type="application/json")

    server = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    direct, through = [], []
    with (
        TemporaryDirectory() as folder,
        Listening(server, "127.0.0.1", 0, keyed=False) as upstream,
        RunLog.create(Path(folder) / "run") as log,
        Listening(Gateway(Relay(upstream.base_url, None), log).app, "127.0.0.1", 0, keyed=False) as gateway,
    ):
        opened = {"task": "x", "trial_id": "t"}
        httpx2.post(f"{gateway.base_url}/lamer/trials", json=opened, trust_env=False).raise_for_status()
        for _ in range(REPEATS):
            direct.append(asyncio.run(_rate(upstream.base_url, {})))
            through.append(asyncio.run(_rate(gateway.base_url, {"x-lamer-trial": "t"})))
    added = median(1000 / there - 1000 / here for here, there in zip(direct, through, strict=True))
    note = f"{CALLS} calls of {TOKENS} tokens, {CONCURRENCY} at a time"
    return [
        row("gateway: added to a call", added, "ms", "<= 10", note),
        row("gateway: calls through it", median(through), "1/s"),
        row("gateway: calls without", median(direct), "1/s"),
    ]
