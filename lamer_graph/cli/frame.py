"""What every command shares: `--json` and `--debug`, option groups, exit codes, one clear line per error.

What must stay true: a command writes its result to stdout and nothing else there; under `--json` that is exactly one
JSON document, also when it fails. An error is one line on stderr and never a traceback without `--debug`. Exit codes:
0 done; 2 refused before any work (bad input, a server that does not answer); 1 failed during work, what was logged is
intact. A command says with `ui.working()` where work begins.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_type_hints

import typer

from lamer_graph.cli.help import Example, HelpAllOption
from lamer_graph.cli.help import of as help_of
from lamer_graph.cli.shown import one_line
from lamer_graph.errors import LamerError

if TYPE_CHECKING:
    from rich.console import Console

DONE, FAILED, REFUSED = 0, 1, 2
FIRST_LINE = 8.0
"""Seconds until long work is first told of, where no bar can be shown."""

Json = dict[str, Any]
Command = Callable[..., "Json | None"]
T = TypeVar("T", bound=type)

OUTPUT_PANEL = "Output"
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else.", rich_help_panel=OUTPUT_PANEL)
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT_PANEL)
]


class Ui:
    """How a command speaks: to a person with rich output, or to a machine with the document that it returns."""

    def __init__(self, json: bool, debug: bool) -> None:
        self.json = json
        self.debug = debug
        self.exit_code = DONE
        self._working = False
        self._remarks: set[str] = set()

    @functools.cached_property
    def console(self) -> Console:
        """stdout for people; silent under `--json`."""
        from rich.console import Console

        return Console(quiet=self.json, highlight=False)

    def print(self, *renderables: Any, soft_wrap: bool = False) -> None:
        """Show something to a person; nothing happens under `--json`. `soft_wrap`: as it is, e.g. a line to copy."""
        if not self.json:
            self.console.print(*renderables, soft_wrap=soft_wrap)

    def remark(self, line: str) -> None:
        """A note to a person on what is done, said once however often the code comes by."""
        from rich.markup import escape

        if line not in self._remarks:
            self._remarks.add(line)
            self.print(f"[yellow]note[/]: {escape(line)}")

    def emit(self, document: Json) -> None:
        """Print the document now, for commands that go on after it."""
        if self.json:
            sys.stdout.write(json.dumps(document, allow_nan=False, default=str) + "\n")
            sys.stdout.flush()

    def working(self) -> None:
        """Preparation is over: from here on an error is a failure during work (1), not a refusal (2)."""
        self._working = True

    @contextmanager
    def progress(
        self, what: str, total: int, says: Callable[[], str] | None = None, *, logged: bool = True
    ) -> Iterator[Callable[[int], None]]:
        """A bar with rate and ETA on stderr; where that is no terminal a line now and then, but for steps that are
        not `logged` so, because they have lines of their own. Yields `advance(steps)`.

        `says` is asked, all the time, for what stands there instead of the bar's own rate and ETA.
        """
        if not sys.stderr.isatty():
            yield self._lines(what, total, says) if logged else lambda steps: None
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        from lamer_graph.cli.render import RateColumn, SaidColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            *((RateColumn(), TimeRemainingColumn()) if says is None else (SaidColumn(says),)),
        )
        with Progress(*columns, console=Console(stderr=True), disable=self.json, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda steps: bar.advance(task, steps)

    def _lines(self, what: str, total: int, says: Callable[[], str] | None) -> Callable[[int], None]:
        """How far it is, told after `FIRST_LINE` seconds and then at twice the age, for whoever reads the log."""
        done, began, due = 0, time.monotonic(), FIRST_LINE

        def advance(steps: int) -> None:
            nonlocal done, due
            done += steps
            age = time.monotonic() - began
            if steps and age >= due:
                due = 2 * age
                self.tell(f"{what} {done:,}/{total:,}{'' if says is None else ', ' + says()}")

        return advance

    def note(self, line: str) -> None:
        """A passing word to a person who watches, on stderr and only at a terminal."""
        if sys.stderr.isatty():
            self.tell(line)

    def tell(self, line: str) -> None:
        """How far long work is, on stderr: to a person who watches, or to the log of a job left alone."""
        if not self.json:
            sys.stderr.write(one_line(line) + "\n")
            sys.stderr.flush()

    def code_of(self, error: BaseException) -> int:
        return REFUSED if is_refusal(error) and not self._working else FAILED


def is_refusal(error: BaseException) -> bool:
    """Errors that, before any work, mean that what was asked for cannot be done (and not that we are broken)."""
    return isinstance(error, (LamerError, OSError, typer.TyperException)) or _is_validation_error(error)


def _is_validation_error(error: BaseException) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(error, pydantic.ValidationError)


def describe(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; what was logged is intact"
    if _is_validation_error(error):
        problem = error.errors(include_url=False)[0]  # type: ignore[attr-defined]
        place = ".".join(str(part) for part in problem["loc"]).replace("_", "-")
        return one_line(f"{place}: {problem['msg']}, not {problem['input']!r}")
    if isinstance(error, typer.TyperException):
        return one_line(error.format_message())
    if isinstance(error, OSError) and error.filename is not None:
        return one_line(f"{error.filename}: {error.strerror}")
    if is_refusal(error):
        return one_line(str(error))
    return one_line(f"unexpected {type(error).__name__}: {error} (run again with --debug to see where)")


def warn(line: str) -> None:
    """The one line on stderr of a command that has a result and yet did not do all that was asked."""
    sys.stderr.write(f"lamer-graph: {one_line(line)}\n")


def fail(error: BaseException, code: int, *, as_json: bool, debug: bool) -> NoReturn:
    """Say what went wrong and leave with `code`."""
    if debug:
        traceback.print_exception(error)
    line = describe(error)
    warn(line)
    if as_json:
        sys.stdout.write(json.dumps({"error": line, "type": type(error).__name__, "exit_code": code}) + "\n")
    raise typer.Exit(code)


def options(cls: T) -> T:
    """Mark a dataclass whose fields are command line options: `Annotated[type, typer.Option(..)] = default`."""
    assert is_dataclass(cls)
    cls.__lamer_options__ = True  # type: ignore[attr-defined]
    return cls


def command(
    app: typer.Typer, name: str, *, examples: Sequence[Example], main: Sequence[str] | None = None
) -> Callable[[Command], Command]:
    """Register a command on `app`.

    Its function takes a `Ui` first; a parameter whose type is an `options` dataclass stands for all of its fields.
    `--json` and `--debug` are added. What it returns is the document that `--json` prints. `examples` end the help
    text. `main` are the options that `--help` shows (None: all), `--help-all` shows the others too.
    """

    def register(function: Command) -> Command:
        signature = inspect.signature(function, eval_str=True)
        groups: dict[str, type] = {}
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            annotation = parameter.annotation
            if annotation is Ui:
                continue
            if getattr(annotation, "__lamer_options__", False):
                groups[parameter.name] = annotation
                parameters.extend(_option_parameters(annotation))
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        flags = {"json_": JsonOption, "debug": DebugOption, "help_all": HelpAllOption}
        for flag, kind in flags.items():
            parameters.append(inspect.Parameter(flag, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind))

        @functools.wraps(function)
        def run(**values: Any) -> None:
            ui = Ui(values.pop("json_"), values.pop("debug"))
            del values["help_all"]
            for group, cls in groups.items():
                values[group] = cls(**{field.name: values.pop(field.name) for field in fields(cls)})
            try:
                document = function(ui, **values)
                if document is not None:
                    ui.emit(document)
            except typer.Exit:
                raise
            except (Exception, KeyboardInterrupt) as error:
                fail(error, ui.code_of(error), as_json=ui.json, debug=ui.debug)
            raise typer.Exit(ui.exit_code)

        run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del run.__wrapped__  # typer reads the signature, and would otherwise look through to the function's own
        app.command(name, cls=help_of(main, examples), help=_unwrapped(function))(run)
        return function

    return register


def _unwrapped(function: Command) -> str:
    """A docstring with each paragraph on one line: the terminal wraps it."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(one_line(paragraph) for paragraph in paragraphs)


def _option_parameters(cls: type) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )


def escape_what_cannot_be_shown() -> None:
    """What stdout's encoding has no form for is escaped (a file's name, an environment's picture), as on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def quiet_libraries() -> None:
    """Libraries log to stderr, where only our own line belongs, and some report home."""
    import warnings

    warnings.simplefilter("ignore")
    defaults = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
