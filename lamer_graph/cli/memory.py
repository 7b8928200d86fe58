"""`lamer-graph memory stats|top|search|export|import|prune|reindex`: look after a store that outlives its runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from lamer_graph.cli.frame import Json, Ui, command, options
from lamer_graph.cli.shown import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from lamer_memory import MemoryBackend
    from lamer_memory.base import Namespace

SHOWN_CHARS = 300
STDIO = Path("-")

StoreArgument = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="A Chroma directory, the URL of a Chroma server, postgresql://.. of a LangGraph store, or the folder of a "
        "run that has one of them.",
        show_default=False,
    ),
]
EMBEDDERS = "hashing, hashing:DIMENSIONS, minilm or URL#MODEL."
EmbedderOption = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        metavar="NAME",
        help=f"{EMBEDDERS} Default: what filled the directory; hashing for a server.",
        show_default=False,
    ),
]
NewEmbedderOption = Annotated[str, typer.Option("--embedder", metavar="NAME", help=EMBEDDERS)]
CollectionOption = Annotated[str, typer.Option("--collection", metavar="NAME", help="Collection in Chroma.")]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        metavar="A/B",
        help="Only namespaces that begin with these labels, separated by slashes.",
        show_default=False,
    ),
]
QueryArgument = Annotated[str, typer.Argument(metavar="TEXT", help="What to look for.", show_default=False)]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=1000, help="Records per namespace.")]
WorstOption = Annotated[bool, typer.Option("--worst", help="The other end: what costs most.")]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write; - is stdout.")]
InArgument = Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines; - is stdin.", show_default=False)]
BudgetOption = Annotated[
    int | None, typer.Option("--max-records", min=0, help="Budget of each namespace.", show_default=False)
]
NearOption = Annotated[
    float, typer.Option("--near", min=0.0, max=1.0, help="Overlap from which texts are near-duplicates; 0 keeps them.")
]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would go; change nothing.")]

DEFAULT_COLLECTION = "lamer-memory"


@options
@dataclass(frozen=True, kw_only=True)
class Target:
    """A store, and which of its namespaces are looked at."""

    store: StoreArgument
    namespace: NamespaceOption = None
    embedder: EmbedderOption = None
    collection: CollectionOption = DEFAULT_COLLECTION

    def place(self) -> tuple[str, Namespace]:
        """Where the store is, and which labels its namespaces begin with: of a run's folder that run's memory, and its
        records. Raises ConfigError."""
        labels = tuple(self.namespace.split("/")) if self.namespace else ()
        folder = Path(self.store)
        if not (folder / "run.json").exists() or (folder / "chroma.sqlite3").exists():
            return self.store, labels
        from lamer_graph.collection.run_memory import check_source
        from lamer_graph.errors import ConfigError

        if (folder / "collected").is_dir():
            last = max((folder / "collected").glob("update-*"), default=None, key=lambda place: place.name)
            raise ConfigError(
                f"{folder} is a training run, of which each update has a memory of its own: name one, such as {last}"
            )
        name, own = check_source(folder)
        if not name:
            raise ConfigError(f"{folder} is no run of collect or eval: its memory is not known by its folder")
        return name.partition(":")[2], labels or own

    @property
    def labels(self) -> Namespace:
        return self.place()[1]

    def namespaces(self, backend: MemoryBackend, ledgers: bool = False) -> list[Namespace]:
        from lamer_memory.hygiene import all_namespaces

        return all_namespaces(backend, self.labels, ledgers=ledgers)

    @contextmanager
    def opened(self, *, make: bool = False, read_only: bool = False) -> Iterator[MemoryBackend]:
        """Its backend; a directory without one is refused unless `make`, and untouched if `read_only`."""
        from lamer_graph.errors import ConfigError

        (store, _), embedder = self.place(), self.embedder
        if store.startswith(("postgresql://", "postgres://")):
            from lamer_memory.store import StoreMemory

            if self.collection != DEFAULT_COLLECTION:
                raise ConfigError("--collection is Chroma's: a LangGraph store has none")
            backend: MemoryBackend = StoreMemory(store, embedder=embedder, read_only=read_only)
        else:
            from lamer_memory.chroma.client import DATABASE_FILE, MARK_FILE, is_url
            from lamer_memory.chroma.memory import ChromaMemory

            known = is_url(store) or (Path(store) / DATABASE_FILE).exists() or (Path(store) / MARK_FILE).exists()
            if not known and not make:
                raise ConfigError(f"{store} holds no memory: there is no {DATABASE_FILE}")
            if is_url(store) or not known:
                embedder = embedder or "hashing"
            backend = ChromaMemory(store, embedder=embedder, collection=self.collection, retry_s=3, read_only=read_only)
        try:
            yield backend
        finally:
            backend.close()


def register(app: typer.Typer) -> None:
    memory = typer.Typer(help="Look into a memory store and keep it useful.", rich_markup_mode="rich")
    app.add_typer(memory, name="memory")
    _reading(memory)
    _writing(memory)


def _reading(memory: typer.Typer) -> None:
    @command(memory, "stats", examples=[("lamer-graph memory stats runs/memory", "What each namespace holds.")])
    def stats(ui: Ui, target: Target) -> Json:
        """How many records each namespace holds, of which kind, from how many tasks, how many of them successful.

        Valued are those whose worth was measured (--control, --select), harmful those that surely cost something.
        """
        from rich.markup import escape

        from lamer_memory import hygiene

        with target.opened(read_only=True) as backend:
            ui.working()
            found = [hygiene.stats(backend, name) for name in target.namespaces(backend)]
        measured = any(one.valued for one in found)
        more = ("valued", "harmful") if measured else ()
        table = _table("namespace", "records", "reflect.", "traject.", "solved", "tasks", "chars", *more)
        for one in found:
            numbers: tuple[int, ...] = (one.records, one.reflections, one.trajectories, one.successes, one.tasks)
            numbers += (one.chars, one.valued, one.harmful) if measured else (one.chars,)
            table.add_row(escape(_shown(one.namespace)), *(f"{number:,}" for number in numbers))
        ui.print(table)
        return {
            "store": target.store,
            "records": sum(one.records for one in found),
            "namespaces": [one.to_json() for one in found],
        }

    @command(
        memory,
        "search",
        examples=[("lamer-graph memory search runs/memory 'box in a corner'", "The most similar records.")],
    )
    def search(ui: Ui, target: Target, text: QueryArgument, limit: LimitOption = 5) -> Json:
        """The records most similar to a text, in each namespace.

        Compared is what a record is about, as its task first looked; the words of those that do not say.
        """
        from rich.markup import escape

        found = []
        with target.opened(read_only=True) as backend:
            ui.working()
            for name in target.namespaces(backend):
                for record, score in backend.search(name, query=text, limit=limit):
                    found.append({"namespace": list(name), "score": score, "record": record.to_json()})
                    mark = "" if score is None else f" {score:.2f}"
                    ui.print(f"[bold]{escape(_shown(name))}[/]{mark} {escape(_plain(record.key))}")
                    ui.print(escape(_plain(record.text)))
        ui.print(f"{len(found)} records")
        if found and all(one["score"] is None for one in found):
            ui.print("the newest, not the nearest: this store keeps no vectors (see: lamer-graph memory reindex)")
        return {"store": target.store, "query": text, "found": found}

    @command(
        memory,
        "top",
        examples=[
            ("lamer-graph memory top runs/memory", "The records that help most."),
            ("lamer-graph memory top runs/memory --worst --limit 20", "Those that cost most."),
        ],
    )
    def top(ui: Ui, target: Target, limit: LimitOption = 10, worst: WorstOption = False) -> Json:
        """What records are worth: what trials that saw them came to, minus what trials came to that did not.

        Measured where runs hold some trials back (--control); else what they came to beside other tasks', which is
        marked, because what a record is shown to is in it. Outcomes go from 1 for a trial that was won at once to 0 for
        one that was lost, ± is a 95 % interval. The order is by what is expected: little evidence counts for little.
        """
        from rich.markup import escape

        from lamer_memory import hygiene

        found, alone = [], False
        with target.opened(read_only=True) as backend:
            ui.working()
            for name in target.namespaces(backend):
                table = _table("expected", "measured", "seen by", "not by", "record", title=escape(_shown(name)))
                for record, value, expected in hygiene.top(backend, name, limit, worst=worst):
                    alone = alone or not value.controlled
                    counts = (f"{value.shown.n:.0f}", f"{value.held.n:.0f}" if value.controlled else "-")
                    key = f"{'harms: ' if value.harms else ''}{escape(_plain(record.key))}"
                    measured = f"{value.mean:+.3f} ± {1.96 * value.error:.3f}"
                    table.add_row(f"{expected:+.3f}", measured, *counts, f"{key}\n{escape(_plain(record.text))}")
                    worth: Json = {"expected": expected, "mean": value.mean, "error": value.error}
                    worth |= {"controlled": value.controlled, "harms": value.harms}
                    seen = {"shown": value.shown.n, "held": value.held.n}
                    found.append({"namespace": list(name), "value": {**worth, **seen}, "record": record.to_json()})
                if table.rows:
                    ui.print(table)
        if alone:
            ui.print(
                "-: held back from nobody, so it was compared with what is usual, and what it was shown to is in it"
            )
        if not found:
            ui.print(
                "no values here: they are noted when a run with --control or --select ends (--resume one that was cut "
                "short), or as trials end where it is --live"
            )
        return {"store": target.store, "found": found}

    @command(
        memory,
        "export",
        examples=[("lamer-graph memory export runs/memory --out memory.jsonl", "All records as JSON lines.")],
    )
    def export(ui: Ui, target: Target, out: OutOption = STDIO) -> Json | None:
        """Write records as JSON lines, oldest first in each namespace; `import` reads them back.

        To stdout the lines are the document, with and without --json.
        """
        from lamer_graph.runlog import replacing
        from lamer_memory import hygiene

        with target.opened(read_only=True) as backend:
            names = target.namespaces(backend, ledgers=True)
            if out == STDIO:
                ui.working()
                hygiene.export_records(backend, names, sys.stdout)
                return None
            with replacing(out) as fresh, fresh.open("w", encoding="ascii") as file:
                ui.working()
                count = hygiene.export_records(backend, names, file)
        ui.print(f"{count:,} records written to {out}")
        return {"store": target.store, "out": str(out), "records": count}


def _writing(memory: typer.Typer) -> None:
    @command(
        memory,
        "import",
        examples=[("lamer-graph memory import http://localhost:8000 memory.jsonl", "Move records to a server.")],
    )
    def import_(ui: Ui, target: Target, file: InArgument) -> Json:
        """Write the records of an export into a store, which is made if there is none; the same key replaces.

        With --namespace they are placed below it.
        """
        from lamer_graph.errors import ConfigError
        from lamer_memory import MemoryImportError, hygiene

        def read(lines: IO[str]) -> int:
            with target.opened(make=True) as backend:
                ui.working()
                return hygiene.import_records(backend, lines, under=target.labels)

        try:
            if file == STDIO:
                count = read(sys.stdin)
            else:
                with file.open(encoding="utf-8") as lines:
                    count = read(lines)
        except (MemoryImportError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from None
        ui.print(f"{count:,} records read from {file}")
        return {"store": target.store, "file": str(file), "records": count}

    @command(
        memory,
        "prune",
        examples=[
            (
                "lamer-graph memory prune runs/memory --max-records 5000",
                "Drop duplicates, then keep 5,000 a namespace.",
            ),
            ("lamer-graph memory prune runs/memory --namespace old --max-records 0", "Forget what begins with `old`."),
        ],
    )
    def prune(
        ui: Ui,
        target: Target,
        max_records: BudgetOption = None,
        near: NearOption = 0.9,
        dry_run: DryOption = False,
    ) -> Json:
        """Forget duplicates and near-duplicates, then what exceeds the budget: the oldest unsuccessful first.

        Of equal or nearly equal texts the successful one stays, else the newest. Not while a run plays on the store.
        """
        from rich.markup import escape

        from lamer_memory import hygiene

        with target.opened(read_only=dry_run) as backend:
            ui.working()
            pruned = [
                hygiene.prune(backend, name, budget=max_records, near=near or None, dry_run=dry_run)
                for name in target.namespaces(backend)
            ]
        table = _table("namespace", "duplicates", "near them", "over budget", "kept")
        for one in pruned:
            numbers = (len(one.duplicates), len(one.near_duplicates), len(one.evicted), one.kept)
            table.add_row(escape(_shown(one.namespace)), *(f"{number:,}" for number in numbers))
        ui.print(table)
        gone = sum(len(one.keys) for one in pruned)
        ui.print(f"{gone:,} records {'would go' if dry_run else 'forgotten'}")
        return {
            "store": target.store,
            "dry_run": dry_run,
            "forgotten": gone,
            "namespaces": [
                {
                    "namespace": list(one.namespace),
                    "duplicates": len(one.duplicates),
                    "near_duplicates": len(one.near_duplicates),
                    "evicted": len(one.evicted),
                    "kept": one.kept,
                }
                for one in pruned
            ],
        }

    @command(
        memory,
        "reindex",
        examples=[
            ("lamer-graph memory reindex runs/memory --embedder minilm", "Embed with another embedder from now on.")
        ],
    )
    def reindex(
        ui: Ui,
        store: StoreArgument,
        embedder: NewEmbedderOption = "hashing",
        collection: CollectionOption = DEFAULT_COLLECTION,
    ) -> Json:
        """Embed all records of a Chroma store anew; a run that is cut short is simply run again.

        Nobody else may use the store meanwhile.
        """
        from lamer_memory.chroma.reindexing import reindex as embed_anew

        count = embed_anew(store, embedder, collection=collection)
        ui.print(f"{count:,} records embedded with {embedder}")
        return {"store": store, "embedder": embedder, "records": count}


def _table(*headers: str, title: str | None = None) -> Table:
    """A table whose cells are folded where they do not fit: a name that was cut could not be given back to us."""
    from rich.table import Column, Table

    return Table(*(Column(header, overflow="fold") for header in headers), title=title)


def _shown(namespace: Namespace) -> str:
    return _plain("/".join(namespace)) or "(root)"


def _plain(text: str) -> str:
    """Remembered text as a table or a list shows it."""
    return one_line(text, SHOWN_CHARS)
