"""Every optimiser and normalisation under one short budget: what each gains over the warm start it began with.

    python examples/optimisers.py --out runs/optimisers                            # some 2 minutes a row on one core
    python examples/optimisers.py --out runs/optimisers --only ppo grpo-std        # some rows; the rest another time

What is done stays done. Every row trains the preset with nothing changed but what its line below says, then plays the
held-out boards that the warm start plays, and is compared with it board by board; intervals are 95 %, over layouts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from meta_vs_rl import play

from lamer_graph.evaluation.evaluate import Evaluation
from lamer_graph.evaluation.stats import paired_test, task_success
from lamer_graph.runlog import read_trials
from lamer_trainers.loop.curves import draw, read_metrics
from lamer_trainers.loop.run_folder import METRICS
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run

Json = dict[str, Any]
START = "warm start"
ROWS: dict[str, tuple[str, ...]] = {
    "gigpo-batch": (),
    "gigpo-std": ("optimise.normalise=std",),
    "gigpo-mean": ("optimise.normalise=mean",),
    "grpo-std": ("optimise.algorithm=grpo", "optimise.normalise=std"),
    "rloo": ("optimise.algorithm=rloo", "optimise.normalise=mean"),
    "reinforce++": ("optimise.algorithm=reinforce++", "optimise.normalise=mean"),
    "ppo": (
        "optimise.algorithm=ppo",
        "optimise.normalise=mean",
        "optimise.critic_learning_rate=5e-4",
        "optimise.gae_lambda=0.95",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="minesweeper-cpu")
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    given = parser.parse_args()
    common = (
        f"optimise.updates={given.updates}",
        "optimise.schedule=constant",
        "validation=null",
        f"optimise.seed={given.seed}",
        f"collect.seed={given.seed}",
    )
    runs = {name: load_run(preset=given.preset, changes=(*common, *ROWS[name])) for name in given.only}
    some = next(iter(runs.values()))
    # Three attempts with reflections at each of the held-out tasks.
    held_out = {
        "split": "test",
        "tasks": given.tasks,
        "trials": 1,
        "max_episodes": 3,
        "contents": "reflection",
        "seed": 0,
    }
    settings = {**some.collect.model_dump(), **held_out}
    begin = given.out / "eval" / START.replace(" ", "-")
    start = play(settings, Path(some.policy), begin)
    found: dict[str, Json] = {START: row(start)}
    curves = {}
    for name, run in runs.items():
        folder = given.out / name
        if not (folder / "policy").is_dir():
            train(run, folder, resume=folder.exists(), progress=lambda line, name=name: print(name, line["update"]))
        played = given.out / "eval" / name
        found[name] = row(play(settings, folder / "policy", played))
        for k in (1, 3):
            ours, theirs = (task_success(read_trials(place), k) for place in (played, begin))
            gain = paired_test(ours, theirs, start.instances)
            found[name][f"gain at pass@{k}"] = [round(number, 4) for number in gain[:3]]
        curves[name] = read_metrics(folder / METRICS)
        found[name] |= {
            "optimise": run.optimise.model_dump(mode="json"),
            "seconds": round(sum(line["time/update"] for line in curves[name]), 1),
            "last update": {key: round(value, 4) for key, value in curves[name][-1].items() if key in LAST},
        }
    print(json.dumps(found, indent=1))
    (given.out / "optimisers.json").write_text(json.dumps(found, indent=1) + "\n")
    print("plot:", *draw(curves, given.out / "curves"))


LAST = ("entropy", "policy/kl", "clip_ratio/region_mean", "grad_norm", "batch/invalid", "critic/explained")
"""What a row says of its last update, to look for reasons in."""


def row(reading: Evaluation) -> Json:
    """pass@1, 2 and 3 with their intervals."""
    points = [[round(number, 4) for number in point[:3]] for point in reading.summary.pass_at]
    return {"pass@k": points, "layouts": reading.summary.instances, "tasks": reading.config.tasks}


if __name__ == "__main__":
    main()
