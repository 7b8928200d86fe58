"""From a finished trial's state to a line of the run log.

What must stay true: the state is logged as it is, with the tokens its calls really used, once per trial; the run log
itself skips a trial that it already holds, so recording again after a crash is harmless.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lamer_graph.trial.steps import EpisodeState, Harness, Json, TrialState, trial_record

if TYPE_CHECKING:
    from lamer_graph.runlog import RunLog


class TrialRecorder:
    """Writes trials to a run log; give it as `context={"recorder": ..}` to log a graph run for training.

    `on_line` is told of every line that was written, once it is on disk.
    """

    def __init__(self, log: RunLog, split: str | None = None, on_line: Callable[[Json], None] | None = None) -> None:
        self.log = log
        self.split = split
        self._on_line = on_line

    def record(self, h: Harness, s: TrialState) -> None:
        """Append the finished trial; returns when it is on disk. Raises RunLogError."""
        line = self._line(h, s, None, None)
        if self.log.append(line):
            self._tell(line)

    async def arecord(
        self, h: Harness, s: TrialState, error: Json | None = None, unfinished: EpisodeState | None = None
    ) -> None:
        """`record`, async and batched with other trials' appends; `error` says what ended the trial early."""
        line = self._line(h, s, error, unfinished)
        if await self.log.aappend(line):
            self._tell(line)

    def _line(self, h: Harness, s: TrialState, error: Json | None, unfinished: EpisodeState | None) -> Json:
        return trial_record(
            h,
            s,
            config_hash=self.log.config_hash,
            split=self.split,
            seconds=time.time() - s["started"],
            error=error,
            unfinished=unfinished,
        )

    def _tell(self, line: Json) -> None:
        if self._on_line is not None:
            self._on_line(line)
