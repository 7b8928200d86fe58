"""A process that writes to a Chroma memory and says on stdout what was acknowledged; tests kill it or starve it.

Usage: chroma_writer.py LOCATION WRITER COUNT [--each N] [--text CHARS] [--max-file BYTES]
"""

import argparse
import resource
import signal
import sys

from lamer_memory import MemoryBackendError, make_record
from lamer_memory.chroma import ChromaMemory

parser = argparse.ArgumentParser()
parser.add_argument("location")
parser.add_argument("writer")
parser.add_argument("count", type=int)
parser.add_argument("--each", type=int, default=1)
parser.add_argument("--text", type=int, default=20)
parser.add_argument("--max-file", type=int, default=0)
options = parser.parse_args()

memory = ChromaMemory(options.location)
print("open", flush=True)
if options.max_file:  # no file of this process may grow beyond: writes fail as on a full disk
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (options.max_file, options.max_file))
try:
    for first in range(0, options.count, options.each):
        numbers = range(first, first + options.each)
        memory.put(
            ("shared",),
            [
                make_record(
                    f"{options.writer}-{i}",
                    f"task {i}",
                    0,
                    "reflection",
                    f"{options.writer} {i} ".ljust(options.text),
                    False,
                )
                for i in numbers
            ],
        )
        print(first, flush=True)
except MemoryBackendError as error:
    print("failed", error, flush=True)
    sys.exit(3)
memory.close()
