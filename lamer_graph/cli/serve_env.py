"""`lamer-graph serve-env`: an environment behind an OpenEnv server, for other trainers."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.cli.options import DEFAULT_ENV, EnvOption, HostOption, PortOption
from lamer_graph.errors import ConfigError

INSTALL_HINT = (
    "OpenEnv is not installed: pip install 'lamer-graph[openenv]' in an environment of its own "
    "(it needs version 1 of mcp, vLLM needs version 2)"
)

TurnsOption = Annotated[
    int | None,
    typer.Option("--max-turns", metavar="N", min=1, show_default=False, help="Turn budget. Default: --env's own."),
]
SessionsOption = Annotated[int, typer.Option("--sessions", metavar="N", min=1, help="Most connections at once.")]
IdleOption = Annotated[
    float, typer.Option("--idle", metavar="SECONDS", min=1, help="A silent connection is closed after this.")
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "serve-env",
        examples=[
            ("lamer-graph serve-env --env sokoban:6x6-2 --port 8000", "Any OpenEnv client plays it at this port."),
            ("LAMER_API_KEY=... lamer-graph serve-env --env webshop --host 0.0.0.0", "For other machines."),
        ],
    )
    def serve_env(
        ui: Ui,
        env: EnvOption = DEFAULT_ENV,
        host: HostOption = "127.0.0.1",
        port: PortOption = 8000,
        max_turns: TurnsOption = None,
        sessions: SessionsOption = 64,
        idle: IdleOption = 600.0,
    ) -> Json | None:
        """Serve an environment to other trainers over OpenEnv's protocol until Ctrl-C.

        With --json the document is printed as soon as the server listens. Every connection is a session of its own.
        """
        from lamer_graph.policies.transport import API_KEY_ENV

        try:
            from lamer_envs.openenv import EnvServer
        except ModuleNotFoundError as error:
            raise ConfigError(INSTALL_HINT) from error
        server = EnvServer(
            env,
            host=host,
            port=port,
            api_key=os.environ.get(API_KEY_ENV) or None,
            max_turns=max_turns,
            max_sessions=sessions,
            idle_seconds=idle,
        )
        ui.working()
        ui.emit({"base_url": server.base_url, "env": env, "sessions": sessions})
        ui.print(f"[green]{env}[/] is served at {server.base_url}; Ctrl-C stops it")
        try:
            server.run()
        except KeyboardInterrupt:
            ui.note("stopped")
        return None
