"""From a finished trial's state to a line of the run log.

What must stay true: the state is logged as it is, with the tokens its calls really used, once per trial; the run log
itself skips a trial that it already holds, so recording again after a crash is harmless.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lamer_graph.trial import EpisodeState, Harness, Json, TrialState, trial_record

if TYPE_CHECKING:
    from lamer_graph.runlog import RunLog


class TrialRecorder:
    """Writes finished trials to a run log; give it as `context={"recorder": ..}` to log a graph run for training."""

    def __init__(self, log: RunLog, split: str | None = None) -> None:
        self.log = log
        self.split = split

    def line(
        self, h: Harness, s: TrialState, error: Json | None = None, unfinished: EpisodeState | None = None
    ) -> Json:
        """The log line of a trial that is over, or that `error` ended."""
        return trial_record(
            h,
            s,
            config_hash=self.log.config_hash,
            split=self.split,
            seconds=time.time() - s["started"],
            error=error,
            unfinished=unfinished,
        )

    def record(self, h: Harness, s: TrialState) -> None:
        """Append the finished trial; returns when it is on disk. Raises RunLogError."""
        self.log.append(self.line(h, s))

    async def arecord(self, h: Harness, s: TrialState) -> None:
        """`record`, async and batched with other trials' appends."""
        await self.log.aappend(self.line(h, s))
