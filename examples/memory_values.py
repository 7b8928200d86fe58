"""Memory of other tasks whose worth is measured: what it costs or brings, the more tasks it has seen.

    python examples/memory_values.py --policy examples/policies/minesweeper-tiny --out runs/values

One memory for each way to select plays a stream of tasks, `--tasks` a round, half of each task's trials with other
tasks' records held back. So each round says what they bring: those trials' success minus that of the others, on the
same tasks. What the rounds leave is then read on tasks of the test split that nothing was played on, beside no memory.
What is done stays done; JSON and a plot lie in --out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from reading_player import ReadingPlayer

from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.evaluation.compare import compare
from lamer_graph.evaluation.stats import paired_test
from lamer_graph.policies.base import Policy
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.runlog import read_trials
from lamer_memory.utility import held_back
from lamer_trainers.runfile import Remember
from lamer_trainers.sources.batches import UPDATE_FOLDER, PlayedBatches

Json = dict[str, Any]
CONTROL = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="minesweeper:4x4-3")
    parser.add_argument("--policy", required=True, help="a folder, or `reader` for examples/reading_player.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tasks", type=int, default=50, help="a round")
    parser.add_argument("--trials", type=int, default=4, help="a task; half of them see nothing of other tasks")
    parser.add_argument("--test", type=int, default=400, help="tasks that are read in the end")
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--select", nargs="+", default=["similar", "value", "ucb"])
    parser.add_argument("--budget", type=int, default=1000, help="most records that a memory keeps")
    parser.add_argument("--k", type=int, default=3, help="records of other tasks that a prompt shows")
    parser.add_argument("--lessons", choices=("failed", "all"), default="failed", help="all: also of won trials")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    base = CollectConfig(
        env=given.env,
        tasks=given.tasks,
        trials=given.trials,
        max_episodes=given.episodes,
        contents="reflection",
        backend="chroma",
        scope="tasks",
        control=CONTROL,
        k=given.k,
        lessons=given.lessons,
        prompt_style="compact",
        max_tokens=24,
        seed=given.seed,
    )
    policy = ReadingPlayer(given.env) if given.policy == "reader" else LocalPolicy(given.policy)
    found: Json = {"env": given.env, "policy": Path(given.policy).name, "seed": given.seed, "rounds": {}, "test": {}}
    runs: dict[str, Path] = {"none": given.out / "test-none"}
    alone = {"tasks": given.test, "trials": 1, "split": "test", "control": 0.0, "skip": 0}
    alone |= {name: CollectConfig.model_fields[name].default for name in ("k", "lessons")}
    nothing = {**alone, "contents": "none", "backend": "in-context", "scope": "trial"}
    own = {**alone, "backend": "in-context", "scope": "trial"}
    plain = CollectConfig(**{**base.model_dump(), "select": "similar", **nothing})
    play(plain, policy, runs["none"])
    runs["own"] = given.out / "test-own"
    play(CollectConfig(**{**base.model_dump(), "select": "similar", **own}), policy, runs["own"])
    for select in given.select:
        config = base.model_copy(update={"select": select})
        batches = PlayedBatches(config, given.out / select, remember=Remember(budget=given.budget))
        rounds = []
        for number in range(given.rounds):
            asyncio.run(batches.collect(number, policy))
            rounds.append(effect(given.out / select / UPDATE_FOLDER.format(number), config))
            print(select, number + 1, rounds[-1], flush=True)
        found["rounds"][select] = rounds
        last = given.out / select / UPDATE_FOLDER.format(given.rounds - 1)
        runs[select] = given.out / f"test-{select}"
        play(
            config.model_copy(update={**alone, "k": given.k, "lessons": given.lessons, "store": str(last.resolve())}),
            policy,
            runs[select],
        )
    # Each against a memory of the trial's own episodes alone: what other tasks' records add.
    for row in compare(runs, "own").rows:
        found["test"][row.name] = {
            "pass_at": [one._asdict() for one in row.summary.pass_at],
            "minus_own": None if row.differences is None else [one._asdict() for one in row.differences],
        }
    (given.out / "values.json").write_text(json.dumps(found, indent=1, default=str) + "\n")
    draw(found, given.tasks, given.out / "values.png")
    for name, row in found["test"].items():
        reached = " ".join(f"{one['value']:.3f}" for one in row["pass_at"])
        print(f"{name}: pass@k {reached}; minus own", *map(describe, row["minus_own"] or ()))


def play(config: CollectConfig, policy: Policy, folder: Path) -> None:
    asyncio.run(collect(config, policy, folder, concurrency=128, resume=True))


def describe(one: Json) -> str:
    return f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def effect(folder: Path, config: CollectConfig) -> Json:
    """Success of the trials that may see other tasks' records minus that of the others, by task: pass@1 and pass@N."""
    found: dict[str, dict[bool, dict[str, list[float]]]] = {"first": {}, "any": {}}
    shown = 0
    for trial in read_trials(folder):
        task = trial["task"]["id"]
        held = held_back(config.control, config.seed, task, trial["trial"])
        first = trial["success"] and len(trial["episodes"]) == 1
        for name, won in (("first", first), ("any", trial["success"])):
            found[name].setdefault(held, {}).setdefault(task, []).append(float(won))
        shown += not held and any(not key.startswith(trial["trial_id"]) for key in trial["memory_reads"][0]["keys"])
    result: Json = {"shown": shown}
    for name, sides in found.items():
        with_it, without = ({task: mean(won) for task, won in sides[held].items()} for held in (False, True))
        result[name] = paired_test(with_it, without)._asdict()
    return result


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def draw(found: Json, tasks: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, name, title in zip(axes, ("first", "any"), ("first attempt", "any attempt"), strict=True):
        for select, rounds in found["rounds"].items():
            seen = [tasks * number for number in range(len(rounds))]
            line = axis.plot(seen, [one[name]["value"] for one in rounds], marker="o", label=select)
            low, high = ([one[name][end] for one in rounds] for end in ("low", "high"))
            axis.fill_between(seen, low, high, alpha=0.12, color=line[0].get_color())
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=f"{found['env']}: {title}", xlabel="tasks that the memory has seen")
    axes[0].set_ylabel("success with other tasks' records, minus without")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
