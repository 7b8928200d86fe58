"""Settles trials on records of a Chroma memory, one after the other, and says so after each.

`python settling.py LOCATION FIRST COUNT`: trials FIRST .. FIRST + COUNT - 1, all of which saw the records of `KEYS`.
"""

from __future__ import annotations

import sys

from lamer_memory import MemoryRecord
from lamer_memory.chroma.memory import ChromaMemory
from lamer_memory.ledger import settle
from lamer_memory.utility import Seen

HERE = ("anna", "app")
KEYS = ("r0", "r1", "r2")


def fill(memory: ChromaMemory) -> None:
    memory.put(HERE, [MemoryRecord(key, "a task", 0, "reflection", f"text of {key}", False) for key in KEYS])


def settle_one(memory: ChromaMemory, number: int) -> None:
    """Every other trial saw the first record, the others were held back from it; all saw the second."""
    shown, held = (("r0", "r1"), ()) if number % 2 else (("r1",), ("r0",))
    settle(memory, HERE, f"trial-{number}", "a task", Seen(shown, held, float(number % 3 == 0)))


if __name__ == "__main__":
    location, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    memory = ChromaMemory(location)
    for number in range(first, first + count):
        settle_one(memory, number)
        print(number, flush=True)
    memory.close()
