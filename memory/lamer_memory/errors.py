"""Errors of lamer_memory, named after the boundary that was crossed."""

from lamer_errors import LamerError


def one_line(error: BaseException) -> str:
    """What another library's error says, bounded and on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class MemoryBackendError(LamerError):
    """A backend could not do what was asked; the message names the backend and the fix."""


class MemoryClosedError(MemoryBackendError):
    """The backend was used after `close`."""


class MemoryLockedError(MemoryBackendError):
    """Another process writes to this directory; the message says how to share a store between processes."""


class MemoryServerError(MemoryBackendError):
    """A memory server did not answer within its budget; the message names the server."""


class EmbedderError(MemoryBackendError):
    """A text could not be turned into a vector, or a store was filled with another embedder."""


class MemoryConfigError(LamerError, ValueError):
    """A memory configuration is malformed or a combination is impossible; the message names both sides."""


class MemoryImportError(LamerError, ValueError):
    """A file of records is malformed; the message names the line and what is wrong there."""
