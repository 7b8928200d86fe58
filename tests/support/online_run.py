"""A short on-line run on the random tiny policy; as a script it is one that a test can kill."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from lamer_graph.collection.config import CollectConfig
from lamer_graph.policies.local import LocalPolicy
from lamer_trainers.learning.trainer import LamerTrainer
from lamer_trainers.sources.batches import PlayedBatches
from lamer_trainers.sources.collector import Collector
from lamer_trainers.sources.in_process import InProcess
from training import config


def make_run(model_dir, folder, on_trial=None, scope="trial"):
    """A trainer of three updates with two optimiser steps each, saved after every update; repeatable bit for bit.

    `scope` is a memory's, or "rerolls": that of the trial, with failed trials begun again.
    """
    torch.set_num_threads(1)
    policy = LocalPolicy(model_dir, deterministic=True)
    collect = CollectConfig(
        env="minesweeper:4x4-3",
        tasks=2,
        trials=2,
        max_episodes=2,
        max_turns=1,
        prompt_style="compact",
        max_tokens=3,
        scope="tasks" if scope == "tasks" else "trial",
        backend="chroma" if scope == "tasks" else "in-context",
        rerolls=3 if scope == "rerolls" else 0,
    )
    batches = PlayedBatches(collect, Path(folder) / "collected", concurrency=4, on_trial=on_trial)
    args = config(
        folder,
        updates=3,
        mini_batches=2,
        save_updates=1,
        max_grad_norm=1.0,
        max_staleness=0,
        normalise="batch",
        micro_batch_tokens=4096,
    )
    return LamerTrainer(policy.model, Collector(InProcess(policy), batches), args, processing_class=policy.tokenizer)


if __name__ == "__main__":
    make_run(Path(sys.argv[1]), Path(sys.argv[2]), on_trial=lambda _: time.sleep(0.5), scope=sys.argv[3]).train()
