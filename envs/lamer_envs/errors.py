"""Errors of lamer_envs, named after the boundary that was crossed.

`step` never raises: what an agent types is data, and a bad action is an invalid turn. These errors are for the person
who configures an environment or loads an instance.
"""

from lamer_errors import LamerError


class EnvError(LamerError):
    """Base class of this package's errors."""


class UnknownEnvError(EnvError):
    """No environment has this name; the message names the nearest one."""


class EnvParameterError(EnvError):
    """A parameter or a spec string is malformed or out of range."""


class NotOfferedError(EnvError):
    """An environment does not have an optional method; the message says which, and what to write."""


class InstanceError(EnvError):
    """An explicit instance given to `load` is malformed or impossible."""


class EnvCheckError(EnvError):
    """`check_env` found a promise of the protocol broken; the message says which and by what."""


class SessionError(EnvError):
    """A served environment was called out of order or with arguments it does not have; the session goes on."""


class RemoteEnvError(EnvError):
    """The server of an environment refused a call. `code` is its error code, e.g. "CAPACITY_REACHED"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
