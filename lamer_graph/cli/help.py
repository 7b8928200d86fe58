"""Help in two lengths: `--help` fits a screen and shows what most people want, `--help-all` says everything.

What must stay true: what `--help` leaves out it counts, and says where it is; an option that must be given is never
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from rich.console import RenderableType

Example = tuple[str, str]
"""A command line, and what it does."""

SHORT_EXAMPLES = 3
WIDEST_CHOICE = 24
"""Characters of the choices of an option, up to which the short form lists them."""
SENTENCE = re.compile(r"\.\s+(?=[A-Z])")
_ALL = "lamer_graph.help_all"


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[_ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit


HelpAllOption = Annotated[
    bool, typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show all options and all about them.")
]


class HelpedCommand(TyperCommand):
    """A command whose help has its `examples`, and in its short form the options `main` alone (None: all)."""

    main_options: Sequence[str] | None = None
    examples: Sequence[Example] = ()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, as long as it was asked for."""
        from rich.console import Console

        console = Console(highlight=False)
        if ctx.meta.get(_ALL, False):
            super().format_help(ctx, formatter)
            console.print(*_examples(self.examples), sep="\n")
            return
        console.print(*self._short(ctx), sep="\n")

    def _short(self, ctx: Any) -> Iterator[RenderableType]:
        from rich.padding import Padding

        yield f"[bold]{_escaped(self.get_usage(ctx))}[/]\n"
        yield Padding((self.help or "").split("\n\n")[0], (0, 1, 1, 1))
        params: list[Any] = self.params  # typer's own kinds, which know more than their base says
        visible = [param for param in params if not param.hidden]
        shown = [param for param in visible if not self._is_detail(param)]
        panels: dict[str, list[Any]] = {}
        for param in shown:
            panels.setdefault(param.rich_help_panel or _kind(param), []).append(param)
        for panel, own in panels.items():
            yield f"[bold]{panel}[/]"
            yield _table(own, ctx)
        left_out = len(visible) - len(shown) - 1  # the option itself is named here
        more = f"shows {left_out} more options and all about these" if left_out else "says more about these"
        yield f"\n[bold]--help-all[/] {more}.\n"
        yield from _examples(self.examples[:SHORT_EXAMPLES])

    def _is_detail(self, param: Any) -> bool:
        if param.param_type_name != "option" or param.required:
            return False
        if self.main_options is None:
            return bool({"--help-all", "--debug"} & set(param.opts))
        return not {"--json", *self.main_options} & set(param.opts)


def _kind(param: Any) -> str:
    return "Options" if param.param_type_name == "option" else "Arguments"


def _table(params: Sequence[Any], ctx: Any) -> RenderableType:
    """A line for each: its name, what it takes, the first sentence of its help and its default."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid("", "", padding=(0, 2, 0, 0), expand=False)
    for param in params:
        option = param.param_type_name == "option"
        named = f"{param.opts[0]} {_takes(param, ctx)}" if option else param.display_name_raw
        said = Text(SENTENCE.split(param.help or "")[0].rstrip("."))
        if param.required:
            said.append(" (required)", style="bold")
        elif param.show_default and param.default not in (None, False, ()):
            said.append(f" [{param.default}]", style="dim")
        table.add_row(Text(f"  {named}".rstrip()), said)
    return table


def _takes(param: Any, ctx: Any) -> str:
    """What stands behind an option: nothing for a flag, its choices where they are few."""
    if getattr(param, "is_flag", False):
        return ""
    shown = str(param.display_type_rich(ctx=ctx) or "")
    choices = shown.removeprefix("<").removesuffix(">")
    return shown if choices == shown else choices if len(choices) <= WIDEST_CHOICE else "NAME"


def _examples(examples: Sequence[Example]) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    for line, meaning in examples:
        yield Padding(Text(f"$ {line}", style="bold"), (0, 1))
        yield Padding(Text(meaning), (0, 3))


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def of(main: Sequence[str] | None, examples: Sequence[Example]) -> type[HelpedCommand]:
    """The class of one command."""
    return type("Command", (HelpedCommand,), {"main_options": main, "examples": tuple(examples)})
