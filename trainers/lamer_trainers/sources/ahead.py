"""Pipelining: a thread that collects the next batches while the trainer updates.

What must stay true: a batch is begun only when the newest weights are at most `most` updates older than the ones that
will be trained with it, so its samples are at most that stale; batches are handed out in order, each once; an error of
the thread is raised where the batch is asked for, and nothing runs on after `close`.

`PipelinedCollector` is the in-process case: a copy of the module samples in the thread, and takes over what the trainer
changed between batches (clipped, importance-weighted updates from slightly old samples as in IMPALA, Espeholt 2018).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import torch

from lamer_graph.collection.collect import CollectSummary
from lamer_graph.collection.config import CollectConfig
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.trial.steps import Json
from lamer_trainers.learning.samples import Trial
from lamer_trainers.runfile import Remember
from lamer_trainers.sources.batches import Batches, Collected, version_name


class Ahead:
    """Runs `collect(step)` for one step after the other in a thread, up to and without `end`.

    `newest` counts the updates that the sampler's weights have seen.
    """

    def __init__(
        self, collect: Callable[[int], Coroutine[Any, Any, Collected]], *, most: int, end: int | None = None
    ) -> None:
        self._collect = collect
        self._most = most
        self._end = end
        self._changed = threading.Condition()
        self._newest = -1
        self._done: dict[int, Collected] = {}
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self.idle = 0.0
        """Seconds that the thread had to wait for newer weights, since the last `take`."""

    def advance(self, newest: int) -> None:
        """The sampler has the weights after `newest` updates; the first call starts the thread at that step."""
        with self._changed:
            self._newest = newest
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, args=(newest,), name="lamer-ahead", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def take(self, step: int) -> Collected:
        """Batch `step`, once it is there. Raises what collecting it raised."""
        with self._changed:
            while step not in self._done:
                if self._error is not None:
                    raise self._error
                self._changed.wait()
            return self._done.pop(step)

    def close(self) -> None:
        """End the thread; a batch that is being collected stays in its folder for a resume."""
        with self._changed:
            self._closed = True
            if self._running is not None:
                loop, task = self._running
                loop.call_soon_threadsafe(task.cancel)
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self, step: int) -> None:
        try:
            while self._end is None or step < self._end:
                begun = time.perf_counter()
                with self._changed:
                    while not self._closed and step - self._newest > self._most:
                        self._changed.wait()
                    if self._closed:
                        return
                    self.idle += time.perf_counter() - begun
                collected = asyncio.run(self._cancellable(step))
                with self._changed:
                    self._done[step] = collected
                    self._changed.notify_all()
                step += 1
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    async def _cancellable(self, step: int) -> Collected:
        task = asyncio.current_task()
        assert task is not None
        with self._changed:
            if self._closed:
                raise asyncio.CancelledError
            self._running = asyncio.get_running_loop(), task
        try:
            return await self._collect(step)
        finally:
            with self._changed:
                self._running = None


class PipelinedCollector:
    """A source like OnlineCollector whose samples are up to `pipeline` versions old.

    `policy` shares its module with the trainer and validates; a copy of it samples while the trainer updates. `updates`
    is how many batches will be asked for.
    """

    def __init__(
        self,
        policy: LocalPolicy,
        config: CollectConfig,
        folder: str | Path,
        *,
        pipeline: int,
        updates: int | None = None,
        concurrency: int = 128,
        remember: Remember | None = None,
        on_trial: Callable[[Json], None] | None = None,
    ) -> None:
        self.policy = policy
        self.batches = Batches(
            config, folder, concurrency=concurrency, remember=remember, on_trial=on_trial, pipeline=pipeline
        )
        self.summary: CollectSummary | None = None
        self.metrics: dict[str, float] = {}
        self._sampler = LocalPolicy(copy.deepcopy(policy.model), policy.tokenizer, version=version_name(0))
        self._lock = threading.Lock()
        self._fresh: tuple[dict[str, torch.Tensor], int] | None = None
        self._ahead = Ahead(self._collect, most=pipeline, end=updates)
        self._begun = False

    def next_batch(self, step: int) -> list[Trial]:
        """Hand the trainer's weights to the sampler, and wait for update `step`'s trials. Raises as OnlineCollector."""
        if not self._begun:
            self.batches.resume_at(step)
            self._begun = True
        begun = time.perf_counter()
        weights = trained_weights(self.policy.model)
        with self._lock:
            self._fresh = weights, step
        copied = time.perf_counter()
        self._ahead.advance(step)
        trials, self.summary = self._ahead.take(step)
        self.metrics = {"time/swap": copied - begun, **waits(self._ahead, copied)}
        return trials

    @contextlib.contextmanager
    def sampling(self, step: int) -> Iterator[LocalPolicy]:
        """The policy with the trainer's own module, which must not be trained meanwhile."""
        with self.policy.paused():
            self.policy.version = version_name(step)
        yield self.policy

    def release(self) -> None:
        """Stop collecting."""
        self._ahead.close()
        self._sampler.close()

    async def _collect(self, step: int) -> Collected:
        with self._lock:
            fresh, self._fresh = self._fresh, None
        if fresh is not None:
            self._sampler.set_weights(fresh[0], version_name(fresh[1]))
        return await self.batches.collect(step, self._sampler)


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of all that training changes: parameters with a gradient, tied ones once, and buffers that are saved.

    Under LoRA that is the adapter. A copy, because the trainer goes on writing to its own.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    changing = {name: value for name, value in model.named_parameters() if value.requires_grad}
    changing |= {name: value for name, value in model.state_dict().items() if name not in parameters}
    return {name: value.detach().clone() for name, value in changing.items()}


def waits(ahead: Ahead, since: float) -> dict[str, float]:
    """How long the trainer waited for its batch (`since` until now) and the sampler for weights, in seconds."""
    idle, ahead.idle = ahead.idle, 0.0
    return {"idle/trainer": time.perf_counter() - since, "idle/sampler": idle}
