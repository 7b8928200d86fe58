"""How fast a run goes and how much of it is left, also before its first trial has ended.

What must stay true: what is left is never made smaller than it can be known to be: until trials have ended, every one
counts with all the turns and tokens that it may take, and is said to be `at most`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass
class Pace:
    """Of a run of `trials`, each of up to `calls` policy calls of up to `tokens` tokens.

    `sampled` reads how many tokens the policy has sampled so far; None where that cannot be seen (a server's).
    """

    trials: int
    calls: int
    tokens: int
    sampled: Callable[[], int] | None = None
    clock: Callable[[], float] = time.monotonic
    made: int = 0
    """Calls that were answered."""
    ended: int = 0
    """Trials that ended here."""
    _of_ended: int = 0
    _began: float | None = None
    _before: int = field(default=0)

    def begin(self, already: int) -> None:
        """The first call is about to be made; so many trials are there already."""
        self.trials -= already
        self._began = self.clock()
        self._before = 0 if self.sampled is None else self.sampled()

    def called(self) -> None:
        self.made += 1

    def trial(self, calls: int) -> None:
        """A trial of so many calls has ended."""
        self.ended += 1
        self._of_ended += calls

    def line(self) -> str:
        """`37 calls, 2.1/s, 5 tokens/s, at most 1:20:00 left`; empty before `begin`."""
        if self._began is None:
            return ""
        seconds = max(self.clock() - self._began, 1e-9)
        sampled = 0 if self.sampled is None else self.sampled() - self._before
        calls = max(self.made, self._of_ended)
        said = [f"{calls:,} calls, {calls / seconds:.1f}/s"]
        if sampled:
            said.append(f"{sampled / seconds:,.0f} tokens/s")
        left = self._left(calls, sampled, seconds)
        if left is not None:
            about = "about" if self.ended else "at most"
            said.append(f"{about} {timedelta(seconds=round(left))} left")
        return ", ".join(said)

    def _left(self, calls: int, sampled: int, seconds: float) -> float | None:
        """Seconds, from the rate of calls, or of tokens while no call has been answered; None while there is none."""
        each = self._of_ended / self.ended if self.ended else self.calls
        open_calls = max(self.trials * each - calls, 0.0)
        if calls:
            return open_calls * seconds / calls
        return open_calls * self.tokens * seconds / sampled if sampled else None
