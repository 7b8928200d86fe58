"""Meta-RL against RL at equal numbers of episodes: train both for several seeds, read both on held-out tasks, compare.

    python examples/meta_vs_rl.py --out runs/meta-vs-rl                  # some 15 minutes a seed on one core
    python examples/meta_vs_rl.py --out runs/meta-vs-rl --seeds 0 1 2    # goes on with what is missing

By default meta-RL may play as many episodes an update as RL does, and plays fewer, since a trial ends with its win;
`collect.trials=12` gives it about as many in fact (the outcome has the numbers).

What is done stays done: a run that was stopped goes on from its checkpoints and logs. The outcome is a table, the JSON
behind it and the training curves. RL is read with and without memory, and gaps are against its better reading.
Intervals are 95 %, over mine layouts (or whatever instances the environment has): boards that differ only in where they
were opened count as one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

from lamer_envs import make
from lamer_graph.collection.config import CollectConfig
from lamer_graph.evaluation.evaluate import Evaluation, evaluate
from lamer_graph.evaluation.stats import paired_test, task_success
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.runlog import read_trials
from lamer_trainers.loop.best import BEST
from lamer_trainers.loop.curves import draw, read_metrics
from lamer_trainers.loop.run_folder import METRICS
from lamer_trainers.loop.train import train
from lamer_trainers.presets import RL_BASELINE
from lamer_trainers.runfile import RunFile, load_run
from lamer_trainers.warmstart.gates import judged_remarks
from lamer_trainers.warmstart.warmup import teacher_of

Json = dict[str, Any]
PAPER = CollectConfig.sampling_preset("paper")
READINGS: dict[str, Json] = {
    "reflection": {},
    "none": {"contents": "none"},
    "reflection, shuffled": {"shuffle_reflections": True},
    "reflection, paper's sampling": PAPER,
    "reflection, training layouts": {"split": "train"},
    "diversity": {"contents": "none", "max_episodes": 1, "trials": 8, "tasks": 100},
}
"""How every policy is read; differences from `reflection`. The training layouts are new seeds of the train split."""
ARMS = {"base": (), "rl": RL_BASELINE, "meta": ()}


class Read(NamedTuple):
    """One evaluation and where its log is."""

    said: Evaluation
    folder: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="minesweeper-cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tasks", type=int, default=800, help="held-out tasks to read every policy on")
    parser.add_argument("--skip", type=int, default=0, help="held-out tasks to pass over, so that others are read")
    parser.add_argument("changes", nargs="*", help="section.key=value, for both arms")
    given = parser.parse_args()
    suffix = f"-from-{given.skip}" if given.skip else ""
    rows: list[Json] = []
    for seed in given.seeds:
        found: dict[str, dict[str, Read]] = {}
        for arm, extra in ARMS.items():
            seeds = (f"optimise.seed={seed}", f"collect.seed={seed}")
            run = load_run(preset=given.preset, changes=(*given.changes, *extra, *seeds))
            folder = given.out / f"{arm}-{seed}"
            # Where the run validated, the policy is the one that did best on the validation tasks.
            policy = Path(run.policy) if arm == "base" else folder / (BEST if run.validation else "policy")
            if arm != "base" and not (folder / "policy").is_dir():
                train(run, folder, resume=folder.exists(), progress=lambda line, arm=arm: print(arm, line["update"]))
            # The warm start is the same for every seed, and so are the tasks and how it plays them.
            played = given.out / f"eval{suffix}" / (arm if arm == "base" else folder.name)
            found[arm] = read(run, policy, played, given.tasks, given.skip)
        rows.append(compared(seed, found))
        rows[-1]["true reflections"] = true_reflections(given.out / f"meta-{seed}")
        rows[-1]["episodes an update"] = {arm: episodes_played(given.out / f"{arm}-{seed}") for arm in NAMES}
    print(json.dumps(rows, indent=1))
    (given.out / f"meta-vs-rl{suffix}.json").write_text(json.dumps(rows, indent=1) + "\n")
    first = given.seeds[0]
    curves = {name: read_metrics(given.out / f"{arm}-{first}" / METRICS) for arm, name in NAMES.items()}
    print("plot:", *draw(curves, given.out / "curves"))


NAMES = {"rl": "RL", "meta": "meta-RL"}


def read(run: RunFile, policy: Path, out: Path, tasks: int, skip: int) -> dict[str, Read]:
    """Play so many held-out tasks after the first `skip` in every way."""
    found = {}
    for name, changes in READINGS.items():
        settings = {
            **run.collect.model_dump(),
            **{"split": "test", "tasks": tasks, "trials": 1, "contents": "reflection", "max_episodes": 3, "seed": 0},
            "skip": skip,
            # New seeds of training layouts: those beyond all that the longest run could have drawn.
            **({"skip": run.optimise.updates * run.collect.tasks + skip} if changes.get("split") == "train" else {}),
            **changes,
        }
        folder = out / name.replace(",", "").replace("'", "").replace(" ", "-")
        reading = play(settings, policy, folder)
        found[name] = Read(reading, folder)
    return found


def play(settings: Json, policy: Path, folder: Path) -> Evaluation:
    """A run of these settings in `folder`, or what is missing of it; what is there already is not played again."""
    player = LocalPolicy(policy)
    try:
        reading, summary = asyncio.run(
            evaluate(CollectConfig(**settings), player, folder, concurrency=128, resume=folder.exists())
        )
    finally:
        player.close()
    if summary.interrupted:
        raise KeyboardInterrupt
    return reading


def compared(seed: int, found: dict[str, dict[str, Read]]) -> Json:
    """pass@k of every reading, and the differences that the claim rests on."""
    out: Json = {"seed": seed, "pass": {}, "differences": {}}
    for arm, readings in found.items():
        for name, reading in readings.items():
            key = f"{arm}, {name}"
            if name == "diversity":
                out["pass"][key] = list(reading.said.summary.diversity)
                continue
            out["pass"][key] = [[round(number, 4) for number in point[:3]] for point in reading.said.summary.pass_at]
    meta, rl = found["meta"], found["rl"]
    better = max(("reflection", "none"), key=lambda name: rl[name].said.summary.pass_at[-1].value)
    pairs = {
        f"meta - RL ({better})": (("meta", "reflection"), ("rl", better)),
        "meta - meta, shuffled": (("meta", "reflection"), ("meta", "reflection, shuffled")),
        "meta - meta, no memory": (("meta", "reflection"), ("meta", "none")),
    }
    for name, (ours, theirs) in pairs.items():
        for k in (1, 3):
            test = paired_test(
                successes(found, ours, k), successes(found, theirs, k), meta["reflection"].said.instances
            )
            out["differences"][f"{name}, pass@{k}"] = [round(number, 4) for number in test[:3]]
    out["layouts"] = meta["reflection"].said.summary.instances
    return out


def successes(found: dict[str, dict[str, Read]], which: tuple[str, str], k: int) -> dict[str, float]:
    arm, name = which
    return task_success(read_trials(found[arm][name].folder), k)


def episodes_played(folder: Path) -> float:
    """Mean number of episodes in an update: a trial ends with its win, so that 8 x 3 are fewer than 24."""
    updates = list((folder / "collected").glob("update-*"))
    return round(sum(len(trial["episodes"]) for run in updates for trial in read_trials(run)) / len(updates), 1)


def true_reflections(folder: Path) -> Json:
    """Share of a run's reflections that are true, in the first and the last ten updates (of those that could be)."""
    updates = sorted((folder / "collected").glob("update-*"))
    shares = {}
    for name, part in (("first 10 updates", updates[:10]), ("last 10 updates", updates[-10:])):
        judged: list[bool] = []
        for run in part:
            for trial in read_trials(run):
                env = make(trial["task"]["env"])
                made = {
                    "start": env.reset(trial["task"]["seed"]),
                    "episodes": trial["episodes"],
                    "reflections": [reflection["text"] for reflection in trial["reflections"]],
                }
                judged += judged_remarks(teacher_of(env)[0], made)  # type: ignore[arg-type]
        shares[name] = round(sum(judged) / len(judged), 4)
    return shares


if __name__ == "__main__":
    main()
