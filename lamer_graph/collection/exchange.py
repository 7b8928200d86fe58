"""Reflections that change hands between trials: the ablation that asks whether memory was at work."""

from __future__ import annotations

import asyncio
import random
from typing import Any


class Exchange:
    """Swaps reflections between the trials that have failed the same episode: a seeded rotation of a shuffled order.

    A trial waits until every trial still open has reached the same point, so the outcome does not depend on timing. A
    trial that is alone has nobody to swap with and remembers nothing.
    """

    def __init__(self, trials: int, seed: int) -> None:
        self._open = trials
        self._seed = seed
        self._random = random.Random(seed)
        self._waiting: dict[str, tuple[str, asyncio.Future[str]]] = {}

    async def __call__(self, state: Any, text: str) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[state["trial_id"]] = (text, future)
        self._settle()
        return await future

    def leave(self) -> None:
        """A trial is over and waits no more."""
        self._open -= 1
        self._settle()

    def _settle(self) -> None:
        if not self._waiting or len(self._waiting) < self._open:
            return
        names = sorted(self._waiting)
        self._random.shuffle(names)
        texts = [self._waiting[name][0] for name in names]
        if len(names) == 1:
            texts = [""]
        for name, text in zip(names, texts[1:] + texts[:1], strict=True):
            future = self._waiting[name][1]
            if not future.done():
                future.set_result(text)
        self._waiting.clear()
