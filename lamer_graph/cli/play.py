"""`lamer-graph play`: watch one trial in the terminal, through the same graph that applications embed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.cli.options import DEFAULT_ENV, GAME, PLAYED, Game, Player
from lamer_graph.cli.running import preflight
from lamer_graph.errors import ConfigError
from lamer_graph.policies.shipped import shipped_policies

BEST = "minesweeper-5x5-trained"
"""Who plays where nothing else is asked for: it shows what the training is for."""

SHOWN = 2
"""Which task it then plays: one that it loses, learns from and wins."""

TaskOption = Annotated[
    int | None,
    typer.Option(
        "--task",
        metavar="K",
        min=0,
        rich_help_panel=GAME,
        show_default=False,
        help="Which of the split's tasks, from 0, which is the default; without any option a telling one.",
    ),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "play",
        main=(*PLAYED, "--task"),
        examples=[
            ("lamer-graph play", "A trained policy that ships plays a MineSweeper board that it has never seen."),
            ("lamer-graph play --task 5 --memory none --seed 1", "Another board, without memory, other dice."),
            (
                "lamer-graph play --env sokoban:6x6-1 --base-url http://127.0.0.1:8000/v1",
                "A model behind a server plays Sokoban.",
            ),
        ],
    )
    def play(ui: Ui, player: Player, game: Game, task: TaskOption = None) -> Json:
        """Watch a trial: what the agent remembers, its board and action turn by turn, what it learns from failing.

        The trial runs through the LangGraph agent of [bold]create_lamer_agent[/]; nothing is logged.
        """
        if player == Player() and game.env == DEFAULT_ENV and BEST in shipped_policies():
            player, game = replace(player, policy=Path(BEST)), replace(game, env="minesweeper")
            task = SHOWN if task is None else task
        return asyncio.run(watch(ui, player, game, task or 0))


async def watch(ui: Ui, player: Player, game: Game, number: int) -> Json:
    """Play the split's task `number` and show it; the document that `play --json` prints."""
    from lamer_envs import make
    from lamer_envs.splits import split_seeds
    from lamer_graph.agent import compile_agent
    from lamer_graph.cli import render
    from lamer_graph.collection.collect import TASKS

    config = game.config(ui, player)
    env = make(config.env)
    if env.name == TASKS:
        raise ConfigError(f"'{env.spec}' is an application's, which has no board to watch: use eval --task")
    seed = split_seeds(env).seed(config.split, number)
    async with player.open(config.env, training=False) as policy:
        config = config.model_copy(update={"policy": player.name_of(policy, config.env)})
        await preflight(config, policy)
        sampling = policy.as_sent(config.sampling)
        agent = compile_agent(config.harness(policy), tell_state=True)
        ui.working()
        ui.print(render.opening(env, config, seed, sampling))
        state: Json = {}
        reads: list[list[Json]] = []
        stream: Any = agent.astream({"task": {"seed": seed}}, stream_mode=["custom", "updates", "values"])
        async for mode, event in stream:
            if mode == "custom":
                ui.print(render.event(env, event))
            elif mode == "updates":
                # Every episode begins with what it remembers, which without memory the one before says: nothing.
                for update in event.values():
                    if "memory" in update:
                        reads.append(update["memory"])
                        ui.print(*render.episode_start(env, env.reset(seed), reads[-1], len(reads), config))
            elif mode == "values":
                state = event
        ui.print(render.ending(state))
    return {
        "task": {"env": config.env, "split": config.split, "seed": seed},
        "policy": config.policy,
        "sampling": sampling,
        "memory_reads": [[record["text"] for record in records] for records in reads],
        **{name: state[name] for name in ("success", "episodes", "reflections")},
    }
