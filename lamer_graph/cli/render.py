"""How trials and tables look in a terminal: pure functions from data to rich renderables.

What must stay true: text that a policy wrote is escaped, so that no answer can pass for our own markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import ProgressColumn, Task
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from lamer_envs import Env
    from lamer_graph.collect import CollectConfig

MAX_SHOWN_CHARS = 600
"""Of an answer that is not a plain action; the log has all of it."""


class RateColumn(ProgressColumn):
    """Finished steps per second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


# -- one trial --------------------------------------------------------------------------------------------------------


def opening(env: Env, config: CollectConfig, seed: int) -> RenderableType:
    """What is about to be played, and how."""
    about = (
        f"[bold]{env.spec}[/], task {seed} of split {config.split}, up to {config.max_episodes} episodes of "
        f"{config.max_turns or env.max_turns} turns\n"
        f"policy {escape(config.policy)}, memory {config.contents}, prompt style {config.prompt_style}, temperature "
        f"{config.temperature:g}, top-p {config.top_p:g}, top-k {config.top_k}, seed {config.seed}"
    )
    return Panel(about, title="trial", title_align="left")


def episode_start(
    env: Env, start: dict[str, Any], memory: Sequence[Mapping[str, Any]], episode: int, config: CollectConfig
) -> Iterator[RenderableType]:
    """The episode's headline, what it remembers, and the board it starts from."""
    yield Rule(f"[bold]episode {episode + 1} of {config.max_episodes}[/]")
    if memory:
        lines = [f"[dim]{record['kind']} of episode {record['episode'] + 1}:[/] {_quoted(record)}" for record in memory]
        yield Panel("\n".join(lines), title="remembers", title_align="left", border_style="blue")
    elif episode:
        yield Text("remembers nothing", style="dim")
    yield Padding(env.render(start), (0, 2))


def _quoted(record: Mapping[str, Any]) -> str:
    return escape(_short(str(record["text"])))


def event(env: Env, happened: Mapping[str, Any]) -> RenderableType:
    """One event of the agent's custom stream."""
    if happened["event"] == "turn":
        return _turn(env, happened)
    if happened["event"] == "reflection":
        text = escape(_short(happened["text"])) or "[dim]no remark could be read from the answer[/]"
        return Panel(text, title="reflects", title_align="left", border_style="magenta")
    if happened["success"]:
        return f"[bold green]won[/] in {happened['turns']} turns, reward {happened['reward']:g}"
    why = "out of turns" if happened["truncated"] else "lost"
    return f"[bold red]{why}[/] after {happened['turns']} turns, reward {happened['reward']:g}"


def _turn(env: Env, turn: Mapping[str, Any]) -> RenderableType:
    said = f"[bold]turn {turn['turn'] + 1}[/]  {escape(_short(turn['action']))}"
    lines = [said, f"[dim]{escape(turn['outcome'])}, reward {turn['reward']:g}[/]"]
    if not turn["valid"]:
        lines.append(f"[yellow]invalid:[/] [dim]{escape(_short(turn['text']))}[/]")
    grid = Table.grid(padding=(0, 3))
    grid.add_row(Padding(env.render(turn["state"]), (0, 2)), Group(*lines))
    return grid


def ending(result: Mapping[str, Any]) -> RenderableType:
    """How the trial came out."""
    episodes = result["episodes"]
    if result["success"]:
        return Panel(f"[bold green]solved in episode {len(episodes)}[/]", border_style="green")
    return Panel(f"[bold red]not solved in {len(episodes)} episodes[/]", border_style="red")


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + " .."


# -- tables -----------------------------------------------------------------------------------------------------------


def facts(title: str, rows: Mapping[str, str]) -> Table:
    """Names and values below each other."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table
