"""A process that appends trials to a run log and says on stdout which are acknowledged.

python log_writer.py FOLDER NAME COUNT sync|async|full
"""

import asyncio
import resource
import signal
import sys
from pathlib import Path

from lamer_graph.errors import RunLogError
from lamer_graph.runlog import RunLog
from log_samples import a_trial


def say(index):
    print(index, flush=True)


def main(folder, name, count, mode):
    log = RunLog.create(folder, {"purpose": "test"}, resume=True)
    trials = [a_trial(name, index, "x" * (index * 997 % 20_000)) for index in range(count)]
    if mode == "full":  # the file system refuses to let the file grow past this: a disk that fills up in mid-line
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = (Path(folder) / "trials.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, resource.RLIM_INFINITY))
        for trial in trials:
            try:
                log.append(trial)
                say(trial["trial"])
            except RunLogError as error:
                print(error, file=sys.stderr)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        log.append(trials[-1])  # there is room again
        say(trials[-1]["trial"])
    elif mode == "sync":
        for trial in trials:
            log.append(trial)
            say(trial["trial"])
    else:

        async def one(trial):
            await log.aappend(trial)
            say(trial["trial"])

        async def everything():
            await asyncio.gather(*map(one, trials))

        asyncio.run(everything())
    log.close()


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
