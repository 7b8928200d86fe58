"""`lamer-graph agent serve`: a whole agent behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamer_graph.cli.frame import Json, Ui, command, options
from lamer_graph.cli.memory_options import Place
from lamer_graph.cli.options import PLAYED, Game, HostOption, Player, PortOption
from lamer_graph.cli.own import imported
from lamer_graph.errors import ConfigError, MissingLibraryError

if TYPE_CHECKING:
    from lamer_graph.web.agent.served import Served


@options
@dataclass(frozen=True, kw_only=True)
class Front:
    """What is served, and to whom."""

    app: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME",
            show_default=False,
            help="A compiled LangGraph graph over messages, such as with_retries(..), or a function that makes one.",
        ),
    ] = None
    name: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="The model's name. Default: the app's.")
    ] = None
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help='JSON of users and their keys, {"anna": "KEY"}; memory and threads are each user\'s own. Default: one '
            "user, with the key of LAMER_API_KEY, or on this machine without any.",
        ),
    ] = None
    threads: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="SQLite file that keeps an app's conversations by thread id. Default: the app's own checkpointer, or "
            "no threads.",
        ),
    ] = None
    host: HostOption = "127.0.0.1"
    port: PortOption = 8200
    request_timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Longest work on one request.")] = (
        600.0
    )


def register(app: typer.Typer) -> None:
    agent = typer.Typer(help="Serve a whole agent, with its retries and its memory.", rich_markup_mode="rich")
    app.add_typer(agent, name="agent")

    @command(
        agent,
        "serve",
        main=("--app", "--threads", "--keys", "--host", "--port", *PLAYED, "--backend", "--scope"),
        examples=[
            (
                "lamer-graph agent serve --app my_app:app --threads threads.sqlite",
                "Any OpenAI client asks it at http://127.0.0.1:8200/v1, an MCP client at http://127.0.0.1:8200/mcp.",
            ),
            (
                "lamer-graph agent serve --app my_app:app --keys keys.json --host 0.0.0.0",
                "For several users, on other machines; each has a memory and threads of their own.",
            ),
            (
                "lamer-graph agent serve --policy examples/policies/minesweeper-5x5-trained",
                'A policy that plays: ask it for {"seed": 7}.',
            ),
        ],
    )
    def serve(
        ui: Ui,
        front: Front,
        player: Player,
        game: Game,
        place: Place,
    ) -> Json | None:
        """Serve an agent as if it were a model, until Ctrl-C: /v1/chat/completions, /v1/models, and MCP at /mcp.

        A request is a task; the agent tries, reflects and tries again, and its last answer comes back. A stream tells
        what it does as reasoning on the way. A thread is named by the header X-Thread-Id or metadata.thread_id. With
        --json the document is printed as soon as the server listens. A policy plays anew for every request; with --seed
        above 0 it draws the same each time.
        """
        if front.app is None and front.threads is not None:
            raise ConfigError("--threads keeps conversations of an app: use it with --app")
        if front.app is not None and (player, game, place) != (Player(), Game(), Place()):
            raise ConfigError("--app brings its own policy, tasks and memory: leave out the options about those")
        asyncio.run(_serve(ui, front, _player(ui, player, game, place, front) if front.app is None else _app(front)))
        return None


async def _serve(ui: Ui, front: Front, found: AbstractAsyncContextManager[Served]) -> None:
    from lamer_graph.web.agent.app import AgentServer
    from lamer_graph.web.agent.users import Users
    from lamer_graph.web.listening import Listening

    users = Users.of(front.keys)
    async with found as served:
        server = AgentServer(served, users, timeout=front.request_timeout)
        listening = Listening(server.app, front.host, front.port, keyed=users.keyed)
        ui.working()
        base_url = f"{listening.base_url}/v1"
        ui.emit({"base_url": base_url, "model": served.name, "mcp": f"{listening.base_url}/mcp", "users": len(users)})
        ui.print(f"[green]{served.name}[/] answers at {base_url}, as a tool at {listening.base_url}/mcp")
        ui.print(
            f"{len(users)} user(s) with keys" if users.keyed else "no key is asked for: programs here are one user"
        )
        ui.print("Ctrl-C stops it")
        await listening.serve()
        ui.note("stopped")


@asynccontextmanager
async def _app(front: Front) -> AsyncIterator[Served]:
    """An app that a person named as "module:name". Raises ConfigError."""
    from lamer_graph.web.agent.served import ServedApp

    path, threads = str(front.app), front.threads
    found = imported(path)
    if callable(found) and not hasattr(found, "astream"):
        try:
            found = found()
        except TypeError as error:
            raise ConfigError(f"{path} is a function that makes no graph by itself: {error}") from None
    title = front.name or getattr(found, "name", None) or path.partition(":")[2]
    if threads is None:
        yield ServedApp(found, title)
        return
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ImportError as error:
        raise MissingLibraryError(
            f"--threads is kept by LangGraph's SQLite saver, which is not here ({error}): "
            "pip install 'lamer-graph[checkpoint]'"
        ) from None
    threads.parent.mkdir(parents=True, exist_ok=True)
    async with AsyncSqliteSaver.from_conn_string(str(threads)) as saver:
        await saver.setup()
        yield ServedApp(found, title, saver)


@asynccontextmanager
async def _player(ui: Ui, player: Player, game: Game, place: Place, front: Front) -> AsyncIterator[Served]:
    """A policy that plays an environment. Raises what cannot be played."""
    from lamer_graph.agent import compile_agent
    from lamer_graph.cli.running import preflight
    from lamer_graph.collection.run_memory import open_memory
    from lamer_graph.web.agent.served import ServedPlayer

    if game.split != Game.split or place.store is not None or place.live:
        raise ConfigError("--split, --store and --live are about runs: a request names its task, and memory is live")
    chosen: dict[str, Any] = place.chosen(live=True)
    if chosen.get("backend") == "chroma":
        raise ConfigError("--backend chroma needs --memory-url here: a Chroma server, or a directory (./memory)")
    config = game.config(ui, player, **chosen)
    place.check_kept(config.contents)
    if config.env.startswith("task:"):
        raise ConfigError("an application's tasks are served as its app: --app module:name of with_retries(..)")
    async with player.open(config.env, training=False) as policy:
        config = config.model_copy(update={"policy": player.name_of(policy, config.env)})
        await preflight(config, policy)
        with closing(open_memory(config)) as backend:
            agent = compile_agent(config.harness(policy, backend))
            yield ServedPlayer(agent, config.env, front.name or config.policy, game.seed or None)
