"""What the front doors' HTTP has in common: bounded bodies, errors as OpenAI's clients read them, keys.

What must stay true: a body is read no further than its bound; keys are compared in constant time and appear in no
message; an error is one line that says what would be right.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lamer_graph.text import loads

MAX_BODY_BYTES = 4 << 20
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def problem(status: int, message: str) -> Json:
    """An error in OpenAI's form."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return Json({"error": {"message": message, "type": kind, "code": status, "param": None}}, status)


async def on_refusal(_: Request, error: Exception) -> Response:
    """Starlette's handler of HTTPException, in the form of `problem`."""
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail))


async def on_fault(_: Request, error: Exception) -> Response:
    """Starlette's handler of what nobody expected: the caller learns that it was no fault of theirs, and no more."""
    return problem(500, f"the server failed ({type(error).__name__}); its log says how")


async def body_of(request: Request, most: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """The request's JSON object, {} of an empty body. Raises HTTPException (413, 400)."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise HTTPException(413, f"the request is longer than {most:,} bytes")
    if not data.strip():
        return {}
    try:
        found = loads(bytes(data))
    except ValueError:
        raise HTTPException(400, "the request's body is not JSON") from None
    if not isinstance(found, dict):
        raise HTTPException(400, f"the request's body must be a JSON object, not {type(found).__name__}")
    return found


def key_of(request: Request) -> str | None:
    """The bearer's key, if one was sent."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def is_retry(request: Request) -> bool:
    """Whether the client says, as OpenAI's do, that it sends this once more because it had no answer."""
    return request.headers.get("x-stainless-retry-count", "0") != "0"


def event(data: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are one, in a time that does not tell where they part."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def text_in(body: Mapping[str, Any], name: str, most: int) -> str | None:
    """A text of the body, None where there is none. Raises HTTPException for what is no text, or too long a one."""
    found = body.get(name)
    if found is None:
        return None
    if not isinstance(found, str) or len(found) > most:
        raise HTTPException(400, f"{name} must be a text of at most {most:,} characters")
    return found


def check_fields(body: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raises HTTPException for a field that would do nothing."""
    if unknown := sorted(str(name) for name in body if name not in known):
        raise HTTPException(400, f"unknown field {unknown[0][:100]!r}: fields are {', '.join(sorted(known))}")


def number_in(body: Mapping[str, Any], name: str) -> float | None:
    """A finite number of the body, None where there is none. Raises HTTPException for anything else."""
    found = body.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise HTTPException(400, f"{name} must be a finite number")
    return float(found)


def digest_of(secret: str) -> str:
    """What may stand for a key where it must not be read: in a table, in a name."""
    return sha256(secret.encode()).hexdigest()
