"""The page as a server shows it, while the runs go on.

What must stay true: it only reads, and only what the runs hold that were named when it began; a question is a few
numbers, never a path. The numbers of the whole are made again in a thread of their own, no more often than is worth it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from lamer_graph.errors import MissingLibraryError, RunLogError
from lamer_graph.report.book import PAGE, Book
from lamer_graph.report.page import live_page, policy

try:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from lamer_graph.web.http import Json, on_fault, on_refusal
except ImportError as error:
    raise MissingLibraryError(
        f"servers stand on starlette and uvicorn, which are not here ({error}): pip install 'lamer-graph[web]'"
    ) from error

LOOK_S = 3.0
"""How often it is looked whether the numbers of the whole are still those of what is there."""
SHARE = 5
"""After making them it rests so many times as long as that took."""


def viewer(book: Book, title: str) -> Starlette:
    """The application."""
    page = live_page(title)
    headers = {
        "content-security-policy": policy(live=True) + "; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }

    async def document(_: Request) -> Response:
        return Response(page, media_type="text/html", headers=headers)

    async def answered(make: Callable[[], Any]) -> Response:
        try:
            made = await run_in_threadpool(make)
        except IndexError:
            raise HTTPException(404, "there is no such run or trial here") from None
        except RunLogError as error:
            raise HTTPException(409, str(error)) from None
        return Json(made, headers=headers)

    async def overview(_: Request) -> Response:
        return await answered(book.overview)

    async def state(_: Request) -> Response:
        return await answered(book.state)

    async def rows(request: Request) -> Response:
        run, first = _number(request, "run"), _number(request, "first")
        return await answered(lambda: book.rows(run, first, PAGE))

    async def trial(request: Request) -> Response:
        run, row = _number(request, "run"), _number(request, "row")
        return await answered(lambda: book.trial(run, row))

    @asynccontextmanager
    async def measuring(_: Any) -> AsyncIterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=_measure, args=(book, over), name="lamer-report", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    return Starlette(
        routes=[
            Route("/", document),
            Route("/api/overview", overview),
            Route("/api/state", state),
            Route("/api/rows", rows),
            Route("/api/trial", trial),
        ],
        exception_handlers={HTTPException: on_refusal, Exception: on_fault},
        lifespan=measuring,
    )


def _measure(book: Book, over: threading.Event) -> None:
    while not over.is_set():
        begun = time.monotonic()
        book.measure(lambda: not over.is_set())
        over.wait(max(LOOK_S, SHARE * (time.monotonic() - begun)))


def _number(request: Request, name: str) -> int:
    """A whole number of the question. Raises HTTPException."""
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise HTTPException(400, f"{name} must be a whole number")
    return int(text)
