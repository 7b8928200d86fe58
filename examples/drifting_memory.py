"""A memory whose lessons go stale: ten fields of boards, whose hidden regularities change every --phase tasks.

    python examples/drifting_memory.py --out runs/drift            # 10,000 tasks for each way to select

The player reads (reading_player.py), the memory keeps at most --budget records, and of each task's two trials one sees
nothing of other tasks: so every round says what the memory is worth, before and after a change. What is done stays so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any, ClassVar

from memory_values import effect
from reading_player import ReadingPlayer

from lamer_envs.base import State
from lamer_envs.minesweeper import Minesweeper
from lamer_envs.registry import use
from lamer_graph.collection.config import CollectConfig
from lamer_trainers.runfile import Remember
from lamer_trainers.sources.batches import UPDATE_FOLDER, PlayedBatches

FIELDS = 10


class Drifting(Minesweeper):
    """Ten fields of 5x5 boards with 4 mines; in each phase other families of boards have their names."""

    name: ClassVar[str] = "drifting"

    def __init__(self, phase: int) -> None:
        super().__init__(5, 4, family=f"{FIELDS * phase}-{FIELDS * phase + FIELDS - 1}")
        self._spec = f"{self.name}:{phase}"

    @classmethod
    def from_spec(cls, params: str) -> Drifting:
        return cls(int(params))

    def _field(self, state: State) -> list[str]:
        return [f"Field {state['family'] % FIELDS}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--round", type=int, default=100, help="tasks of a round")
    parser.add_argument("--phase", type=int, default=2_000, help="tasks of a phase")
    parser.add_argument("--budget", type=int, default=1_000, help="most records that a memory keeps")
    parser.add_argument("--select", nargs="+", default=["similar", "value", "ucb"])
    given = parser.parse_args()
    found: dict[str, Any] = {"tasks": given.tasks, "round": given.round, "phase": given.phase, "rounds": {}}
    for select in given.select:
        rounds = []
        for number in range(given.tasks // given.round):
            phase = number * given.round // given.phase
            config = CollectConfig(
                env=use(f"{__name__}:Drifting:{phase}").spec,
                tasks=given.round,
                trials=2,
                contents="reflection",
                backend="chroma",
                scope="tasks",
                k=8,
                select=select,
                control=0.5,
                lessons="all",
                prompt_style="compact",
                max_tokens=24,
            )
            batches = PlayedBatches(config, given.out / select, remember=Remember(budget=given.budget))
            asyncio.run(batches.collect(number, ReadingPlayer("minesweeper:5x5-4")))
            batches.forget_before(number)
            rounds.append({"phase": phase, **effect(given.out / select / UPDATE_FOLDER.format(number), config)})
            print(select, (number + 1) * given.round, f"{rounds[-1]['first']['value']:+.3f}", flush=True)
        found["rounds"][select] = rounds
    (given.out / "drift.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, given.out / "drift.png")


def draw(found: dict[str, Any], path: Path, window: int = 5) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 4))
    for select, rounds in found["rounds"].items():
        values = [one["first"]["value"] for one in rounds]
        smooth = [sum(values[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(values))]
        axis.plot([found["round"] * (i + 1) for i in range(len(values))], smooth, label=select)
    for start in range(found["phase"], found["tasks"], found["phase"]):
        axis.axvline(start, color="grey", linewidth=0.8, linestyle=":")
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set(xlabel="tasks", ylabel="pass@1 with the memory, minus without", title="fields change at the dotted lines")
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
