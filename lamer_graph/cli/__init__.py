"""The command line `lamer-graph`. Nothing imports this package; it may start trainers, lazily, inside its commands.

What must stay true: `lamer-graph --help` starts within a second, so a command imports what it needs when it runs.
`frame` has what all commands share, `options` their common options, one module per command the rest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from lamer_graph.cli import (
    agent,
    collect,
    compare,
    curve,
    doctor,
    env,
    evaluate,
    export,
    gateway,
    import_model,
    log,
    memory,
    new,
    play,
    quickstart,
    report,
    reproduce,
    serve,
    serve_env,
    train,
    warmup,
)
from lamer_graph.cli.frame import REFUSED, escape_what_cannot_be_shown, fail, quiet_libraries

app = typer.Typer(
    name="lamer-graph",
    help="Language agents that learn from their own failed attempts: play, reflect, remember, retry, and be scored.",
    epilog="Start with [bold]lamer-graph quickstart[/]; every command explains itself with [bold]--help[/].",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

PLAYING = (quickstart, play, collect, train, evaluate, compare, curve, reproduce)
OTHERS = (report, log, memory, serve, serve_env, agent, gateway, warmup, import_model, export, new, env, doctor)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("lamer-graph"))
        raise typer.Exit()


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


for module in (*PLAYING, *OTHERS):
    module.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; leaves with SystemExit and the exit codes of `frame`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    quiet_libraries()
    escape_what_cannot_be_shown()
    try:
        if os.environ.get("WORLD_SIZE", "1") != "1" and given[:1] != ["train"]:
            raise typer.BadParameter("only `train` runs as several processes: start this without a launcher")
        code = app(given or ["--help"], prog_name="lamer-graph", standalone_mode=False)
    except typer.TyperException as error:  # bad options: nothing has been started
        try:
            fail(error, REFUSED, as_json="--json" in given, debug="--debug" in given)
        except typer.Exit as leave:
            code = leave.exit_code
    except typer.Abort:
        code = 1
    raise SystemExit(code if isinstance(code, int) else 0)


__all__ = ["app", "main"]
