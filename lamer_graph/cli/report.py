"""`lamer-graph report` and `lamer-graph view`: runs as a page, a file to hand on or live while they go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.cli.options import PortOption
from lamer_graph.errors import ConfigError

if TYPE_CHECKING:
    from lamer_graph.report.book import Book

PORT = 8200

RunsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        show_default=False,
        help="Folders of `collect`, `eval`, `train`, `compare`, `reproduce` or `quickstart`; of one that holds several "
        "runs, all.",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page to write.")]
MostOption = Annotated[
    int,
    typer.Option("--most", metavar="N", min=0, help="Trials to hold with all their turns; the others are listed."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]
PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="DIR",
        show_default=False,
        help="Folder with the policy's tokenizer, which tells tokens apart. Default: the one that the run names.",
    ),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "report",
        examples=[
            ("lamer-graph report runs/first -o first.html", "One page: pass@k, every trial, turn by turn."),
            ("lamer-graph report runs/none runs/reflection", "Two runs on the same tasks, side by side."),
            ("lamer-graph report runs/reproduce/readings", "What `reproduce` read, under the names of its tables."),
            ("lamer-graph report runs/quickstart-1 --most 1000", "All runs below a folder, more of their trials."),
        ],
    )
    def report(
        ui: Ui,
        runs: RunsArgument,
        out: OutOption = Path("report.html"),
        most: MostOption = 200,
        policy: PolicyOption = None,
        force: ForceOption = False,
    ) -> Json:
        """Write runs as one web page that needs no network: pass@k with intervals, training curves, memories compared,
        and every trial to step through.

        Of a trial it shows the episodes side by side, drawn boards, the policy's text with each token's probability,
        what it read and remembered and who wrote that, and what each call was worth. The address of the page names
        what it shows, so that a turn can be linked to.
        """
        from rich.markup import escape

        from lamer_graph.report.page import write_report

        if out.is_dir():
            raise ConfigError(f"--out {out} is a folder; name a file such as {out / 'report.html'}")
        if out.exists() and not force:
            raise ConfigError(f"--out {out} exists already; write over it with --force, or choose another file")
        if not out.absolute().parent.is_dir():
            raise ConfigError(f"--out {out} is in a folder that does not exist: make {out.parent} first")
        book = _book(runs, policy)
        trials = sum(book.refresh())
        with ui.progress("trials", min(most, trials)) as advance:
            held = write_report(book, out, _title(book), most, lambda _: advance(1))
        size = out.stat().st_size
        rest = f"; {trials - held:,} more are listed only (--most)" if held < trials else ""
        ui.print(escape(f"{out}: {held:,} of {trials:,} trials with their turns, {size / 1e6:.1f} MB{rest}"))
        for problem in _problems(book):
            ui.remark(problem)
        return {
            "out": str(out),
            "runs": [run.name for run in book.runs],
            "trials": trials,
            "held": held,
            "bytes": size,
            "problems": _problems(book),
        }

    @command(
        app,
        "view",
        examples=[
            ("lamer-graph view runs/first", "Look at a run in a browser, finished or not."),
            ("lamer-graph view runs/training --port 0", "A training as it goes on, on a free port."),
            ("lamer-graph view runs/reproduce", "A `reproduce` as it goes on: its trainings and readings."),
            ("ssh -L 8200:127.0.0.1:8200 host", "On your own machine: a run on another one."),
        ],
    )
    def view(ui: Ui, runs: RunsArgument, port: PortOption = PORT, policy: PolicyOption = None) -> Json | None:
        """Show runs in a browser while they go on, until Ctrl-C: what `report` writes, with all trials, kept fresh.

        It listens on this machine alone (127.0.0.1), and only ever reads. With --json the document is printed as soon
        as it listens.
        """
        from lamer_graph.report.server import viewer
        from lamer_graph.web.listening import Listening

        book = _book(runs, policy)
        trials = sum(book.refresh())
        listening = Listening(viewer(book, _title(book)), "127.0.0.1", port, keyed=False, grace_s=1)
        ui.working()
        ui.emit({"url": listening.base_url, "runs": [run.name for run in book.runs], "trials": trials})
        ui.print(f"[green]{listening.base_url}[/] shows {trials:,} trials of {len(book.runs)} run(s); Ctrl-C stops it")
        listening.run()
        ui.note("stopped")
        return None


def _book(places: Sequence[Path], policy: Path | None) -> Book:
    """Raises RunLogError for a place without a run, ConfigError for a --policy without a tokenizer."""
    from lamer_graph.cli.crediting import worth_of
    from lamer_graph.report.book import Book
    from lamer_graph.report.runs import find_runs
    from lamer_graph.report.tokens import FILE

    if policy is not None and not (policy / FILE).is_file():
        raise ConfigError(f"--policy {policy} holds no {FILE}; give the folder of the policy, or leave --policy out")
    return Book(find_runs(places), worth_of, policy)


def _title(book: Book) -> str:
    names = [run.name for run in book.runs]
    return f"{', '.join(names[:3])}{' ..' if len(names) > 3 else ''} · lamer-graph"


def _problems(book: Book) -> list[str]:
    return [f"{run['name']}: {problem}" for run in book.overview()["runs"] for problem in run["problems"]]
