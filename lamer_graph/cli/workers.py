"""A run shared by several processes: each plays its shard of the trials into the same log.

What must stay true: the trials of a run do not depend on the number of workers; no worker outlives this process; a
worker's failure is reported once, and the log holds what all of them finished. Workers are spawned, never forked: a
fork would share the parent's event loop, threads and file locks.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from lamer_graph.cli.options import Player
from lamer_graph.collect import CollectConfig, CollectSummary, Shard, collect
from lamer_graph.errors import LamerError

Json = dict[str, Any]


class WorkerError(LamerError):
    """A worker process failed or died; the message is its own."""


@dataclass(frozen=True)
class _Job:
    """What one worker is told; plain enough to be sent to a process that starts from nothing."""

    config: Json
    player: Player
    folder: Path
    concurrency: int
    training: bool
    shard: Shard


def collect_in_workers(
    config: CollectConfig,
    player: Player,
    folder: Path,
    *,
    concurrency: int,
    workers: int,
    training: bool,
    on_trials: Callable[[int], None],
) -> CollectSummary:
    """Collect the run's missing trials in `workers` processes, `concurrency` at a time in each.

    `on_trials` gets the number of trials logged since its last call. SIGINT and SIGTERM are passed on and end the run
    early with the log whole. Raises WorkerError when a worker fails; the others are then ended, too.
    """
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, multiprocessing.process.BaseProcess] = {}
    for index in range(workers):
        ours, theirs = context.Pipe(duplex=False)
        job = _Job(config.model_dump(mode="json"), player, folder, concurrency, training, Shard(index, workers))
        process = context.Process(target=_work, args=(job, theirs), name=f"lamer-worker-{index}")
        process.start()
        theirs.close()
        processes[ours] = process
    summaries: list[CollectSummary] = []
    failure = ""

    def stop() -> None:
        for process in processes.values():
            process.terminate()

    with _forwarded(stop):
        waiting = set(processes)
        while waiting:
            for ready in wait(list(waiting)):
                assert isinstance(ready, Connection)
                try:
                    kind, value = ready.recv()
                except EOFError:
                    waiting.discard(ready)
                    processes[ready].join()
                    continue
                if kind == "trials":
                    on_trials(value)
                elif kind == "done":
                    summaries.append(CollectSummary(**value))
                elif not failure:
                    failure = value
                    stop()
    if not failure and len(summaries) < workers:
        codes = ", ".join(str(process.exitcode) for process in processes.values() if process.exitcode)
        failure = f"a worker process died (exit code {codes}); what was logged is intact, --resume continues it"
    if failure:
        raise WorkerError(failure)
    return CollectSummary(
        requested=sum(part.requested for part in summaries),
        already=sum(part.already for part in summaries),
        finished=sum(part.finished for part in summaries),
        failed=sum(part.failed for part in summaries),
        turns=sum(part.turns for part in summaries),
        calls=sum(part.calls for part in summaries),
        seconds=max(part.seconds for part in summaries),
        interrupted=any(part.interrupted for part in summaries),
    )


@contextmanager
def _forwarded(stop: Callable[[], None]) -> Iterator[None]:
    """While open, SIGINT and SIGTERM reach the workers, and this process waits for them to finish their log."""

    def forward(number: int, frame: object) -> None:
        stop()

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- in the worker ----------------------------------------------------------------------------------------------------


def _work(job: _Job, out: Connection) -> None:
    # A Ctrl-C reaches the whole group, and the parent passes SIGTERM on: the second of the two must not cut the end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, name="lamer-parent", daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // job.shard.count)))
    try:
        summary = asyncio.run(_collect(job, out))
    except LamerError as error:
        out.send(("failed", str(error)))
        raise SystemExit(1) from None
    out.send(("done", summary._asdict()))


async def _collect(job: _Job, out: Connection) -> CollectSummary:
    config = CollectConfig(**job.config)
    async with job.player.open(config.env, training=job.training) as policy:
        return await collect(
            config,
            policy,
            job.folder,
            concurrency=job.concurrency,
            resume=True,
            shard=job.shard,
            on_trial=lambda line: out.send(("trials", 1)),
        )


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # `collect` finishes its log and ends
