"""Files written so that a crash leaves the old one or the whole new one.

What must stay true: file and folder are fsynced before `write_atomic` returns, and before `replacing` is left.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that after a crash either the old file or the whole new one is there. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which then takes the place of `path`, or is gone again if that fails. Raises OSError."""
    if path.exists() and not path.is_file():  # a device or a pipe takes what it is given, and stays what it is
        yield path
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is not None:
            error.filename = str(path)  # what was asked for, not our draft of it
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or a folder's own entries, on disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def reason_of(error: Exception) -> str:
    """What went wrong, without the path that an OSError repeats."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
