"""Errors of lamer_trainers, named after the boundary that was crossed. Every message is one line with the fix in it."""

from lamer_graph.errors import LamerError


class TrainingDataError(LamerError):
    """Logged trials cannot be trained on as they are; the message names the trial and the call."""


class TrainingConfigError(LamerError):
    """What was asked of the trainer is malformed or contradictory (exit code 2)."""


class CheckpointError(LamerError):
    """A checkpoint is missing, incomplete or of another run, or cannot be written."""


class WeightSyncError(LamerError):
    """The server does not have the trainer's weights: an adapter was refused, or answers other numbers than ours."""


class StoppedElsewhereError(LamerError):
    """Of several processes that train together another one has stopped, and has said why."""
