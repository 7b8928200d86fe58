"""The options about where memory lies and what of other tasks is seen, shared by `collect`, `eval` and `compare`.

What must stay true: an option that would do nothing beside the others is refused by its name, before any work.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lamer_graph.cli.frame import options
from lamer_graph.cli.options import MEMORY
from lamer_graph.errors import ConfigError
from lamer_memory import Lessons, Outcomes, Scope, Select
from lamer_memory.utility import check_share

MemoryUrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=MEMORY,
        show_default=False,
        help="A Chroma server (http://host:port, see `chroma run`) or directory (/DIR or ./DIR), or "
        "postgresql://user@host/database; runs may share it.",
    ),
]

WarmOption = Annotated[
    int,
    typer.Option(
        "--warm",
        metavar="N",
        min=0,
        rich_help_panel=MEMORY,
        help="With scope tasks: first play N tasks of the train split, whose memory the run begins with.",
    ),
]

MeasureOption = Annotated[
    int,
    typer.Option(
        "--measure",
        metavar="N",
        min=0,
        rich_help_panel=MEMORY,
        help="With --warm: then play N more tasks of the train split, four trials each, of which two see nothing of "
        "other tasks, to measure what the records are worth.",
    ),
]

NOTHING_SEEN = (
    "is about records of other tasks, and this run would begin with none and see no new ones: fill its memory with "
    "--store RUN (eval, compare: --warm N), or use --live"
)
MEASURE_WARM = "--measure plays tasks to see what a memory is worth: fill it first, with --warm N"

Backend = Literal["in-context", "chroma", "store"]


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
        Outcomes,
        typer.Option(
            "--outcomes",
            rich_help_panel=MEMORY,
            help="With scope tasks: show only what led to a success, only what failed, or as much of both.",
        ),
    ] = "any"
    control: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            rich_help_panel=MEMORY,
            help="With scope tasks: hold other tasks' records back from this share of each task's trials (see --trials)"
            ", so that what they are worth can be measured.",
        ),
    ] = 0.0
    lessons: Annotated[
        Lessons,
        typer.Option(rich_help_panel=MEMORY, help="With scope tasks: all asks for a reflection after a won trial too."),
    ] = "failed"
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
        url = self.memory_url
        if backend == "chroma" and url is not None and not url.startswith(("http://", "https://")):
            if not url.startswith(("/", "./", "../", "~")):
                raise ConfigError(
                    f"--memory-url of a Chroma server begins with http://, a directory with / or ./, not {url!r}"
                )
            url = str(Path(url).expanduser().resolve())
        found: dict[str, Any] = {"backend": backend, "scope": scope}
        if backend != "in-context" and url is not None:
            found["backend"] = f"{backend}:{url}"
        if scope == "tasks":
            if self.k is not None:
                found["k"] = self.k
            if self.store is not None:
                found["store"] = str(self.store.resolve())
            found["visible"] = "live" if self.live else "frozen"
            found["outcomes"] = self.outcomes
            found["control"] = self.control
            found["lessons"] = self.lessons
            if backend.partition(":")[0] in ("chroma", "store"):
                found["embedder"] = self.embedder
        return found

    def check(
        self, backends: Collection[str], scopes: Collection[str], filled: bool = False, live: bool = False
    ) -> None:
        """Refuse options that would do nothing. Raises ConfigError. `filled` says that a store is made for the run,
        `live` that its trials see each other's records anyhow."""
        if self.memory_url is not None and set(backends) <= {"in-context"}:
            raise ConfigError(
                "--memory-url is the address of a store; in-context memory has none: use --backend chroma"
            )
        about_tasks = {
            "--k": self.k is not None,
            "--outcomes": self.outcomes != "any",
            "--control": self.control > 0,
            "--lessons": self.lessons != "failed",
            "--embedder": self.embedder != "hashing",
            "--store": self.store is not None,
            "--live": self.live,
            "--warm": filled,
        }
        for name, given in about_tasks.items():
            if given and "tasks" not in scopes:
                raise ConfigError(f"{name} is about the memory of other tasks: use it with --scope tasks")
        check_share(self.control)
        if "tasks" in scopes and self.control and not (filled or live or self.store is not None or self.live):
            raise ConfigError("--control " + NOTHING_SEEN)
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
        Backend,
        typer.Option(
            rich_help_panel=MEMORY, help="in-context: this process; chroma: RUN/memory, or a server; store: PostgreSQL."
        ),
    ] = "in-context"
    scope: Annotated[
        Scope,
        typer.Option(rich_help_panel=MEMORY, help="trial: a trial's own episodes; tasks: also those of similar tasks."),
    ] = "trial"

    select: Annotated[
        Select,
        typer.Option(
            rich_help_panel=MEMORY,
            help="With scope tasks: show the most similar records, those of the highest measured value, or (ucb) both "
            "weighed, and new ones tried.",
        ),
    ] = "similar"

    def check_kept(self, contents: str) -> None:
        """Refuse, for a new run, a place for nothing. Raises ConfigError."""
        if contents == "none" and self.backend != "in-context":
            raise ConfigError(f"--memory none and --backend {self.backend} exclude each other: nothing is remembered")

    def chosen(self, filled: bool = False, live: bool = False) -> dict[str, Any]:
        """The memory fields of the run's configuration; see `check`. Raises ConfigError."""
        self.check([self.backend], [self.scope], filled, live)
        if self.select != "similar" and self.scope != "tasks":
            raise ConfigError("--select is about the memory of other tasks: use it with --scope tasks")
        if self.select != "similar" and not (filled or live or self.store is not None or self.live):
            raise ConfigError("--select " + NOTHING_SEEN)
        found = self.settings(self.backend, self.scope)
        return {**found, "select": self.select} if self.scope == "tasks" else found
