"""The served agent's routes: OpenAI's chat completions and models, and the agent as a tool of the Model Context
Protocol.

What must stay true: whatever a request says, it is answered with the memory and the threads of the user whose key it
bears. A thread does one thing at a time. Who goes away ends the work; on a thread, the same request goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Mount, Route

from lamer_envs.errors import EnvError
from lamer_graph.errors import ConfigError, GradeError, LamerError, PolicyError, PromptTooLongError
from lamer_graph.text import plain_json
from lamer_graph.web.agent.chat import Answer, Form, Request, read
from lamer_graph.web.agent.served import Served
from lamer_graph.web.agent.tool import tool_app
from lamer_graph.web.agent.users import Users
from lamer_graph.web.flowing import Gone, Quiet, Stream, flowing
from lamer_graph.web.http import Json, body_of, event, is_retry, on_fault, on_refusal, problem
from lamer_memory.errors import MemoryBackendError

TIMEOUT_S = 600.0
THREAD_HEADER = "x-thread-id"
QUIET_S = 15
"""After so long without anything to tell a stream says that it is still there: proxies close silent ones."""

_log = logging.getLogger(__name__)


class AgentServer:
    """One agent behind HTTP."""

    def __init__(self, served: Served, users: Users, *, timeout: float = TIMEOUT_S) -> None:
        """`timeout` bounds the work on one request, in seconds."""
        self._served = served
        self._users = users
        self._timeout = timeout
        self._busy: set[tuple[str, str]] = set()
        self._born = int(time.time())
        self._tool = tool_app(served, users, self.worked, self.explained)
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/threads/{thread}", self._forget, methods=["DELETE"]),
                Route("/v1/{rest:path}", self._other, methods=["GET", "POST"]),
                Mount("/", app=self._tool.app),
            ],
            exception_handlers={HTTPException: on_refusal, Exception: on_fault},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        async with self._tool.running():
            yield

    async def _health(self, _: HttpRequest) -> Response:
        return Json({"status": "ok"})

    def _card(self) -> dict[str, Any]:
        return {"id": self._served.name, "object": "model", "created": self._born, "owned_by": "lamer-graph"}

    async def _models(self, request: HttpRequest) -> Response:
        self._users.who(request)
        return Json({"object": "list", "data": [self._card()]})

    async def _model(self, request: HttpRequest) -> Response:
        self._users.who(request)
        if request.path_params["name"] != self._served.name:
            return problem(404, f"there is no such model here: it is {self._served.name!r}")
        return Json(self._card())

    async def _other(self, request: HttpRequest) -> Response:
        self._users.who(request)
        return problem(404, "an agent is asked at /v1/chat/completions, or as a tool at /mcp")

    async def _forget(self, request: HttpRequest) -> Response:
        """Delete a thread of the user's, whether there is one or not."""
        user, thread = self._users.who(request), request.path_params["thread"]
        self._check_free((user, thread))
        await self._served.forget(user, thread)
        return Json({"id": thread, "object": "thread.deleted", "deleted": True})

    async def _chat(self, request: HttpRequest) -> Response:
        user = self._users.who(request)
        body = plain_json(await body_of(request))
        retried = is_retry(request)
        asked = read(body, self._served.name, request.headers.get(THREAD_HEADER), retried)
        form = Form(self._served.name, asked)
        try:
            work = await self._begun(asked, user)
        except Exception as error:
            return self._problem(error)
        if asked.stream:
            return Stream(self._chunks(request, work, form))
        try:
            told, answer = await _all(work, request)
        except Exception as error:
            return self._problem(error)
        return Json(form.whole(answer, told))

    async def worked(self, request: Request, user: str) -> AsyncIterator[str | Answer]:
        """The whole work on a request. Raises what stops it."""
        async for piece in await self._begun(request, user):
            yield piece

    async def _begun(self, request: Request, user: str) -> AsyncIterator[str | Answer]:
        """The work, begun: it ends in time, and holds its thread. Raises HTTPException."""
        place = None if request.thread is None else (user, request.thread)
        self._check_free(place)
        async with asyncio.timeout(self._timeout):
            return self._held(await self._served.begin(request, user), place)

    async def _held(
        self, work: AsyncIterator[str | Answer], place: tuple[str, str] | None
    ) -> AsyncIterator[str | Answer]:
        """The work, on its thread from when it is begun in earnest: who is never asked for a piece holds nothing."""
        self._check_free(place)
        if place is not None:
            self._busy.add(place)
        try:
            async with asyncio.timeout(self._timeout):
                async for piece in work:
                    yield piece
        finally:
            if place is not None:
                self._busy.discard(place)

    def _check_free(self, place: tuple[str, str] | None) -> None:
        if place in self._busy:
            raise HTTPException(409, "this thread is being answered: wait for it, or use another")

    async def _chunks(
        self, request: HttpRequest, work: AsyncIterator[str | Answer], form: Form
    ) -> AsyncGenerator[bytes, None]:
        """A stream: what the agent does as reasoning, its answer last."""
        yield event(form.part({"role": "assistant", "content": ""}))
        quiet = 0
        try:
            async for piece in flowing(request, work):
                if isinstance(piece, Quiet):
                    quiet += 1
                    if quiet % QUIET_S == 0:
                        yield b": working\n\n"
                elif isinstance(piece, Answer):
                    for part in form.last(piece):
                        yield event(part)
                    yield b"data: [DONE]\n\n"
                else:
                    quiet = 0
                    yield event(form.part({"reasoning_content": piece}))
        except Gone:
            return
        except Exception as error:
            yield event(orjson.loads(bytes(self._problem(error).body)))

    def explained(self, error: Exception) -> str:
        """What a caller is told of an error, in one line."""
        return str(orjson.loads(bytes(self._problem(error).body))["error"]["message"])

    def _problem(self, error: Exception) -> Response:
        """What a caller is told of an error that ended the work."""
        if isinstance(error, HTTPException):
            return problem(error.status_code, str(error.detail))
        if isinstance(error, Gone):
            return problem(499, "whoever asked has gone")
        if isinstance(error, TimeoutError):
            return problem(504, f"the agent did not come to an end within {self._timeout:g} s")
        if isinstance(error, PromptTooLongError | EnvError):
            return problem(400, str(error))
        unforeseen = not isinstance(error, LamerError)
        _log.error("a request failed: %s: %s", type(error).__name__, error, exc_info=error if unforeseen else None)
        if isinstance(error, PolicyError):
            return problem(502, f"the agent's model failed: {error}")
        if isinstance(error, MemoryBackendError):
            return problem(503, "the agent's memory does not answer; its log says why")
        if isinstance(error, ConfigError | GradeError):
            return problem(500, f"the agent cannot go on: {error}")
        return problem(500, f"the agent failed ({type(error).__name__}); its log says how")


async def _all(work: AsyncIterator[str | Answer], request: HttpRequest) -> tuple[list[str], Answer]:
    """The whole of the work. Raises what stops it."""
    told: list[str] = []
    answer: Answer | None = None
    async for piece in flowing(request, work):
        if isinstance(piece, Answer):
            answer = piece
        elif isinstance(piece, str):
            told.append(piece)
    assert answer is not None
    return told, answer
