"""The process behind `ChromaProcess`: keeps Chroma directories for the process that started it.

Reads requests from standard input, a line of JSON each, and answers on standard output in whatever order they are done:
`[number, operation, ...]` and `[number, outcome, error]`. Requests take effect in the order of their lines. The end of
its input is the end of the process that asked, so it goes at once: what it has not acknowledged nobody counts on.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import threading
from typing import Any, BinaryIO

from lamer_memory.base import MemoryRecord
from lamer_memory.chroma.memory import ChromaMemory
from lamer_memory.chroma.process import error_line


class Keeper:
    """The open memories, by number, and the operations on them."""

    def __init__(self) -> None:
        self._memories: dict[int, ChromaMemory] = {}
        self._numbers = itertools.count(1)

    async def do(self, operation: str, *arguments: Any) -> Any:
        """What the operation comes to, as JSON; raises what it raises."""
        if operation == "open":
            return await self._open(*arguments)
        number, *rest = arguments
        if operation == "close":
            return await self._memories.pop(number).aclose()
        memory = self._memories[number]
        match operation, rest:
            case "put_all", [writes]:
                outcomes = await memory.aput_all(
                    [(tuple(name), [MemoryRecord.from_json(record) for record in records]) for name, records in writes]
                )
                return [None if error is None else error_line(error) for error in outcomes]
            case "delete", [name, keys]:
                return await memory.adelete(tuple(name), keys)
            case "search", [name, query, filter, limit]:
                found = await memory.asearch(tuple(name), query, filter, limit)
                return [[record.to_json(), score] for record, score in found]
            case "namespaces", []:
                return await asyncio.to_thread(memory.namespaces)
        raise ValueError(f"unknown operation {operation}")

    async def _open(self, location: str, embedder: str | None) -> int:
        memory = await asyncio.to_thread(ChromaMemory, location, embedder=embedder)
        number = next(self._numbers)
        self._memories[number] = memory
        return number


async def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer what comes in; does not return."""
    loop = asyncio.get_running_loop()
    keeper = Keeper()
    tasks: set[asyncio.Task[None]] = set()

    async def answer(number: int, request: list[Any]) -> None:
        outcome, problem = None, None
        try:
            outcome = await keeper.do(*request)
        except Exception as error:  # a defect too is the other side's to raise
            problem = error_line(error)
        sink.write(json.dumps([number, outcome, problem]).encode() + b"\n")
        sink.flush()

    def take(line: bytes) -> None:
        number, *request = json.loads(line)
        task = loop.create_task(answer(number, request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def read() -> None:
        for line in source:
            loop.call_soon_threadsafe(take, line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    await asyncio.Event().wait()


def main() -> None:
    # What any library prints must not get between the answers.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asyncio.run(serve(sys.stdin.buffer, sink))


if __name__ == "__main__":
    main()
