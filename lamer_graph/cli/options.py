"""The options that `play`, `collect`, `eval` and `quickstart` share, and what they come to.

What must stay true: an option means the same in every command that has it, and everything that can be wrong with it is
found here, before any work.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from lamer_graph.cli.frame import Ui, options
from lamer_graph.cli.own import named, own
from lamer_graph.cli.player import Player as Player
from lamer_graph.cli.player import TemplateOption as TemplateOption
from lamer_graph.cli.player import template_of as template_of
from lamer_graph.errors import ConfigError
from lamer_memory import Contents

if TYPE_CHECKING:
    from lamer_graph.collection.config import CollectConfig

GAME, MEMORY, RUN = "What is played", "Memory", "The run"

DEFAULT_ENV = "minesweeper:4x4-3"

PLAYED = (
    "--policy", "--base-url", "--env", "--split", "--episodes", "--strategy",
    "--temperature", "--max-tokens", "--seed", "--memory",
)  # fmt: skip
"""What `--help` shows of a command that plays."""
REPEATED = (*PLAYED, "--task", "--backend", "--scope", "--tasks", "--trials", "--concurrency", "--out", "--resume")
"""And of one that plays often."""


def _known_envs(begun: str) -> list[str]:
    """For the shell's completion."""
    from lamer_envs.registry import names

    return [name for name in names() if name.startswith(begun)]


EnvOption = Annotated[
    str,
    typer.Option(
        "--env",
        metavar="SPEC",
        rich_help_panel=GAME,
        autocompletion=_known_envs,
        help="Environment, e.g. minesweeper:6x6-3 or sokoban:6x6-1.",
    ),
]
HostOption = Annotated[
    str,
    typer.Option("--host", metavar="ADDRESS", help="Where to listen; beyond this machine only with LAMER_API_KEY set."),
]
PortOption = Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes a free one.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=RUN,
        show_default=False,
        help="Folder for all of it. Default: a new one under runs/.",
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", rich_help_panel=RUN, help="Play what is missing in --out.")]
SkipOption = Annotated[
    int, typer.Option("--skip", metavar="N", min=0, rich_help_panel=RUN, help="Tasks of the split to pass over first.")
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="MODULE:NAME",
        rich_help_panel=GAME,
        show_default=False,
        help="Instead of --env: tasks of an application of your own, made by task_agent in an importable module.",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="S", rich_help_panel=GAME, help="Seeds the sampling of every policy call.")
]


@options
@dataclass(frozen=True, kw_only=True)
class Setting:
    """The task, the rules of a trial, and how answers are sampled."""

    env: Annotated[
        str,
        typer.Option(
            "--env",
            metavar="SPEC",
            rich_help_panel=GAME,
            autocompletion=_known_envs,
            help="Environment, e.g. minesweeper:6x6-3, or module:Class of your own; a name alone: as --policy's card "
            "says.",
        ),
    ] = DEFAULT_ENV
    tasks_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            rich_help_panel=GAME,
            show_default=False,
            help="One kind of task of an environment that has several: with --env alfworld, e.g. cool or pick+look.",
        ),
    ] = None
    split: Annotated[
        str,
        typer.Option(metavar="NAME", rich_help_panel=GAME, help="Which tasks: train, val, test; some have more (ood)."),
    ] = "test"
    max_episodes: Annotated[
        int, typer.Option("--episodes", metavar="N", min=1, rich_help_panel=GAME, help="Attempts per trial, at most.")
    ] = 3
    max_turns: Annotated[
        int | None,
        typer.Option(
            metavar="T",
            min=1,
            rich_help_panel=GAME,
            show_default=False,
            help="Turns per episode, at most. Default: the environment's own.",
        ),
    ] = None
    history: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            rich_help_panel=GAME,
            show_default=False,
            help="Latest turns of an episode that the policy sees. Default: all that fit its context.",
        ),
    ] = None
    prompt_style: Annotated[
        Literal["auto", "standard", "compact"],
        typer.Option(
            rich_help_panel=GAME,
            help="standard: for instruction-tuned models; compact: for small policies; auto: as the policy was taught.",
        ),
    ] = "auto"
    strategy: Annotated[
        Literal["auto", "zero_shot", "react", "reflexion", "plan", "lamer"],
        typer.Option(
            rich_help_panel=GAME,
            help="zero_shot: acts, remembers nothing; react: reasons before each action; reflexion: sees its last "
            "three reflections; plan: plans each attempt first; lamer: sees all that --memory keeps; auto: as the "
            "policy was taught, or lamer.",
        ),
    ] = "auto"
    thoughts: Annotated[
        Literal["auto", "hidden", "shown"],
        typer.Option(
            rich_help_panel=GAME,
            help="Whether later turns show what was said before an action; auto: as the policy was taught, or hidden.",
        ),
    ] = "auto"
    actions: Annotated[
        Literal["auto", "always", "never"],
        typer.Option(
            rich_help_panel=GAME,
            help="Whether standard prompts list what can be done; auto: as the policy was taught, or where nothing "
            "else in the prompt says it.",
        ),
    ] = "auto"
    sampling: Annotated[
        Literal["train", "paper"],
        typer.Option(rich_help_panel=GAME, help="train: temperature 1, nothing cut; paper: 0.7, top-p 0.8, top-k 20."),
    ] = "train"
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="X", min=0, rich_help_panel=GAME, show_default=False, help="Of answers, in place of --sampling's."
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="P", min=0, max=1, rich_help_panel=GAME, show_default=False, help="The same; 1 cuts nothing."
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(metavar="K", min=0, rich_help_panel=GAME, show_default=False, help="The same; 0 cuts nothing."),
    ] = None
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, rich_help_panel=GAME, help="Tokens per answer, at most.")
    ] = 512
    stop: Annotated[
        Literal["auto", "never"],
        typer.Option(
            rich_help_panel=GAME,
            help="auto: an answer ends at the closing tag that standard prompts ask for; never: by the model.",
        ),
    ] = "auto"
    seed: SeedOption = 0

    def config(self, ui: Ui, player: Player, **more: Any) -> CollectConfig:
        """The run's configuration, but for who plays. `more` are fields that it takes besides those named as ours.

        Raises ConfigError, the environment's errors and pydantic's.
        """
        from lamer_graph.collection.config import CollectConfig
        from lamer_graph.trial.strategies import check_style

        env = self.spec(ui, player)
        known = CollectConfig.model_fields
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name in known}
        said = CollectConfig.sampling_preset(self.sampling)
        said |= {key: value for key, value in given.items() if value not in (None, "auto")}
        style = self.style(player, env)
        said |= {"env": env, "prompt_style": style, "tasks": 1, **self._wording(player, env, style)}
        config = CollectConfig.model_validate({**said, **more})
        check_style(config.prompt_style, config.strategy, config.thoughts)
        config.prompts()
        return config

    def spec(self, ui: Ui, player: Player) -> str:
        """The specification of what is played: as asked, but a name alone means the board of the policy's card.

        A person is told where the card decides, and where it says something else. Raises ConfigError and the
        environment's errors.
        """
        from lamer_envs import make
        from lamer_graph.policies.hub import folder_of
        from lamer_graph.policies.shipped import taught_env

        asked = self._asked()
        taught = None if player.policy is None else taught_env(folder_of(player.policy))
        if taught is not None and taught.partition(":")[0] == asked:
            spec = make(taught).spec
            if spec != asked:
                ui.remark(f"{spec}, the board of the policy's card")
            return spec
        spec = make(asked).spec
        if taught is not None and ":" in taught and taught != spec:  # a card's bare name stands for all its kinds
            ui.remark(f"{spec} is played, the policy's card says {taught}")
        return spec

    def _asked(self) -> str:
        """The specification that was given, narrowed to the wanted kind of task. Raises ConfigError."""
        if self.tasks_type is None:
            return named(self.env)
        if self.env != "alfworld":
            raise ConfigError(
                f"--tasks-type chooses among ALFWorld's tasks; use it with --env alfworld, not {self.env}"
            )
        return f"{self.env}:{self.tasks_type}"

    def style(self, player: Player, env: str) -> Literal["standard", "compact"]:
        """The prompt style: as asked, or the one that the policy's own card names, or standard."""
        if self.prompt_style != "auto":
            return self.prompt_style
        from lamer_graph.policies.shipped import taught_style

        folder = player.folder(env)
        return "standard" if folder is None else taught_style(folder)

    def _wording(self, player: Player, env: str, style: str) -> dict[str, Any]:
        """What the policy's own card says of its prompts besides their style, as far as nothing else was asked for."""
        from lamer_graph.policies.shipped import taught_style, taught_wording

        folder = player.folder(env)
        if folder is None or style != taught_style(folder):
            return {}
        found = taught_wording(folder)
        return {key: value for key, value in found.items() if getattr(self, key, "auto") == "auto"}


@options
@dataclass(frozen=True, kw_only=True)
class Game(Setting):
    """A setting with one memory."""

    contents: Annotated[
        Contents | None,
        typer.Option(
            "--memory",
            rich_help_panel=MEMORY,
            show_default=False,
            help="What an episode sees of the ones before it. Default: reflection, or with --strategy zero_shot none.",
        ),
    ] = None


@options
@dataclass(frozen=True, kw_only=True)
class Effort:
    """How many trials, and how many at once."""

    tasks: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=RUN, help="Tasks, the split's first.")] = 100
    trials: Annotated[int, typer.Option(metavar="M", min=1, rich_help_panel=RUN, help="Trials per task.")] = 1
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, rich_help_panel=RUN, help="Trials played at once, per worker.")
    ] = 64
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, rich_help_panel=RUN, help="Processes that share the trials.")
    ] = 1


S = TypeVar("S", bound=Setting)


def of_task(setting: S, task: str | None) -> S:
    """The setting with an application's tasks, where `--task` names some. Raises ConfigError and EnvParameterError."""
    if task is None:
        return setting
    if setting.env != DEFAULT_ENV or setting.tasks_type is not None:
        raise ConfigError("--task says what is played: leave out --env and --tasks-type")
    return replace(setting, env=own(task).spec)


def as_many(effort: Effort, setting: Setting) -> Effort:
    """The effort, where nothing else was asked for of all the tasks that an application has in the split.

    Raises ConfigError where more are asked for.
    """
    from lamer_envs import make

    count = getattr(make(setting.env), "count", None) if setting.env.startswith("task:") else None
    there = None if count is None else count(setting.split)
    if there is None or effort.tasks <= there:
        return effort
    if effort.tasks != Effort.tasks or there == 0:
        raise ConfigError(
            f"{setting.env} has {there} tasks of split '{setting.split}': give --tasks {max(1, there)}, or another "
            "--split"
        )
    return replace(effort, tasks=there)
