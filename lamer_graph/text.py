"""Text from outside in the one form that every encoding, database and terminal takes.

What must stay true: what `plain` returns encodes as UTF-8 and holds no NUL (PostgreSQL's JSONB and text refuse both
half surrogate pairs and NUL), it is the same text wherever there was nothing to escape, and escaping twice is escaping
once. It is applied where text enters a trial (answers, observations, memories, what a user hands in), so that
prompts, checkpoints, stores and logs downstream need no care of their own.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import orjson

T = TypeVar("T")


def plain(text: str) -> str:
    r"""The text with NUL as `\x00` and half a surrogate pair as `\ud83d`, as Python writes them; whole pairs are
    joined to their character."""
    if "\0" not in text:
        try:
            text.encode()
            return text
        except UnicodeEncodeError:
            pass
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return joined.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def plain_json(value: T) -> T:
    """`plain` for every text in a JSON-like value, keys included; tuples become lists."""
    return _plain(value)  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def loads(data: bytes) -> Any:
    """JSON from outside. A half surrogate pair in an escape, which strict parsers refuse, comes back as by `plain`.

    Raises ValueError for what is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if b"\\u" not in data:
            raise
        try:
            return _plain(json.loads(data))
        except RecursionError as error:
            raise ValueError("JSON nested too deeply") from error
