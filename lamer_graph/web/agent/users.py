"""Who asks: users by their API keys.

What must stay true: a user is known by a key alone, never by what a request says; keys are read from a file or the
environment, and appear nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request

from lamer_graph.errors import ConfigError
from lamer_graph.policies.transport import API_KEY_ENV
from lamer_graph.web.http import digest_of, key_of

ONLY = "local"
"""Who asks where no key is asked for: everybody on this machine is one user."""
MIN_KEY = 16


class Users:
    """The users of a server, each with a key; none: whoever reaches it is `ONLY`."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """`keys` by user. Raises ConfigError for names and keys that tell nobody apart."""
        self._names: dict[str, str] = {}  # by digest: finding one takes no time that depends on the key
        for name, key in keys.items():
            if not name.strip() or not name.isprintable() or len(name) > 100:
                raise ConfigError(f"a user's name must be 1 to 100 printable characters, not {name[:100]!r}")
            if not isinstance(key, str) or len(key.strip()) < MIN_KEY or not key.isascii():
                raise ConfigError(f"the key of user {name!r} must be ASCII text of at least {MIN_KEY} characters")
            if self._names.setdefault(digest_of(key.strip()), name) != name:
                raise ConfigError(f"users {name!r} and {self._names[digest_of(key.strip())]!r} have the same key")

    @classmethod
    def of(cls, file: Path | None) -> Users:
        """The users of a JSON file {"anna": "KEY", ..}; without one, the single key of LAMER_API_KEY. Raises
        ConfigError."""
        alone = os.environ.get(API_KEY_ENV, "").strip()
        if file is None:
            return cls({ONLY: alone} if alone else {})
        if alone:
            raise ConfigError(f"--keys and {API_KEY_ENV} exclude each other: is it one user or several?")
        try:
            found = orjson.loads(file.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot read the keys in {file}: {error.strerror}") from None
        except ValueError:
            found = None
        if not isinstance(found, dict) or not found:
            raise ConfigError(f'{file} must hold a JSON object of keys by user: {{"anna": "KEY", "bob": "KEY"}}')
        return cls(found)

    @property
    def keyed(self) -> bool:
        return bool(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def who(self, request: Request) -> str:
        """The user whose key the request bears. Raises HTTPException."""
        if not self._names:
            return ONLY
        name = self._names.get(digest_of(key_of(request) or ""))
        if name is None:
            raise HTTPException(401, "no or a wrong API key: send Authorization: Bearer KEY")
        return name
