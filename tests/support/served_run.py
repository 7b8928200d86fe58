"""A served training run that kills itself, for a test that resumes it. Arguments: run file, folder, moment.

`collecting`: after the second logged trial of update 1's batch; `saved`: when the adapter of update 2 is saved and the
server is about to be told; `resume`: goes on with the run, to its end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from lamer_graph.runlog.recording import TrialRecorder
from lamer_graph.serving.vllm import VllmServer
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    run, folder, moment = sys.argv[1:]
    load, arecord = VllmServer.load_adapter, TrialRecorder.arecord

    def load_or_die(self, name, path):
        if moment == "saved" and name == "policy-v0002":
            die()
        load(self, name, path)

    async def record_or_die(self, *arguments):
        result = await arecord(self, *arguments)
        log = Path(folder) / "collected" / "update-00001" / "trials.jsonl"
        if moment == "collecting" and log.exists() and log.read_bytes().count(b"\n") == 2:
            die()
        return result

    VllmServer.load_adapter = load_or_die
    TrialRecorder.arecord = record_or_die
    train(load_run(run), folder, resume=moment == "resume")
