"""Collects a run with a slow scripted policy until it is told to stop; run as a child process by the tests."""

from __future__ import annotations

import asyncio
import json
import sys

from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from scripted import ScriptedPolicy, random_player

CONFIG = CollectConfig(
    env="minesweeper:4x4-3", split="test", tasks=60, trials=2, prompt_style="compact", contents="both"
)

REROLLS = CollectConfig(env="minesweeper:4x4-3", tasks=6, trials=3, prompt_style="compact", rerolls=8, reroll_trials=3)


def main(folder: str, delay: float, config: CollectConfig) -> None:
    policy = ScriptedPolicy(random_player, delay=delay)
    done = asyncio.run(collect(config, policy, folder, concurrency=8, resume=True))
    print(json.dumps(done.to_json()))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), REROLLS if sys.argv[3:] == ["rerolls"] else CONFIG)
