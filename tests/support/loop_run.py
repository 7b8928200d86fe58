"""A short run of the whole loop on the random tiny policy, as a process that a test can kill and start again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from lamer_trainers.loop.run_folder import RUN
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run

SMALL = (
    "collect.tasks=2",
    "collect.trials=2",
    "collect.max_episodes=2",
    "collect.max_turns=1",
    "collect.max_tokens=3",
    "optimise.mini_batches=2",
    "optimise.warmup_updates=0",
    "concurrency=4",
)
CHANGES = (
    *SMALL,
    "optimise.updates=4",
    "optimise.learning_rate=0.01",
    "validation.tasks=3",
    "validation.every=1",
    "save_every=2",
    "deterministic=true",
)


def run_in(folder, model_dir):
    """Start the run in `folder`, or go on with it; what it came to."""
    torch.set_num_threads(1)
    run = load_run(preset="minesweeper-cpu", changes=[f"policy={model_dir}", *CHANGES])
    return train(run, folder, resume=(folder / RUN).exists())


if __name__ == "__main__":
    done = run_in(Path(sys.argv[2]), sys.argv[1])
    print(json.dumps([done.updates, done.best, done.best_update]))
