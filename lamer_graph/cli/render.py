"""How trials and tables look in a terminal: pure functions from data to rich renderables.

What must stay true: text that a policy wrote is escaped, so that no answer can pass for our own markup.
"""

from __future__ import annotations

from rich.progress import ProgressColumn, Task
from rich.text import Text


class RateColumn(ProgressColumn):
    """Finished steps per second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")
