"""A run that the command line asks for, in one value: who plays what, how much of it at once, and where it is logged.

What must stay true: it is plain enough to be sent to a process that starts from nothing, and makes the same run there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lamer_graph.cli.options import Effort, Player

if TYPE_CHECKING:
    from lamer_graph.collection.config import CollectConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """`training` as in `Player.open`; `through_graph` and `write_behind` as in `collect`."""

    player: Player
    config: CollectConfig
    effort: Effort
    folder: Path
    resume: bool
    training: bool | None
    through_graph: bool = False
    write_behind: bool = True
