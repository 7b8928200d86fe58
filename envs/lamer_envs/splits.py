"""The seeds of an environment's splits by number, each found once in a process.

What must stay true: they are `env.seeds(split)`'s, in its order, and a number costs the way from the furthest one asked
for so far, whichever thread or run asks. That way is long: a seed is told by its instance, so finding one means making
its task (8 ms for a level of 8x8 Sokoban), and those of the other splits between.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import lru_cache

from lamer_envs.base import Env
from lamer_envs.errors import EnvParameterError


@lru_cache(maxsize=16)
def split_seeds(env: Env) -> SplitSeeds:
    """The seeds of the environment that this one equals."""
    return SplitSeeds(env)


class SplitSeeds:
    """For any number of threads. Raises what `env.seeds` raises, for an unknown or an empty split."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._lock = threading.Lock()
        self._found: dict[str, tuple[list[int], Iterator[int]]] = {}

    def seed(self, split: str, number: int) -> int:
        """The seed of a split's task, counted from 0."""
        with self._lock:
            found, more = self._found.get(split) or ([], self._env.seeds(split))
            self._found.pop(split, None)  # an iterator that raises has ended: it is begun again
            while len(found) <= number:
                if (seed := next(more, None)) is None:
                    raise EnvParameterError(f"{self._env.spec} has only {len(found)} tasks in its split '{split}'")
                found.append(seed)
            self._found[split] = found, more
            return found[number]

    def between(self, split: str, start: int, stop: int) -> Iterator[int]:
        """Those from number `start` up to and without `stop`, found when they are asked for."""
        return (self.seed(split, number) for number in range(start, stop))
