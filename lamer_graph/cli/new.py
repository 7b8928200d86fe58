"""`lamer-graph new`: a project to begin with, for an environment, a memory backend or tasks of your own."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Literal, get_args

import typer

from lamer_graph.cli.checks import check_new
from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.errors import ConfigError

Kind = Literal["env", "memory", "task"]
NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
LONGEST = 40

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", show_default=False, help="In small letters, e.g. my-maze.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", show_default=False, help="Its folder. Default: NAME, in the current one."),
]
MAKES = {
    "env": "An environment that is registered by name, with the test that tries every promise of the protocol.",
    "memory": "A memory backend that is registered by name, with the conformance suite.",
    "task": "Tasks, tools and a grade for an agent, with a run file to train it.",
}


def register(app: typer.Typer) -> None:
    new = typer.Typer(help="Begin a project of your own.", rich_markup_mode="rich")
    app.add_typer(new, name="new")
    for kind in get_args(Kind):
        _register(new, kind)


def _register(app: typer.Typer, kind: Kind) -> None:
    def make(ui: Ui, name: NameArgument, out: OutOption = None) -> Json:
        folder = out or Path(name)
        made = write_project(kind, name, folder)
        ui.print(f"{folder}: {', '.join(made)}")
        ui.print(f"next: cd {folder} && python -m pytest, then README.md")
        return {"out": str(folder), "files": made}

    make.__doc__ = MAKES[kind]
    examples = [(f"lamer-graph new {kind} my-{kind}", "A folder of four or five files, whose test passes.")]
    command(app, kind, examples=examples)(make)


def write_project(kind: Kind, name: str, folder: Path) -> list[str]:
    """Write the files of a new project into the new `folder`; their names. Raises ConfigError before anything."""
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise ConfigError(f"a project is named in small letters, digits and hyphens, like my-maze, not {name[:60]!r}")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in ("conftest", "test"):
        raise ConfigError(f"'{name}' is Python's own word or module: choose another name")
    if module.startswith("lamer_"):
        raise ConfigError(f"'{name}' would hide a package of ours: choose another name")
    if module in _registered(kind):
        raise ConfigError(f"'{name}' is registered already, and yours could not be found under it: choose another name")
    check_new(folder, "choose another name, or another folder with --out")
    words = {
        "project": name.replace("_", "-"),
        "module": module,
        "Class": "".join(part.capitalize() for part in module.split("_")),
    }
    texts = {}
    for file in sorted(files("lamer_graph.cli").joinpath("templates", kind).iterdir(), key=lambda one: one.name):
        own = file.name.removesuffix(".tmpl").replace("module", module)
        texts[own] = Template(file.read_text(encoding="utf-8")).substitute(words)
    folder.mkdir(parents=True, exist_ok=True)
    for own, text in texts.items():
        (folder / own).write_text(text, encoding="utf-8")
    return list(texts)


def _registered(kind: Kind) -> list[str]:
    """The names that a plug-in of this kind cannot have."""
    from lamer_envs import names
    from lamer_memory.config import backend_names

    return {"env": names, "memory": backend_names, "task": list[str]}[kind]()
