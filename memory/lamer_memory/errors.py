"""Errors of lamer_memory, named after the boundary that was crossed."""


class MemoryBackendError(Exception):
    """A backend could not do what was asked; the message names the backend and the fix."""


class MemoryClosedError(MemoryBackendError):
    """The backend was used after `close`."""


class MemoryConfigError(ValueError):
    """A memory configuration is malformed or a combination is impossible; the message names both sides."""
