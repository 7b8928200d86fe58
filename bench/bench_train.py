"""Training on two CPU cores: LamerTrainer against a bare PyTorch loop, and what meta-RL costs beside RL.

(a) Both train the shipped warm start on the same logged samples in the same mini-batches, in turns within one run, one
thread each; their losses must agree. (b) Short runs of the presets `minesweeper-cpu` and `minesweeper-5x5-cpu` and of
their RL baselines, in turns: the same tasks and episodes an update, collected in this process, with and without
`pipeline`. The first update of a run (it waits for its whole batch) and the last (nothing is collected beside it) are
left out. How the arms compare depends on the board: the fewer states a board has, the more of RL's first episodes are
alike, and what is alike is computed once; an episode with a memory of its own shares with others what comes before it.
"""

from __future__ import annotations

import asyncio
import copy
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench import row
from bench.bare_train import Answer, BareTrainer
from bench.game_calls import ENV, config, policy_folder

UPDATES = 4
"""Measured ones of (a), after one to warm up."""
GROUPS, TRIALS = 16, 8
SAME = 1e-3
"""Largest difference of the losses of (a), which are some hundredths and fall."""
TASKS, RUN_UPDATES, ROUNDS = 8, 6, 2
PRESET, LARGER = "minesweeper-cpu", "minesweeper-5x5-cpu"


class _Rival:
    """A source of the same trials at every update, which lets the bare loop make the update first and takes both times.

    Seconds are (wall, CPU) from one request of the trainer for trials to its next one, without what happens here.
    """

    def __init__(self, trials: list[Any], bare: BareTrainer, args: Any, limits: Any) -> None:
        from lamer_trainers.learning.batch import read_batch

        batch = read_batch(trials, args, limits, 0)
        pairs = zip(batch.samples, batch.advantages, strict=True)
        self.answers = [Answer(s.prompt_token_ids, s.token_ids, s.logprobs, advantage) for s, advantage in pairs]
        self.losses: list[float] = []
        """The bare loop's mean over the mini-batches of each update."""
        self.ours: list[tuple[float, float]] = []
        self.theirs: list[tuple[float, float]] = []
        self._trials, self._bare, self._args = trials, bare, args
        self._begun: tuple[float, float] | None = None

    def next_batch(self, step: int) -> list[Any]:
        from lamer_trainers.learning.packing import split

        self.end()
        parts = split(len(self.answers), self._args.mini_batches, (self._args.seed, step))
        begun = _clocks()
        losses = [self._bare.step([self.answers[i] for i in part]) for part in parts]
        self.losses.append(mean(losses))
        self.theirs.append(_since(begun))
        self._begun = _clocks()
        return self._trials

    def end(self) -> None:
        """The trainer's update is over."""
        if self._begun is not None:
            self.ours.append(_since(self._begun))


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _clocks()
    return wall - begun[0], cpu - begun[1]


def _against_bare(folder: Path) -> list[dict[str, Any]]:
    from transformers import PrinterCallback

    from lamer_graph.collection.collect import collect
    from lamer_graph.policies.local import LocalPolicy
    from lamer_graph.runlog import read_trials
    from lamer_trainers.learning.samples import Limits
    from lamer_trainers.learning.trainer import LamerTrainer
    from lamer_trainers.runfile import load_run

    policy = LocalPolicy(policy_folder())
    asyncio.run(collect(config(GROUPS).model_copy(update={"trials": TRIALS}), policy, folder / "log"))
    policy.close()
    plain = (f"optimise.updates={UPDATES + 1}", "optimise.warmup_updates=0", "optimise.schedule=constant")
    run = load_run(preset="minesweeper-cpu", changes=plain)
    args = run.trainer_config(folder / "out", cpu=True)
    args.save_strategy, args.max_staleness = "no", None
    optimise = run.optimise
    bare = BareTrainer(
        copy.deepcopy(policy.model),
        rate=optimise.learning_rate,
        clip=optimise.clip,
        entropy=optimise.entropy,
        norm=optimise.max_grad_norm,
        budget=optimise.micro_batch_tokens,
    )
    source = _Rival(list(read_trials(folder / "log")), bare, args, Limits())
    trainer = LamerTrainer(policy.model, source, args, processing_class=policy.tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    source.end()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    apart = max(abs(ours - theirs) for ours, theirs in zip(losses, source.losses, strict=True))
    if apart > SAME:
        raise RuntimeError(f"LamerTrainer and the bare loop do not train the same: losses {apart:.2g} apart")
    count = len(source.answers)
    pairs = list(zip(source.ours, source.theirs, strict=True))[1:]
    note = (
        f"{ENV}, 0.7 M parameters, {count} samples an update, {optimise.mini_batches} mini-batches, {len(pairs)} "
        f"updates in turns, one thread; losses at most {apart:.0e} apart"
    )
    return [
        row("training, LamerTrainer / bare PyTorch", median(b[1] / a[1] for a, b in pairs), "x", ">= 0.95", note),
        row("training, the same in wall time", median(b[0] / a[0] for a, b in pairs), "x"),
        row("training, LamerTrainer", count / median(a[1] for a, _ in pairs), "samples/CPU s"),
        row("training, bare PyTorch", count / median(b[1] for _, b in pairs), "samples/CPU s"),
    ]


def _meta_against_rl(folder: Path, pipeline: int, rounds: int, preset: str = PRESET) -> list[dict[str, Any]]:
    from lamer_trainers.presets import PRESETS, rl_baseline

    meta: list[Any] = []
    rl: list[Any] = []
    collect = PRESETS[preset]["collect"]
    baseline = rl_baseline(collect["trials"], collect["max_episodes"])
    for number in range(rounds):
        for name, changes, found in (("meta", (), meta), ("rl", baseline, rl)):
            found += _updates(folder / f"{name}-{preset}-{pipeline}-{number}", preset, changes, pipeline)
    seconds = [median(line["time/update"] for line in lines) for lines in (meta, rl)]
    played = [mean(line["episodes"] for line in lines) for lines in (meta, rl)]
    note = (
        f"{preset}, {TASKS} tasks an update, medians of {len(meta)} updates: {seconds[0]:.1f} s and {seconds[1]:.1f} s "
        f"for {played[0]:.0f} and {played[1]:.0f} episodes (a trial ends with its first success)"
    )
    name = f"pipeline {pipeline}" if preset == PRESET else f"{preset}, pipeline {pipeline}"
    rows = [
        row(f"meta-RL / RL wall time, {name}", seconds[0] / seconds[1], "x", "<= 1.3" if pipeline else "", note),
        row(f"meta-RL / RL wall time an episode, {name}", seconds[0] / seconds[1] * played[1] / played[0], "x"),
    ]
    if pipeline:
        for arm, lines in (("meta-RL", meta), ("RL", rl)):
            for who in ("sampler", "trainer"):
                idle = mean(line[f"idle/{who}"] / line["time/update"] for line in lines)
                rows.append(row(f"{arm}, {name}, {who} idle", idle, "of the time"))
    return rows


def _updates(folder: Path, preset: str, changes: tuple[str, ...], pipeline: int) -> list[dict[str, Any]]:
    """The metrics of a short run, its first and last update left out, each with the episodes that it was trained on."""
    from lamer_graph.runlog import read_trials
    from lamer_trainers.loop.train import train
    from lamer_trainers.runfile import load_run

    short = (f"collect.tasks={TASKS}", f"optimise.updates={RUN_UPDATES}", f"pipeline={pipeline}", "validation=null")
    run = load_run(preset=preset, changes=[*changes, *short, "optimise.old_logprobs=recomputed"])
    lines: list[dict[str, Any]] = []
    train(run, folder, progress=lines.append)
    for line in lines:
        trials = read_trials(folder / "collected" / f"update-{line['update'] - 1:05d}")
        line["episodes"] = sum(len(trial["episodes"]) for trial in trials)
    return lines[1:-1]


def rows() -> list[dict[str, Any]]:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *_against_bare(folder),
            *_meta_against_rl(folder, 1, ROUNDS),
            *_meta_against_rl(folder, 0, 1),
            *_meta_against_rl(folder, 1, ROUNDS, LARGER),
        ]
