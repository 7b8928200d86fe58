"""How fast a run goes and how much of it is left, also before its first trial has ended.

What must stay true: what is left is never made smaller than it can be known to be: until trials have ended, every one
counts with all the turns and tokens that it may take, and is said to be `at most`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any


def solved_in(line: Mapping[str, Any]) -> int | None:
    """In which attempt a logged trial was solved, 0 for none, None where an error ended it."""
    if line["error"] is not None:
        return None
    return len(line["episodes"]) if line["success"] else 0


@dataclass
class Pace:
    """Of a run of `trials`, each of up to `calls` policy calls of up to `tokens` tokens.

    `sampled` reads how many tokens the policy has sampled so far; None where that cannot be seen (a server's).
    """

    trials: int
    calls: int
    tokens: int
    episodes: int = 1
    """Attempts of a trial, at most."""
    sampled: Callable[[], int] | None = None
    clock: Callable[[], float] = time.monotonic
    made: int = 0
    """Calls that were answered."""
    ended: int = 0
    """Trials that ended here."""
    _of_ended: int = 0
    _solved: list[int] = field(default_factory=list)
    _began: float | None = None
    _before: int = field(default=0)

    def begin(self, already: int) -> None:
        """The first call is about to be made; so many trials are there already."""
        self.trials -= already
        self._began = self.clock()
        self._before = 0 if self.sampled is None else self.sampled()

    def called(self) -> None:
        self.made += 1

    def trial(self, calls: int, solved: int | None = None) -> None:
        """A trial of so many calls has ended: `solved` in which attempt, 0 for none, None where an error ended it."""
        self.ended += 1
        self._of_ended += calls
        if solved is not None:
            self._solved.append(solved)

    def line(self) -> str:
        """`pass@1 .25, pass@3 .60 of 20, 37 calls, 2.1/s, 5 tokens/s, at most 1:20:00 left`; empty before `begin`.

        Trials that were there already are not counted, and short ones end first: it is a first figure, no result.
        """
        if self._began is None:
            return ""
        seconds = max(self.clock() - self._began, 1e-9)
        sampled = 0 if self.sampled is None else self.sampled() - self._before
        calls = max(self.made, self._of_ended)
        said = [*self._first_figures(), f"{calls:,} calls, {calls / seconds:.1f}/s"]
        if sampled:
            said.append(f"{sampled / seconds:,.0f} tokens/s")
        left = self._left(calls, sampled, seconds)
        if left is not None:
            about = "about" if self.ended else "at most"
            said.append(f"{about} {timedelta(seconds=round(left))} left")
        return ", ".join(said)

    def _first_figures(self) -> list[str]:
        """pass@1 and pass@N of the trials that have ended here."""
        if not (count := len(self._solved)):
            return []
        ks = dict.fromkeys((1, self.episodes))
        shares = [(k, sum(0 < attempt <= k for attempt in self._solved) / count) for k in ks]
        told = ", ".join(f"pass@{k} {share:.2f}".replace(" 0.", " .") for k, share in shares)
        return [f"{told} of {count:,}"]

    def _left(self, calls: int, sampled: int, seconds: float) -> float | None:
        """Seconds, from the rate of calls, or of tokens while no call has been answered; None while there is none."""
        each = self._of_ended / self.ended if self.ended else self.calls
        open_calls = max(self.trials * each - calls, 0.0)
        if calls:
            return open_calls * seconds / calls
        return open_calls * self.tokens * seconds / sampled if sampled else None
