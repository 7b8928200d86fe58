"""What is made piece by piece for somebody who may go away: it is made only as long as they are there.

What must stay true: the pieces are made in one task, which has ended when `flowing` has, and what a `Stream` holds is
given back however it ends, begun or not. A web server tells of a client that has gone only when it is asked, or
written to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import TypeVar

import anyio
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
LOOK_S = 1.0
"""How often it is asked whether the client is still there."""


class Gone(Exception):
    """The client has gone."""


class Quiet:
    """Stands for a second in which there was nothing."""


QUIET = Quiet()


async def flowing(request: Request, pieces: AsyncIterator[T]) -> AsyncIterator[T | Quiet]:
    """The pieces, and QUIET for every second without one. Raises Gone, and what making them raises."""
    made: asyncio.Queue[tuple[T | None, BaseException | None]] = asyncio.Queue()

    async def make() -> None:
        try:
            async for piece in pieces:
                made.put_nowait((piece, None))
            made.put_nowait((None, StopAsyncIteration()))
        except Exception as error:
            made.put_nowait((None, error))

    making = asyncio.create_task(make())
    try:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    piece, error = await made.get()
            except TimeoutError:
                if await request.is_disconnected():
                    raise Gone from None
                yield QUIET
                continue
            if isinstance(error, StopAsyncIteration):
                return
            if error is not None:
                raise error
            yield piece  # type: ignore[misc]  # there is one where there is no error
    finally:
        making.cancel()
        # Shielded: a second cancellation would strike what the first one has begun to clear away.
        with anyio.CancelScope(shield=True), suppress(asyncio.CancelledError):
            await making


class Stream(StreamingResponse):
    """A stream of server-sent events. `held` is given back at its end."""

    def __init__(self, events: AsyncGenerator[bytes, None], held: AsyncExitStack | None = None) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._events = events
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):  # a generator that is left alone ends when it is collected, if ever
                await self._events.aclose()
                if self._held is not None:
                    await self._held.aclose()
