"""Who plays the trials of a run, as its collector sees it: where the weights go, and when there is room to play.

What must stay true: `playing` lends what was brought last, and `validating` exactly the weights after the updates that
it is asked for. Between two turns the sampler does nothing that the trainer's writing to its module could disturb.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager

from lamer_graph.policies.base import Policy


class Sampler(ABC):
    """A way to sample from the module that is trained."""

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """While this is open the trainer waits for trials."""
        yield

    @abstractmethod
    def bring(self, step: int) -> dict[str, float]:
        """Take over the trainer's weights, those after `step` updates; figures for the update's metrics."""

    @abstractmethod
    def playing(self) -> AbstractAsyncContextManager[Policy]:
        """The policy that plays a batch; it stays the same while this is open."""

    @abstractmethod
    def validating(self, step: int) -> AbstractContextManager[Policy]:
        """In a turn: the policy after `step` updates, which must not be trained meanwhile."""

    def close(self) -> None:  # noqa: B027  (nothing may be held)
        """Let go of what is held; doing it again does nothing."""
