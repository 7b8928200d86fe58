"""Who plays: the options that name a policy, and the policy itself.

What must stay true: `Player.open` is the only place where the command line makes a policy, and everything that can be
wrong with what names it is found before any work.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lamer_graph.cli.frame import options
from lamer_graph.errors import ConfigError

if TYPE_CHECKING:
    from lamer_graph.policies.base import Policy

PLAYER = "Who plays"

TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        metavar="KEY=VALUE",
        rich_help_panel=PLAYER,
        show_default=False,
        help="Argument of the chat template, e.g. enable_thinking=false; may be repeated. Default: as the card says.",
    ),
]


def template_of(given: list[str] | None) -> dict[str, Any] | None:
    """Template arguments from KEY=VALUE texts, values as in JSON or else as text. Raises ConfigError."""
    if not given:
        return None
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise ConfigError(f"--template {text!r} must be KEY=VALUE, e.g. enable_thinking=false")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


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
            help="A model or LoRA adapter folder, a hub id, or the name of one that ships; runs in this process. "
            "Default: what ships for --env.",
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
    template: TemplateOption = None
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            rich_help_panel=PLAYER,
            help="In this process only: the same run repeats bit for bit, at some cost in speed.",
        ),
    ] = False
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(
            rich_help_panel=PLAYER,
            show_default=False,
            help="In this process only: type of the weights. Default: bfloat16 on a GPU, else float32; a CPU with AMX "
            "or AVX-512 BF16 is faster in bfloat16.",
        ),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            rich_help_panel=PLAYER,
            show_default=False,
            help="Of a server only: longest wait for one answer. Default: 60, and 0.1 for each token that it may have.",
        ),
    ] = None

    def folder(self, env: str) -> Path | None:
        """The folder of the in-process policy, None where a server answers. Raises ConfigError."""
        from lamer_graph.policies.hub import folder_of
        from lamer_graph.policies.shipped import is_adapter, is_policy, shipped_policy

        if self.base_url is not None:
            if self.policy is not None:
                raise ConfigError("--policy and --base-url exclude each other: who plays, the folder or the server?")
            if self.deterministic:
                raise ConfigError("--deterministic is for a policy in this process; a server does not promise that")
            if self.dtype is not None:
                raise ConfigError("--dtype is for a policy in this process; a server was started with its own")
            return None
        if self.model is not None:
            raise ConfigError("--model names a model of a server; give the server with --base-url")
        if self.timeout is not None:
            raise ConfigError("--timeout is for a server (--base-url): in this process an answer is waited for")
        if self.policy is None:
            folder = shipped_policy(env)
            if folder is None:
                raise ConfigError(f"no policy is shipped for {env}: say who plays, with --policy DIR or --base-url URL")
            return folder
        named = folder_of(self.policy)
        if not named.is_dir():
            raise ConfigError(
                f"--policy {self.policy} is not a folder; it must hold a model in Hugging Face format, or be a hub id"
            )
        if not is_policy(named) and not is_adapter(named):
            raise ConfigError(
                f"--policy {self.policy} holds no model in Hugging Face format (config.json, tokenizer.json and "
                "model.safetensors), and no adapter (adapter_config.json and adapter_model.safetensors)"
            )
        return named

    def name_of(self, policy: Policy, env: str) -> str:
        """Who plays, for the run's record: the folder's name, or the model that the server was asked for."""
        folder = self.folder(env)
        return folder.resolve().name if folder is not None else str(getattr(policy, "model", ""))

    def folding(self) -> bool | None:
        """Whether a server's prompts have the system's words in the user's message; None: as is found out there."""
        return None

    @asynccontextmanager
    async def open(self, env: str, *, training: bool | None) -> AsyncIterator[Policy]:
        """The policy, checked: a server has answered, a folder is loaded. Raises ConfigError and PolicyError.

        `training` demands exact tokens and logprobs of a server; None asks those for them that are known to give them.
        """
        folder = self.folder(env)
        policy: Policy
        if folder is None:
            from lamer_graph.policies.openai import OpenAIPolicy

            assert self.base_url is not None
            options: dict[str, Any] = {"timeout": self.timeout, "template_args": template_of(self.template)}
            options["fold_system"] = self.folding()
            served = OpenAIPolicy(self.base_url, self.model, training=bool(training), **options)
            policy = await served.connect()
            if training is None:
                served.training = served.gives_tokens
        else:
            from lamer_graph.policies.fingerprint import check_adapter
            from lamer_graph.policies.local import LocalPolicy
            from lamer_graph.policies.shipped import base_of, is_adapter

            base, adapter = (base_of(folder), folder) if is_adapter(folder) else (folder, None)
            if adapter is not None:
                check_adapter(adapter, base)
            template = template_of(self.template)
            how: dict[str, Any] = {"deterministic": self.deterministic, "dtype": self.dtype}
            policy = LocalPolicy(base, adapter=adapter, template_args=template, **how)
        try:
            yield policy
        finally:
            await policy.aclose()
