"""The agent as a tool of the Model Context Protocol (https://modelcontextprotocol.io), by the official SDK.

What must stay true: a call bears a key as any other request does, and its user is that key's; sessions are not kept, so
that nothing of one caller is there for another.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, NamedTuple

from langchain_core.messages import HumanMessage
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from lamer_graph.web.agent.chat import MAX_THREAD, Answer, Request
from lamer_graph.web.agent.served import Served
from lamer_graph.web.agent.users import Users
from lamer_graph.web.http import problem

Work = Callable[[Request, str], AsyncIterator[str | Answer]]


class Result(BaseModel):
    """What the agent came to."""

    answer: str
    success: bool | None = Field(description="Whether the task was solved; null if nobody grades this agent")
    attempts: int | None
    waits: bool = Field(description="The agent has asked a question: call it again on the same thread with the reply")


class Tool(NamedTuple):
    """`app` answers at /mcp while `running()` is entered."""

    app: Any
    running: Callable[[], AbstractAsyncContextManager[None]]


def tool_app(served: Served, users: Users, work: Work, explained: Callable[[Exception], str]) -> Tool:
    """The agent as the only tool of a server. `work` does what is asked, `explained` says what stopped it."""
    server = MCPServer(served.name, instructions=served.about, log_level="WARNING")

    async def run(
        task: Annotated[str, Field(description="What is to be done, in words")],
        context: Context[Any, Any],
        thread: Annotated[
            str | None, Field(description="Name of a conversation to go on with; without one every call stands alone")
        ] = None,
    ) -> Result:
        user = users.who(_http(context))
        if thread is not None and not (thread.strip() and len(thread) <= MAX_THREAD):
            raise ToolError(f"thread must be a text of 1 to {MAX_THREAD} characters")
        if not task.strip():
            raise ToolError("task must say what is to be done")
        done, answer = 0, None
        try:
            async for piece in work(Request([HumanMessage(task)], thread), user):
                if isinstance(piece, Answer):
                    answer = piece
                else:
                    done += 1
                    await context.report_progress(done, message=piece.strip())
        except Exception as error:
            raise ToolError(explained(error)) from None
        assert answer is not None
        return Result(answer=answer.text, success=answer.success, attempts=answer.attempts, waits=answer.waits)

    name = re.sub(r"[^A-Za-z0-9_-]", "_", served.name)[:64]
    server.add_tool(run, name=name, description=served.about)
    # Who may reach it `Listening` says, for all routes.
    open_to_all = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    inner = server.streamable_http_app(stateless_http=True, transport_security=open_to_all)

    async def keyed(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            users.who(HttpRequest(scope))
        except HTTPException as refused:
            await problem(refused.status_code, str(refused.detail))(scope, receive, send)
            return
        await inner(scope, receive, send)

    return Tool(keyed, server.session_manager.run)


def _http(context: Context[Any, Any]) -> HttpRequest:
    """The HTTP request that a call came with."""
    request = context.request_context.request
    assert isinstance(request, HttpRequest)
    return request
