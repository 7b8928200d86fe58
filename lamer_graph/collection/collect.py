"""Collection: many trials at once, each logged whole, under a configuration that the run folder remembers.

What must stay true: a run is the exact set {`tasks` seeds of the split, after `skip`} x {`trials` indices}, and the
re-rolls that follow from those (`rerolls`); resuming plays what is missing and nothing else; a failed call ends its
trial with a recorded error and never the run; the log is the only thing that grows.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lamer_envs.splits import split_seeds
from lamer_graph.collection.config import CollectConfig, check_idle, check_rerolls
from lamer_graph.collection.exchange import Exchange
from lamer_graph.collection.rerolls import Reroll, begun, name_of, own_turns, rerolls_of
from lamer_graph.collection.run_memory import Heritage, open_run_memory
from lamer_graph.collection.sampled_by import check_sampler, note_sampler
from lamer_graph.collection.values import note_values
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Policy, Watched
from lamer_graph.runlog import RunLog, read_trials
from lamer_graph.runlog.recording import TrialRecorder
from lamer_graph.trial.driver import Played, play_trial, settled
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.states import Json
from lamer_graph.trial.tasks import task_id_of, trial_id_of
from lamer_graph.trial.write_behind import WriteBehind
from lamer_memory import InContextMemory
from lamer_memory.base import Namespace


class CollectSummary(NamedTuple):
    """What a call of `collect` did. `missing` trials are left for a resume (interrupted or failed)."""

    requested: int
    already: int
    finished: int
    failed: int
    turns: int
    calls: int
    seconds: float
    interrupted: bool

    @property
    def missing(self) -> int:
        return self.requested - self.already - self.finished

    def to_json(self) -> Json:
        return {**self._asdict(), "missing": self.missing}


COUNTED = ("already", "finished", "failed", "turns", "calls")
TASKS = "task"
"""Name of environments that are tasks of an application (`apps.tasks`)."""
HELD = 4
"""How many played trials a worker may have waiting for the memory and the log while it plays on."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of a run that one worker process plays: trials number `index`, `index + count`, .."""

    index: int = 0
    count: int = 1


WHOLE = Shard()


def requested_trials(config: CollectConfig, h: Harness) -> Iterator[Json]:
    """The run's tasks in order, each with its trial index; lazily, so that a run of any length holds one at a time."""
    for seed in split_seeds(h.env).between(config.split, config.skip, config.skip + config.tasks):
        for index in range(config.trials):
            yield {"seed": seed, "trial": index}


async def collect(
    config: CollectConfig,
    policy: Policy,
    folder: str | Path,
    *,
    concurrency: int = 64,
    resume: bool = False,
    shard: Shard = WHOLE,
    through_graph: bool = False,
    write_behind: bool = True,
    heritage: Heritage | None = None,
    mixed: bool = False,
    on_trial: Callable[[Json], None] | None = None,
    on_call: Callable[[], None] | None = None,
) -> CollectSummary:
    """Play the run's missing trials, `concurrency` at a time, and log each. `on_trial` gets every logged line.

    With shuffled reflections all trials are open at once, whatever `concurrency` says.
    `through_graph` plays them through the LangGraph agent instead of the bulk driver: the same trials, at more CPU per
    turn (see `make bench`); reflections cannot be shuffled there. `write_behind` lets a trial play on while its records
    are on their way to a store, and know them without reading; without it, and through the graph, every write and read
    is waited for. `heritage` is what the memory begins with, for a run that goes on from another (see `run_memory`).
    Of a frozen memory that measures values (`config.select`, `config.control`) they are noted when the last trial is in
    the log. What another policy has begun is gone on with only if trials may be `mixed` (every call names its own).
    SIGINT and SIGTERM end it early with the log whole; what was being played is left for a resume. Raises ConfigError
    and RunLogError before any work for what cannot be run, RunLogError during work if the log cannot be written.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency must be at least 1, not {concurrency}")
    if heritage is not None and config.scope == "trial":
        raise ConfigError("heritage and scope 'trial' exclude each other: other tasks are not seen; use scope 'tasks'")
    if not resume:
        check_idle(config)
    if config.shuffle_reflections and config.env.partition(":")[0] == TASKS:
        raise ConfigError("shuffle_reflections works between trials of an environment, not of an application's tasks")
    check_rerolls(config, shard.count)
    if through_graph and config.rerolls:
        raise ConfigError("re-rolls begin in the midst of a trial, which the graph plays from its start: leave one out")
    if config.env.partition(":")[0] == TASKS and (config.strategy, config.thoughts) != ("lamer", "hidden"):
        raise ConfigError(
            f"strategy '{config.strategy}' with thoughts '{config.thoughts}' says how an environment is put to a "
            "policy, and an application asks in its own words: leave both out"
        )
    if through_graph and config.shuffle_reflections:
        raise ConfigError("shuffle_reflections works between trials, which the graph plays one by one: leave one out")
    # What can be refused is, before there is a folder; the memory itself lies in it.
    with closing(InContextMemory()) as none_yet:
        config.harness(policy, none_yet)
    if resume and not mixed:
        check_sampler(Path(folder), policy)
    with closing(RunLog.create(folder, config.model_dump(mode="json"), resume=resume)) as log:
        note_sampler(Path(folder), policy)
        memory = await asyncio.to_thread(open_run_memory, config, Path(folder), heritage)
        try:
            h = config.harness(policy if on_call is None else Watched(policy, on_call), memory.backend)
            run = _Run(config, h, memory.namespace, log, shard, write_behind, on_trial)
            summary = await run.play(concurrency, through_graph)
            if shard == WHOLE and not summary.interrupted:
                await asyncio.to_thread(note_values, config, Path(folder), memory)
            return summary
        finally:
            await asyncio.to_thread(memory.close)


@dataclass
class _Run:
    """One call of `collect`: which trials it plays, and what came of them."""

    config: CollectConfig
    h: Harness
    namespace: Namespace
    log: RunLog
    shard: Shard
    write_behind: bool
    on_trial: Callable[[Json], None] | None
    counted: Counter[str] = field(default_factory=Counter)

    async def play(self, concurrency: int, through_graph: bool) -> CollectSummary:
        """Play what is missing, `concurrency` trials at a time, and then what is missing of the re-rolls."""
        started, before = time.perf_counter(), len(self.log.trial_ids)
        asked = len(range(self.shard.index, self.config.tasks * self.config.trials, self.shard.count))
        there = self._rerolled() if self.config.rerolls else 0
        recorder = TrialRecorder(self.log, self.config.split, self._logged)
        tasks, exchange, behind = self._missing(), None, None
        if self.config.shuffle_reflections:
            # Everyone must fail together before reflections can change hands, so all trials are open at once.
            waiting = list(tasks)
            tasks, exchange = iter(waiting), Exchange(len(waiting), self.config.seed)
            concurrency = max(1, len(waiting))
        work: Callable[[], Coroutine[Any, Any, None]]
        if self.h.env.name == TASKS:
            work = self._through_app(tasks)
        elif through_graph:
            work = self._through_graph(tasks, recorder)
        else:
            # A store on disk or behind a network is slower than a turn: nobody waits for it but who is about to be
            # logged (and, with a live memory, the next trial, which is to see what this one wrote).
            if self.write_behind and self.h.remembers and self.h.backend.persistent and self.config.visible == "frozen":
                behind = WriteBehind(self.h.backend)
            work = partial(self._in_bulk, tasks, recorder, exchange, behind)
        stopped = await _worked(work, concurrency, behind)
        if self.config.rerolls:
            rerolls = [] if stopped else await asyncio.to_thread(self._rerolls)
            missing = [reroll for reroll in rerolls if name_of(self.h, reroll) not in self.log.trial_ids]
            asked += len(rerolls) or there
            stopped = stopped or await _worked(partial(self._again, iter(missing), recorder), concurrency)
        if self.shard == WHOLE:  # said without drawing the tasks that an interrupted run did not come to
            self.counted["already"] = before
        return CollectSummary(
            requested=asked,
            **{name: self.counted[name] for name in COUNTED},
            seconds=time.perf_counter() - started,
            interrupted=stopped,
        )

    def _missing(self) -> Iterator[Json]:
        """The shard's trials that are not in the log; those that are are counted on the way."""
        for number, task in enumerate(requested_trials(self.config, self.h)):
            if number % self.shard.count == self.shard.index:
                if trial_id_of(task_id_of(self.h.env, task), task["trial"]) in self.log.trial_ids:
                    self.counted["already"] += 1
                else:
                    yield task

    def _rerolled(self) -> int:
        """How many re-rolls are in the log already."""
        return sum(line["error"] is None and "branch" in line for line in read_trials(self.log.folder))

    def _rerolls(self) -> list[Reroll]:
        """Those that follow from what is in the log."""
        tasks = requested_trials(self.config, self.h)
        return list(rerolls_of(self.config, self.h, tasks, read_trials(self.log.folder)))

    async def _again(self, rerolls: Iterator[Reroll], recorder: TrialRecorder) -> None:
        """A worker: plays the next re-rolls from where they begin."""
        for reroll in rerolls:
            start = await begun(self.h, reroll, self.namespace, time.time())
            played = await settled(await play_trial(self.h, reroll.task, begun=start))
            await recorder.arecord(self.h, played.state, played.error, played.unfinished, reroll.branch)

    def _logged(self, line: Json) -> None:
        turns, reflections = own_turns(line)
        self.counted["finished" if line["error"] is None else "failed"] += 1
        self.counted["turns"] += turns
        self.counted["calls"] += turns + reflections
        if self.on_trial is not None:
            self.on_trial(line)

    def _through_graph(self, tasks: Iterator[Json], recorder: TrialRecorder) -> Callable[[], Coroutine[Any, Any, None]]:
        from lamer_graph.agent import compile_agent, play_in_graph  # LangGraph only where it is used

        agent = compile_agent(self.h)

        async def worker() -> None:
            for task in tasks:
                await play_in_graph(agent, task, recorder, namespace=self.namespace)

        return worker

    def _through_app(self, tasks: Iterator[Json]) -> Callable[[], Coroutine[Any, Any, None]]:
        from lamer_graph.collection.apps import AppTrials  # LangGraph only where it is used

        trials = AppTrials(self.h, self.log, self.config.split, self.namespace, self._logged)

        async def worker() -> None:
            for task in tasks:
                await trials.play(task)

        return worker

    async def _in_bulk(
        self, tasks: Iterator[Json], recorder: TrialRecorder, exchange: Exchange | None, behind: WriteBehind | None
    ) -> None:
        """A worker: plays the next trials while its earlier ones are settled and logged."""

        async def log_it(played: Played) -> None:
            played = await settled(played)
            await recorder.arecord(self.h, played.state, played.error, played.unfinished)

        held: deque[asyncio.Task[None]] = deque()
        try:
            for task in tasks:
                try:
                    played = await play_trial(self.h, task, namespace=self.namespace, exchange=exchange, behind=behind)
                finally:
                    if exchange is not None:
                        exchange.leave()
                held.append(asyncio.create_task(log_it(played)))
                while held and (held[0].done() or len(held) > HELD):
                    await asyncio.wait((held[0],))
                    held.popleft().result()
            if behind is not None:
                behind.hurry()
            while held:
                await asyncio.wait((held[0],))
                held.popleft().result()
        finally:
            # Where the run is interrupted, what was played to its end still counts (and waiting cancels nothing).
            await asyncio.gather(*held, return_exceptions=True)


async def _worked(work: Callable[[], Coroutine[Any, Any, None]], count: int, behind: WriteBehind | None = None) -> bool:
    """Have `count` workers do all the work, and what they wrote `behind` them; whether a signal ended it early."""
    workers = [asyncio.create_task(work()) for _ in range(count)]
    with _signals(workers) as interrupted:
        try:
            await _finished(workers, interrupted)
        finally:
            if behind is not None:
                await behind.aclose()
        return interrupted()


async def _finished(workers: list[asyncio.Task[None]], interrupted: Callable[[], bool]) -> None:
    """Wait for the workers; where one fails, the others end, and where a signal ended them that is no error."""
    try:
        await asyncio.gather(*workers)
    except asyncio.CancelledError:
        if not interrupted():
            raise
    finally:
        if not interrupted():  # else they are cancelled already; twice would cut short what they finish
            for running in workers:
                running.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


@contextmanager
def _signals(workers: list[asyncio.Task[None]]) -> Iterator[Callable[[], bool]]:
    """While open, SIGINT and SIGTERM cancel the workers instead of killing the process in the middle of a write."""
    loop = asyncio.get_running_loop()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        for running in workers:
            running.cancel()

    installed = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError, NotImplementedError, RuntimeError):  # not the main thread: the host owns its signals
            loop.add_signal_handler(number, stop)
            installed.append(number)
    try:
        yield lambda: stopped
    finally:
        for number in installed:
            loop.remove_signal_handler(number)
