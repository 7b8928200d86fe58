"""Reading explicit instances: a mapping, or the file at a `pathlib.Path` that holds one.

What must stay true: an instance is data from outside, and text is never a path: a file is opened only for a
`pathlib.Path`, which no request, log or message can hold. It is read with a size limit, nothing in it is ever used as a
path, and whatever is wrong with it becomes one InstanceError that says what would be right.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lamer_envs.errors import InstanceError

MAX_INSTANCE_BYTES = 1_000_000


def read_instance_text(path: Path) -> str:
    """The text of an instance file of at most 1 MB. Raises InstanceError."""
    shown = shown_path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INSTANCE_BYTES + 1)
        if len(data) > MAX_INSTANCE_BYTES:
            raise InstanceError(f"instance file {shown} is larger than {MAX_INSTANCE_BYTES} bytes")
        return data.decode("utf-8")
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path, or text that is not UTF-8
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a text file"
        raise InstanceError(f"instance file {shown} cannot be read: {reason}") from None


def shown_path(path: Path) -> str:
    """A path for a message, bounded."""
    return repr(str(path)[:200])


def read_instance(instance: Mapping[str, Any] | Path, keys: Collection[str], example: str) -> dict[str, Any]:
    """The instance as a dict with string keys out of `keys`; `example` shows the right form in errors.

    Raises InstanceError, for text too.
    """
    data: Any = instance
    if isinstance(instance, Path):
        text = read_instance_text(instance)
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise InstanceError(f"instance file {shown_path(instance)} is not JSON; expected {example}") from None
    if not isinstance(data, Mapping):
        hint = "; a file is given as pathlib.Path(..), text is not opened" if isinstance(data, str) else ""
        raise InstanceError(f"an instance is a mapping such as {example}, not {type(data).__name__}{hint}")
    unknown = [str(key)[:40] for key in data if key not in keys]
    if unknown:
        raise InstanceError(f"unknown instance key '{unknown[0]}'; expected {example}")
    return dict(data)
