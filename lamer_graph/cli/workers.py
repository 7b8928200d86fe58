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
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from lamer_envs.registry import used
from lamer_graph.cli.frame import describe, quiet_libraries
from lamer_graph.cli.job import Job
from lamer_graph.cli.own import own
from lamer_graph.cli.pace import solved_in
from lamer_graph.collection.collect import CollectSummary, Shard, collect
from lamer_graph.errors import LamerError

Json = dict[str, Any]


class WorkerError(LamerError):
    """A worker process failed or died; the message is its own."""


class _Failure(NamedTuple):
    """A worker's last word: what went wrong, and where for --debug."""

    line: str
    trace: str


class _Trial(NamedTuple):
    """A worker's word that a trial is in the log."""

    turns: int
    reflections: int
    solved: int | None
    """As `pace.solved_in` says."""


def collect_in_workers(job: Job, *, already: int, on_trial: Callable[[int, int | None], None]) -> CollectSummary:
    """Collect the run's missing trials in `effort.workers` processes, `effort.concurrency` at a time in each.

    `already` trials are in the log. `on_trial` gets the number of calls of every trial that was logged, and in which
    attempt it was solved (`pace.solved_in`). SIGINT and SIGTERM are passed on and end the run early with the log whole.
    Raises WorkerError when a worker fails; the others are ended, too.
    """
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, multiprocessing.process.BaseProcess] = {}

    def stop() -> None:
        for process in processes.values():
            process.terminate()

    trials: list[_Trial] = []
    failure: WorkerError | None = None
    with _forwarded(stop) as stopped:
        for index in range(job.effort.workers):
            if stopped():
                break
            ours, theirs = context.Pipe(duplex=False)
            shard = Shard(index, job.effort.workers)
            process = context.Process(target=_work, args=(job, shard, used(), theirs), name=f"lamer-worker-{index}")
            process.start()
            theirs.close()
            processes[ours] = process
        waiting = set(processes)
        while waiting:
            for ready in wait(list(waiting)):
                assert isinstance(ready, Connection)
                try:
                    message = ready.recv()
                except EOFError:
                    waiting.discard(ready)
                    processes[ready].join()
                    code = processes[ready].exitcode
                    if code and not stopped() and failure is None:
                        failure = WorkerError(
                            f"a worker process died (exit code {code}); --resume goes on from the log"
                        )
                        stop()
                    continue
                if isinstance(message, _Trial):
                    trials.append(message)
                    on_trial(message.turns + message.reflections, message.solved)
                elif failure is None:
                    failure = WorkerError(message.line)
                    failure.add_note(message.trace)
                    stop()
    if failure is not None:
        raise failure
    return CollectSummary(
        requested=job.config.tasks * job.config.trials,
        already=already,
        finished=sum(trial.solved is not None for trial in trials),
        failed=sum(trial.solved is None for trial in trials),
        turns=sum(trial.turns for trial in trials),
        calls=sum(trial.turns + trial.reflections for trial in trials),
        seconds=time.perf_counter() - started,
        interrupted=stopped(),
    )


@contextmanager
def _forwarded(stop: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """While open, SIGINT and SIGTERM stop the workers, and this process waits for them to finish their log."""
    stopped = False

    def forward(number: int, frame: object) -> None:
        nonlocal stopped
        if not stopped:  # once: a worker that is already ending must not be cut short
            stopped = True
            stop()

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- in the worker ----------------------------------------------------------------------------------------------------


def _work(job: Job, shard: Shard, own_envs: Sequence[str], out: Connection) -> None:
    os.setsid()  # a Ctrl-C is the parent's, which passes it on
    threading.Thread(target=_die_with_parent, name="lamer-parent", daemon=True).start()
    quiet_libraries()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // shard.count)))
    try:
        for path in own_envs:
            own(path)
        asyncio.run(_collect(job, shard, out))
    except Exception as error:  # a traceback of its own would be a second error
        out.send(_Failure(describe(error), traceback.format_exc()))


async def _collect(job: Job, shard: Shard, out: Connection) -> None:
    def logged(line: Json) -> None:
        turns = sum(len(episode["turns"]) for episode in line["episodes"])
        out.send(_Trial(turns, len(line["reflections"]), solved_in(line)))

    async with job.player.open(job.config.env, training=job.training) as policy:
        await collect(
            job.config,
            policy,
            job.folder,
            concurrency=job.effort.concurrency,
            resume=True,
            shard=shard,
            through_graph=job.through_graph,
            write_behind=job.write_behind,
            on_trial=logged,
        )


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # `collect` finishes its log and ends
