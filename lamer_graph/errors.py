"""Errors of lamer_graph, named after the boundary that was crossed. Every message is one line with the fix in it."""

from lamer_errors import LamerError as LamerError


class ConfigError(LamerError):
    """What the user asked for is malformed or contradictory (exit code 2)."""


class MissingLibraryError(ConfigError, ImportError):
    """A library that an extra brings is not installed; the message names the extra."""


class PolicyError(LamerError):
    """A policy call failed for good: after the retries, or for a reason that no retry mends."""


class PolicyConnectionError(PolicyError):
    """The server could not be reached, hung past the timeout, or kept failing; the message has its address."""


class PolicyAuthError(PolicyError):
    """The server refused the credentials (401 or 403)."""


class PolicyResponseError(PolicyError):
    """The server answered, but not with what was asked: missing ids or logprobs, another model, malformed."""


class PromptTooLongError(PolicyError):
    """The prompt does not fit the model's context even with all history dropped; says by how many tokens."""


class ServeError(LamerError):
    """The vLLM child process could not be started, died, or did not become healthy in time."""


class RunLogError(LamerError):
    """The run log is unreadable, of another schema or configuration, or cannot be written."""


class GradeError(LamerError):
    """A grader raised, hung, or returned what is no grade: the attempt stays ungraded, and the trial can be resumed."""
