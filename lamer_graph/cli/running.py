"""Preflight, then trials, in this process or in several: what `collect`, `eval` and `quickstart` do alike.

What must stay true: everything that can be refused is refused before the run folder is made, and the folder before the
first call; from then on the log is what counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lamer_graph.cli.frame import FAILED, Json, Ui, warn
from lamer_graph.cli.job import Job
from lamer_graph.cli.nonsense import Nonsense
from lamer_graph.cli.options import Player
from lamer_graph.cli.pace import Pace, solved_in
from lamer_graph.errors import ConfigError, LamerError

if TYPE_CHECKING:
    from lamer_graph.collection.collect import CollectSummary
    from lamer_graph.collection.config import CollectConfig
    from lamer_graph.evaluation.evaluate import Evaluation
    from lamer_graph.policies.base import Policy


def run_trials(ui: Ui, job: Job, what: str = "trials") -> tuple[CollectConfig, CollectSummary]:
    """Play the run's trials; the configuration as it was recorded, and what was done.

    Raises what `frame` turns into exit codes.
    """
    from lamer_graph.collection.config import check_memory

    if job.effort.workers > 1 and job.config.shuffle_reflections:
        raise ConfigError("--shuffle-reflections swaps them between all trials of a run: use --workers 1")
    check_memory(job.config, job.effort.workers)
    pace = _pace_of(job.config)
    with ui.progress(what, pace.trials, pace.line) as advance:
        job, done = asyncio.run(_run(ui, job, advance, pace))
        if isinstance(done, int):
            from lamer_graph.cli.workers import collect_in_workers
            from lamer_graph.collection.values import settle_run

            def ended(calls: int, solved: int | None) -> None:
                pace.trial(calls, solved)
                advance(1)

            done = collect_in_workers(job, already=done, on_trial=ended)
            if not done.interrupted:
                settle_run(job.config, job.folder)
    return job.config, done


def _pace_of(config: CollectConfig) -> Pace:
    from lamer_envs import make

    turns = config.max_turns or make(config.env).max_turns
    reflections = config.max_episodes - 1 if config.contents in ("reflection", "both") else 0
    calls = config.max_episodes * turns + reflections
    return Pace(config.tasks * config.trials, calls, config.max_tokens, config.max_episodes)


WARM = "warm"


MEASURED = "measured"
MEASURING = {"trials": 4, "control": 0.5, "select": "ucb"}
"""How the records of a memory that was filled are measured."""


def filled_by(config: CollectConfig, measured: bool = False) -> CollectConfig:
    """`config` with its memory filled by `run_warm`'s run, or the one that has `measured` it. Raises ConfigError where
    the two would share tasks."""
    if config.split == "train":
        raise ConfigError("--warm plays tasks of the train split: evaluate on another, e.g. --split test")
    return config.model_copy(update={"store": MEASURED if measured else WARM})


def run_warm(ui: Ui, job: Job, warm: int, measure: int = 0) -> bool:
    """Play `warm` tasks of the train split into `folder`/warm, with the memory that `job`'s run then begins with; or
    that `measure` more tasks begin with, in `folder`/measured, after which it is known what the records are worth.

    Its trials see nothing of each other. False where it was interrupted or trials are missing, which is then said: half
    a memory is another memory.
    """
    filling = {"split": "train", "tasks": warm, "trials": 1, "skip": 0, "store": "", "visible": "frozen"}
    filling |= {"select": "similar", "control": 0.0, "shuffle_reflections": False}
    rounds = [(WARM, filling, f"filling the memory, {warm} tasks")]
    if measure:
        measuring = {**filling, "tasks": measure, "skip": warm, "store": f"../{WARM}", **MEASURING}
        rounds.append((MEASURED, measuring, f"measuring its records, {measure} tasks"))
    for place, changes, what in rounds:
        config = job.config.model_copy(update=changes)
        before = replace(job, config=config, folder=job.folder / place, training=False, write_behind=True)
        _, done = run_trials(ui, before, what)
        report_loss(ui, before.folder, done)
        if done.interrupted or done.missing:
            return False
    return True


async def _run(ui: Ui, job: Job, advance: Callable[[int], None], pace: Pace) -> tuple[Job, CollectSummary | int]:
    """The job with who really plays, and what was done, or how many trials are there for workers to go on with."""
    from lamer_graph.collection.collect import collect

    async with job.player.open(job.config.env, training=job.training) as policy:
        named = {"policy": job.player.name_of(policy, job.config.env)}
        job = replace(job, config=job.config.model_copy(update=named))
        if job.resume:
            same_player(ui, job.folder, policy)
        await preflight(job.config, policy)
        already = claim(job.config, job.folder, job.resume)
        advance(already)
        ui.working()
        if hasattr(policy, "sampled_tokens"):
            pace.sampled = lambda: policy.sampled_tokens
        pace.begin(already)
        if job.effort.workers > 1:
            return job, already

        nonsense = Nonsense(job.config)

        def ended(line: Json) -> None:
            calls = sum(len(episode["turns"]) for episode in line["episodes"]) + len(line["reflections"])
            pace.trial(calls, solved_in(line))
            if (said := nonsense.seen(line)) is not None:
                ui.tell(f"note: {said}")
            advance(1)

        summary = await collect(
            job.config,
            policy,
            job.folder,
            concurrency=job.effort.concurrency,
            resume=True,
            through_graph=job.through_graph,
            write_behind=job.write_behind,
            on_trial=ended,
            on_call=pace.called,
        )
        return job, summary


def note_fresh(ui: Ui, folder: Path, resume: bool) -> None:
    """Say so where a --resume has nothing to go on with, and plays all of the run."""
    if resume and not (folder / "run.json").exists():
        ui.remark(f"no run in {folder} yet: starting one")


def same_player(ui: Ui, folder: Path, policy: Policy) -> None:
    """Raises RunLogError if the run in `folder`, where there is one, was played by another policy."""
    from lamer_graph.collection.sampled_by import check_sampler

    if not check_sampler(folder, policy):
        ui.remark(f"{folder} does not say which policy played its trials, so it is taken to be this one")


async def check_player(ui: Ui, player: Player, env: str, folders: Iterable[Path]) -> None:
    """`same_player` for all of these runs that are there already, before any is gone on with."""
    begun = [folder for folder in folders if (folder / "run.json").exists()]
    if begun:
        async with player.open(env, training=None) as policy:
            for folder in begun:
                same_player(ui, folder, policy)


def claim(config: CollectConfig, folder: Path, resume: bool) -> int:
    """Make the run folder, or find the same run there, for `collect` to go on with; how many trials are in its log.

    Raises RunLogError.
    """
    from lamer_graph.runlog import RunLog

    with RunLog.create(folder, config.model_dump(mode="json"), resume=resume) as log:
        return len(log.trial_ids)


async def preflight(config: CollectConfig, policy: Policy) -> None:
    """Make the run's first call, cut to one token: whatever a policy can refuse is refused before any work.

    Raises PolicyError (no answer, no tokens, another model, a context shorter than the prompt), ConfigError and the
    environment's and memory's errors.
    """
    from lamer_graph.collection.collect import requested_trials
    from lamer_graph.collection.run_memory import OWN, probe_memory
    from lamer_graph.trial import calls, steps
    from lamer_memory import InContextMemory

    await asyncio.to_thread(probe_memory, config)
    with closing(InContextMemory()) as memory:
        harness = config.harness(policy, memory)
        task = next(requested_trials(config, harness))
        state = steps.open_trial(harness, task, namespace=OWN)
        await calls.call(one_token(policy), steps.ask_action(harness, steps.begin(state)))


def one_token(policy: Policy) -> Policy:
    """`policy`, answering with a single token: a probe of everything but the answer."""
    from lamer_graph.policies.base import Wrapped
    from lamer_graph.types import Completion, Message, Sampling

    class Probe(Wrapped):
        async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
            return await self.policy.generate(messages, replace(sampling, max_tokens=1))

    return Probe(policy)


def report_of(folder: Path, summary: CollectSummary) -> Evaluation:
    """The evaluation of a run. Raises LamerError where not one trial was finished, with what went wrong."""
    from lamer_graph.evaluation.evaluate import report

    if not summary.finished + summary.already:
        if summary.interrupted:
            raise LamerError("interrupted before a trial was finished; --resume plays them")
        raise LamerError(f"all {summary.failed} trials ended in an error, {first_error(folder)}")
    return report(folder)


def report_loss(ui: Ui, folder: Path, summary: CollectSummary) -> None:
    """One line and exit code 1 where trials are missing: an interruption, or calls that failed."""
    if summary.interrupted:
        warn(f"interrupted: {summary.missing} of {summary.requested} trials are missing; --resume plays them")
        ui.exit_code = FAILED
    elif summary.failed:
        lost = f"{summary.failed} of {summary.requested} trials ended in an error ({first_error(folder)})"
        warn(f"{lost}; --resume plays them again")
        ui.exit_code = FAILED


def first_error(folder: Path) -> str:
    """The first recorded error of a run's log, in a few words."""
    from lamer_graph.runlog import read_trials

    for trial in read_trials(folder):
        if trial.get("error"):
            return f"the first: {trial['error']['type']}: {trial['error']['message'][:300]}"
    return "see the log"
