"""The options that `play`, `collect`, `eval` and `quickstart` share, and what they come to.

What must stay true: an option means the same in every command that has it, and everything that can be wrong with it is
found here, before any work. `open_policy` is the only place where the command line makes a policy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lamer_graph.cli.frame import Ui, options
from lamer_graph.errors import ConfigError

if TYPE_CHECKING:
    from lamer_graph.collection.config import CollectConfig
    from lamer_graph.policies.base import Policy

PLAYER, GAME, MEMORY, RUN = "Who plays", "What is played", "Memory", "The run"

DEFAULT_ENV = "minesweeper:4x4-3"

EnvOption = Annotated[
    str,
    typer.Option(
        "--env", metavar="SPEC", rich_help_panel=GAME, help="Environment, e.g. minesweeper:6x6-3 or sokoban:6x6-1."
    ),
]
MemoryUrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=MEMORY,
        show_default=False,
        help="A Chroma server (http://host:port, see `chroma run`), or postgresql://user@host/database.",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="S", rich_help_panel=GAME, help="Seeds the sampling of every policy call.")
]


@options
@dataclass(frozen=True, kw_only=True)
class Player:
    """Where the answers come from: a folder (in process), or a server."""

    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=PLAYER,
            show_default=False,
            help="A model or LoRA adapter folder, run in this process. Default: the policy shipped for --env.",
        ),
    ] = None
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            rich_help_panel=PLAYER,
            show_default=False,
            help="A running vLLM (or other OpenAI-compatible) server; its API key is read from LAMER_API_KEY.",
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=PLAYER,
            show_default=False,
            help="Which of the server's models or adapters answers. Default: its only one.",
        ),
    ] = None
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            rich_help_panel=PLAYER,
            help="In this process only: the same run repeats bit for bit, at some cost in speed.",
        ),
    ] = False
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, rich_help_panel=PLAYER, help="Longest wait for one answer.")
    ] = 60.0

    def folder(self, env: str) -> Path | None:
        """The folder of the in-process policy, None where a server answers. Raises ConfigError."""
        from lamer_graph.policies.shipped import is_adapter, is_policy, shipped_policy

        if self.base_url is not None:
            if self.policy is not None:
                raise ConfigError("--policy and --base-url exclude each other: who plays, the folder or the server?")
            if self.deterministic:
                raise ConfigError("--deterministic is for a policy in this process; a server does not promise that")
            return None
        if self.model is not None:
            raise ConfigError("--model names a model of a server; give the server with --base-url")
        if self.policy is None:
            folder = shipped_policy(env)
            if folder is None:
                raise ConfigError(f"no policy is shipped for {env}: say who plays, with --policy DIR or --base-url URL")
            return folder
        if not self.policy.is_dir():
            raise ConfigError(f"--policy {self.policy} is not a folder; it must hold a model in Hugging Face format")
        if not is_policy(self.policy) and not is_adapter(self.policy):
            raise ConfigError(
                f"--policy {self.policy} holds no model in Hugging Face format (config.json, tokenizer.json and "
                "model.safetensors), and no adapter (adapter_config.json and adapter_model.safetensors)"
            )
        return self.policy

    def name_of(self, policy: Policy, env: str) -> str:
        """Who plays, for the run's record: the folder's name, or the model that the server was asked for."""
        folder = self.folder(env)
        return folder.resolve().name if folder is not None else str(getattr(policy, "model", ""))

    @asynccontextmanager
    async def open(self, env: str, *, training: bool) -> AsyncIterator[Policy]:
        """The policy, checked: a server has answered, a folder is loaded. Raises ConfigError and PolicyError.

        `training` demands exact tokens and logprobs of a server.
        """
        folder = self.folder(env)
        policy: Policy
        if folder is None:
            from lamer_graph.policies.openai import OpenAIPolicy

            assert self.base_url is not None
            policy = await OpenAIPolicy(self.base_url, self.model, timeout=self.timeout, training=training).connect()
        else:
            from lamer_graph.policies.fingerprint import check_adapter
            from lamer_graph.policies.local import LocalPolicy
            from lamer_graph.policies.shipped import base_of, is_adapter

            base, adapter = (base_of(folder), folder) if is_adapter(folder) else (folder, None)
            if adapter is not None:
                check_adapter(adapter, base)
            policy = LocalPolicy(base, adapter=adapter, deterministic=self.deterministic, timeout=self.timeout)
        try:
            yield policy
        finally:
            await policy.aclose()


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
            help="Environment, e.g. minesweeper:6x6-3 or sokoban:6x6-1; a name alone: as --policy's card says.",
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
    episodes: Annotated[
        int, typer.Option(metavar="N", min=1, rich_help_panel=GAME, help="Attempts per trial, at most.")
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
    sampling: Annotated[
        Literal["train", "paper"],
        typer.Option(rich_help_panel=GAME, help="train: temperature 1, nothing cut; paper: 0.7, top-p 0.8, top-k 20."),
    ] = "train"
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, rich_help_panel=GAME, help="Tokens per answer, at most.")
    ] = 512
    seed: SeedOption = 0

    def config_of(
        self,
        ui: Ui,
        player: Player,
        contents: str,
        *,
        tasks: int = 1,
        trials: int = 1,
        shuffle_reflections: bool = False,
        **memory: Any,
    ) -> CollectConfig:
        """The run's configuration, but for who plays. Raises ConfigError, the environment's errors and pydantic's."""
        from lamer_graph.collection.config import CollectConfig

        env = self.spec(ui, player)
        settings: dict[str, Any] = CollectConfig.sampling_preset(self.sampling)
        return CollectConfig(
            env=env,
            split=self.split,
            tasks=tasks,
            trials=trials,
            max_episodes=self.episodes,
            max_turns=self.max_turns,
            contents=contents,  # type: ignore[arg-type]  # pydantic checks it
            prompt_style=self.style(player, env),
            history=self.history,
            max_tokens=self.max_tokens,
            seed=self.seed,
            shuffle_reflections=shuffle_reflections,
            **settings,
            **memory,
        )

    def spec(self, ui: Ui, player: Player) -> str:
        """The specification of what is played: as asked, but a name alone means the board of the policy's card.

        A person is told where the card decides, and where it says something else. Raises ConfigError and the
        environment's errors.
        """
        from lamer_envs import make
        from lamer_graph.policies.shipped import taught_env

        asked = self._asked()
        taught = None if player.policy is None else taught_env(player.policy)
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
            return self.env
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


@options
@dataclass(frozen=True, kw_only=True)
class Game(Setting):
    """A setting with one memory."""

    memory: Annotated[
        Literal["none", "trajectory", "reflection", "both"],
        typer.Option(rich_help_panel=MEMORY, help="What an episode sees of the ones before it."),
    ] = "reflection"

    def config(self, ui: Ui, player: Player, **more: Any) -> CollectConfig:
        """`config_of` with the contents asked for."""
        return self.config_of(ui, player, self.memory, **more)


Scope = Literal["trial", "tasks"]


@options
@dataclass(frozen=True, kw_only=True)
class Store:
    """What other trials leave behind: how much of it is shown, and what it is filled with."""

    memory_url: MemoryUrlOption = None
    k: Annotated[
        int | None,
        typer.Option(
            "--k",
            metavar="K",
            min=1,
            rich_help_panel=MEMORY,
            show_default=False,
            help="With scope tasks: how many records of other tasks are shown. Default: 3.",
        ),
    ] = None
    outcomes: Annotated[
        Literal["any", "solved", "failed", "balanced"],
        typer.Option(
            "--outcomes",
            rich_help_panel=MEMORY,
            help="With scope tasks: show only what led to a success, only what failed, or as much of both.",
        ),
    ] = "any"
    embedder: Annotated[
        str,
        typer.Option(
            "--embedder",
            metavar="NAME",
            rich_help_panel=MEMORY,
            help="With scope tasks: what tasks are compared by: hashing, minilm or URL#MODEL.",
        ),
    ] = "hashing"
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=MEMORY,
            show_default=False,
            help="With scope tasks: fill the memory with this run's, or this Chroma directory's; it is only read.",
        ),
    ] = None
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            rich_help_panel=MEMORY,
            help="With scope tasks: see also what other trials of this run have written. Default: what it began with.",
        ),
    ] = False

    def settings(self, backend: str, scope: str) -> dict[str, Any]:
        """The fields of a run's configuration for this backend and scope; what only scope tasks has is left out of the
        other. Raises ConfigError."""
        if backend == "store" and self.memory_url is None:
            raise ConfigError("--backend store needs --memory-url postgresql://user@host/database")
        if (
            backend == "chroma"
            and self.memory_url is not None
            and not self.memory_url.startswith(("http://", "https://"))
        ):
            raise ConfigError(f"--memory-url of a Chroma server begins with http://, not {self.memory_url!r}")
        found: dict[str, Any] = {"backend": backend, "scope": scope}
        if backend != "in-context" and self.memory_url is not None:
            found["backend"] = f"{backend}:{self.memory_url}"
        if scope == "tasks":
            if self.k is not None:
                found["k"] = self.k
            if self.store is not None:
                found["store"] = str(self.store.resolve())
            found["visible"] = "live" if self.live else "frozen"
            found["outcomes"] = self.outcomes
            if backend.partition(":")[0] in ("chroma", "store"):
                found["embedder"] = self.embedder
        return found

    def check(self, backends: Collection[str], scopes: Collection[str], filled: bool = False) -> None:
        """Refuse options that would do nothing. Raises ConfigError. `filled` says that a store is made for the run."""
        if self.memory_url is not None and set(backends) <= {"in-context"}:
            raise ConfigError(
                "--memory-url is the address of a store; in-context memory has none: use --backend chroma"
            )
        about_tasks = {
            "--k": self.k is not None,
            "--outcomes": self.outcomes != "any",
            "--embedder": self.embedder != "hashing",
            "--store": self.store is not None,
            "--live": self.live,
            "--warm": filled,
        }
        for name, given in about_tasks.items():
            if given and "tasks" not in scopes:
                raise ConfigError(f"{name} is about the memory of other tasks: use it with --scope tasks")
        if self.embedder != "hashing" and not {"chroma", "store"} & {backend.partition(":")[0] for backend in backends}:
            raise ConfigError("--embedder is what a store compares tasks by: use it with --backend chroma or store")
        if filled and self.store is not None:
            raise ConfigError("--warm and --store exclude each other: what is the memory filled with?")
        if self.store is not None:
            from lamer_graph.collection.run_memory import check_source

            check_source(self.store)


@options
@dataclass(frozen=True, kw_only=True)
class Place(Store):
    """One backend and one scope."""

    backend: Annotated[
        Literal["in-context", "chroma", "store"],
        typer.Option(
            rich_help_panel=MEMORY, help="in-context: this process; chroma: RUN/memory, or a server; store: PostgreSQL."
        ),
    ] = "in-context"
    scope: Annotated[
        Scope,
        typer.Option(rich_help_panel=MEMORY, help="trial: a trial's own episodes; tasks: also those of similar tasks."),
    ] = "trial"

    def chosen(self, filled: bool = False) -> dict[str, Any]:
        """The memory fields of the run's configuration. Raises ConfigError."""
        self.check([self.backend], [self.scope], filled)
        return self.settings(self.backend, self.scope)


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
