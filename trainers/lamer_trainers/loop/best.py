"""The weights that validated best: a folder that is whole or not there, and that goes back with its run.

What must stay true: whenever the process is killed, a resumed run finds in `best/` what was best up to the checkpoint
that it goes on from. So weights found better after a checkpoint do not replace the former ones before the next one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson

from lamer_graph.runlog import write_atomic
from lamer_trainers.learning.saving import saving

BEST = "best"
READING = "validation.json"
"""In the folder: the update that its weights are of, and what they read."""


class Best:
    """`folder/best` and the spares beside it."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / BEST
        self._fresh, self._former, self._spare = (folder / f"{BEST}.{end}" for end in ("new", "former", "old"))

    def keep(self, update: int, reading: list[float], write: Callable[[Path], None]) -> None:
        """Put what `write` writes into a new folder in the place of the best so far. Raises CheckpointError."""
        shutil.rmtree(self._fresh, ignore_errors=True)
        with saving(self._fresh, new=True):
            write(self._fresh)
            write_atomic(self._fresh / READING, orjson.dumps({"update": update, "pass@k": reading}))
        if self.place.exists() and not self._former.exists():
            self.place.rename(self._former)
        self._drop()
        self._fresh.rename(self.place)

    def checkpointed(self) -> None:
        """A checkpoint is written: no resume goes back behind what is best now."""
        shutil.rmtree(self._former, ignore_errors=True)

    def go_back(self, update: int) -> bool:
        """Forget what was found after `update` updates; whether there is a best one then."""
        for left in (self._fresh, self._spare):
            shutil.rmtree(left, ignore_errors=True)
        if not self.place.exists() or self._update() > update:
            self._drop()
            if self._former.exists():
                self._former.rename(self.place)
        self.checkpointed()
        return self.place.exists()

    def _update(self) -> int:
        """The update that the weights are of; 0 where the folder does not say."""
        try:
            return int(orjson.loads((self.place / READING).read_bytes())["update"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _drop(self) -> None:
        """Remove what is in the place, in a way that never leaves half of it there."""
        shutil.rmtree(self._spare, ignore_errors=True)
        if self.place.exists():
            self.place.rename(self._spare)
            shutil.rmtree(self._spare, ignore_errors=True)
