"""Seeds by number: the same as `seeds` gives, each looked for once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from lamer_envs import EnvParameterError, make
from lamer_envs.minesweeper import Minesweeper
from lamer_envs.splits import SplitSeeds, split_seeds


class Counted(Minesweeper):
    """Counts the tasks that are made."""

    made = 0

    def reset(self, seed: int) -> Any:
        type(self).made += 1
        return super().reset(seed)


@pytest.fixture
def counted() -> Iterator[Counted]:
    Counted.made = 0
    split_seeds.cache_clear()
    yield Counted(4, 3)
    split_seeds.cache_clear()


def test_a_later_window_of_a_split_does_not_look_for_the_earlier_ones_again(counted: Counted) -> None:
    seeds = list(islice(make("minesweeper:4x4-3").seeds("train"), 400))
    costs = []
    for update in range(10):
        before = Counted.made
        window = split_seeds(Counted(4, 3)).between("train", update * 40, (update + 1) * 40)
        assert list(window) == seeds[update * 40 : (update + 1) * 40]
        costs.append(Counted.made - before)
    assert max(costs) < 2 * min(costs)  # and not ten times as much for the last as for the first
    assert Counted.made == seeds[-1] + 1
    assert list(split_seeds(counted).between("train", 3, 6)) == seeds[3:6]
    assert Counted.made == seeds[-1] + 1


def test_threads_that_ask_at_once_get_the_same_seeds(counted: Counted) -> None:
    seeds, found = SplitSeeds(counted), {}

    def ask(name: int) -> None:
        found[name] = list(seeds.between("val", 0, 30))

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(part == list(islice(counted.seeds("val"), 30)) for part in found.values())


class Few(Minesweeper):
    """Breaks off its search once, and has three tasks."""

    broken = True

    def seeds(self, split: str) -> Iterator[int]:
        yield 1
        if Few.broken:
            Few.broken = False
            raise EnvParameterError("as provoked")
        yield from (2, 3)


def test_a_search_that_failed_begins_again_and_one_that_ends_says_so() -> None:
    seeds = SplitSeeds(Few(4, 3))
    with pytest.raises(EnvParameterError, match="as provoked"):
        seeds.seed("train", 1)
    assert list(seeds.between("train", 0, 3)) == [1, 2, 3]
    with pytest.raises(EnvParameterError, match="has only 3 tasks in its split 'train'"):
        seeds.seed("train", 3)
