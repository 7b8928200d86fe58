"""Where trials come from: anything with `next_batch(step) -> Sequence[Trial]`, `step` counting updates from 0.

What must stay true: a source that is asked for the same step again gives the same trials, so that a resumed run needs
no cursor but the number of updates it has made. Trials of a task come together, as one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lamer_trainers.learning.samples import Trial


class Source(Protocol):
    """What a trainer asks for trials."""

    def next_batch(self, step: int) -> Sequence[Trial]:
        """The finished trials of update number `step`, whole groups of them."""
        ...
