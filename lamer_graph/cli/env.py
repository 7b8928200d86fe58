"""`lamer-graph env check`: does an environment keep its promises?"""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from lamer_graph.cli.frame import FAILED, Json, Ui, command, warn
from lamer_graph.cli.own import named

SpecArgument = Annotated[
    str,
    typer.Argument(metavar="SPEC", show_default=False, help="E.g. minesweeper:6x6-3, or module:Class of your own."),
]
TasksOption = Annotated[int, typer.Option("--tasks", metavar="N", min=1, help="Tasks that are played.")]
ActionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--action",
        metavar="TEXT",
        show_default=False,
        help="An action to play at random, where the environment lists none; may be repeated.",
    ),
]


def register(app: typer.Typer) -> None:
    env = typer.Typer(help="Look at environments.", rich_markup_mode="rich")
    app.add_typer(env, name="env")

    @command(
        env,
        "check",
        examples=[
            ("lamer-graph env check my_module:Guess", "One of your own, in a module of the current folder."),
            ("lamer-graph env check minesweeper:6x6-3 --tasks 20", "One that is known by name, on more tasks."),
        ],
    )
    def check(ui: Ui, spec: SpecArgument, tasks: TasksOption = 8, action: ActionsOption = None) -> Json:
        """Play an environment and try every promise of its protocol: types, determinism in other processes, purity,
        JSON states, disjoint splits, the expert's wins.

        Exit code 1 names the first promise that is broken, and by what.
        """
        from lamer_envs import EnvCheckError, check_env, make

        made = make(named(spec, look=False))
        ui.working()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                check_env(made, tasks=tasks, actions=tuple(action or ()))
                broken = None
            except EnvCheckError as error:
                broken = str(error)
        told = [str(one.message) for one in caught if one.category is UserWarning]
        for line in told:
            ui.remark(line)
        if broken is None:
            ui.print(f"{made.spec} keeps every promise that was tried")
        else:
            warn(broken)
            ui.exit_code = FAILED
        return {"env": made.spec, "kept": broken is None, "broken": broken, "not_tried": told}
