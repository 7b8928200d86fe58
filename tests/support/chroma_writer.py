"""A process that writes to a Chroma memory and says on stdout what was acknowledged; tests kill it or starve it.

Usage: chroma_writer.py LOCATION WRITER COUNT [--each N] [--repeat N] [--max-file BYTES] [--no-vectors] [--apart]
"""

import argparse
import random
import re
import resource
import signal
import subprocess
import sys

from lamer_memory import MemoryBackendError, MemoryRecord, MetadataValue, make_record
from lamer_memory.chroma.memory import ChromaMemory
from lamer_memory.chroma.process import ChromaProcess

WORDS = re.findall(
    r"\w+", "open corner first look numbers near wall push box left before right mine count closed cells"
)


def record_of(writer: str, number: int, repeat: int = 1) -> MemoryRecord:
    """The record that `writer` writes as its `number`th; `repeat` makes its text longer."""
    rng = random.Random(f"{writer} {number}")
    text = f"{writer} {number}: {' '.join(rng.choices(WORDS, k=20))} " * repeat
    return make_record(f"{writer}-{number}", f"task {number}", 0, "reflection", text, False)


def record(number: int, text: str = "x", **metadata: MetadataValue) -> MemoryRecord:
    """A reflection of one trial."""
    return make_record("trial", "task", number, "reflection", text, False, metadata)


def start_writer(location: object, writer: str, count: int, *more: object) -> "subprocess.Popen[str]":
    """The process, with its output to be read."""
    command = [sys.executable, __file__, str(location), writer, str(count), *map(str, more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("location")
    parser.add_argument("writer")
    parser.add_argument("count", type=int)
    parser.add_argument("--each", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--max-file", type=int, default=0)
    parser.add_argument("--no-vectors", action="store_true")
    parser.add_argument("--apart", action="store_true", help="through a process that keeps the directory")
    options = parser.parse_args()
    kind = ChromaProcess if options.apart else ChromaMemory
    memory = kind(options.location, embedder=None if options.no_vectors else "hashing")
    if options.max_file:  # no file of this process may grow beyond: writes fail as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.max_file, options.max_file))
    try:
        for first in range(0, options.count, options.each):
            numbers = range(first, first + options.each)
            memory.put(("shared",), [record_of(options.writer, number, options.repeat) for number in numbers])
            print(first, flush=True)
    except MemoryBackendError as error:
        print("failed", error, flush=True)
        return 3
    memory.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
