"""How trials and tables look in a terminal: pure functions from data to rich renderables.

What must stay true: text that a policy wrote, or a server's name for it, passes through `_said`, so that nothing can
pass for our own markup or steer the terminal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import ProgressColumn, Task
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lamer_graph.cli.shown import shown
from lamer_graph.policies.rendering import shown as given

if TYPE_CHECKING:
    from lamer_envs import Env
    from lamer_graph.collection.config import CollectConfig
    from lamer_graph.evaluation.evaluate import Evaluation
    from lamer_graph.evaluation.reflections import Truth
    from lamer_graph.evaluation.stats import Estimate


class RateColumn(ProgressColumn):
    """Finished steps per second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class SaidColumn(ProgressColumn):
    """What somebody else says of the rate and of what is left."""

    def __init__(self, says: Callable[[], str]) -> None:
        super().__init__()
        self._says = says

    def render(self, task: Task) -> Text:
        return Text(self._says())


# -- one trial --------------------------------------------------------------------------------------------------------


def opening(env: Env, config: CollectConfig, seed: int, sampling: Mapping[str, Any]) -> RenderableType:
    """What is about to be played, and how; `sampling` as it reaches the model (see `sampled`)."""
    about = (
        f"[bold]{env.spec}[/], task {seed} of split {config.split}, up to {config.max_episodes} episodes of "
        f"{config.max_turns or env.max_turns} turns\n"
        f"policy {_said(config.policy)}, {strategy(config)}memory {config.contents}, prompt style "
        f"{config.prompt_style}, "
        f"{sampled(sampling)}"
    )
    return Panel(about, title="trial", title_align="left")


def episode_start(
    env: Env, start: dict[str, Any], memory: Sequence[Mapping[str, Any]], episode: int, config: CollectConfig
) -> Iterator[RenderableType]:
    """The headline of an episode (counted from 1), what it remembers, and the board it starts from."""
    yield Rule(f"[bold]episode {episode} of {config.max_episodes}[/]")
    if memory:
        lines = [
            f"[dim]{record['kind']} of episode {record['episode'] + 1}:[/] {_said(record['text'])}" for record in memory
        ]
        yield Panel("\n".join(lines), title="remembers", title_align="left", border_style="blue")
    elif episode > 1:
        yield Text("remembers nothing", style="dim")
    yield Padding(env.render(start), (0, 2))


def event(env: Env, happened: Mapping[str, Any]) -> RenderableType:
    """One event of the agent's custom stream."""
    if happened["event"] == "turn":
        return _turn(env, happened)
    if happened["event"] == "reflection":
        text = _said(happened["text"]) or "[dim]no remark could be read from the answer[/]"
        return Panel(text, title="reflects", title_align="left", border_style="magenta")
    if happened["success"]:
        return f"[bold green]won[/] in {happened['turns']} turns, reward {happened['reward']:g}"
    why = "out of turns" if happened["truncated"] else "lost"
    return f"[bold red]{why}[/] after {happened['turns']} turns, reward {happened['reward']:g}"


def _turn(env: Env, turn: Mapping[str, Any]) -> RenderableType:
    said = f"[bold]turn {turn['turn'] + 1}[/]  {_said(turn['action'])}"
    planned = [f"[magenta]plans:[/] {_said(turn['plan'])}"] if turn.get("plan") else []
    lines = [*planned, said, f"[dim]{_said(turn['outcome'])}, reward {turn['reward']:g}[/]"]
    if not turn["valid"]:
        lines.append(f"[yellow]invalid:[/] [dim]{_said(turn['text'])}[/]")
    grid = Table.grid(padding=(0, 3))
    grid.add_row(Padding(env.render(turn["state"]), (0, 2)), Group(*lines))
    return grid


def ending(result: Mapping[str, Any]) -> RenderableType:
    """How the trial came out."""
    episodes = result["episodes"]
    if result["success"]:
        return Panel(f"[bold green]solved in episode {len(episodes)}[/]", border_style="green")
    return Panel(f"[bold red]not solved in {len(episodes)} episodes[/]", border_style="red")


def _said(text: str) -> str:
    """Words of a policy or a server, bounded (the log has all of them), and with markup escaped."""
    return escape(shown(text))


# -- tables -----------------------------------------------------------------------------------------------------------


WIDEST = 4
"""Attempts that a table of 80 columns has a column each for."""


def evaluations(title: str, rows: Mapping[str, Evaluation]) -> Table:
    """One line per evaluation: pass@1..k and what else is measured, each with its 95 % interval; of more attempts than
    `WIDEST` one column per evaluation."""
    attempts = max(len(row.summary.pass_at) for row in rows.values())
    return _across(title, rows, attempts) if attempts <= WIDEST else _down(title, rows, attempts)


def _down(title: str, rows: Mapping[str, Evaluation], attempts: int) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("memory")
    for name in rows:
        table.add_column(escape(name), justify="right")
    found = [row.summary for row in rows.values()]
    for k in range(attempts):
        reached = [interval(one.pass_at[k], " ") if k < len(one.pass_at) else "" for one in found]
        table.add_row(f"pass@{k + 1}", *reached)
    table.add_row("turns", *(f"{one.turns_per_episode.value:.2f}" for one in found))
    table.add_row("invalid", *(f"{one.invalid_rate.value:.1%}" for one in found))
    if any(one.trials > one.tasks for one in found):
        table.add_row("diversity", *(interval(one.diversity, " ") for one in found))
    return table


def _across(title: str, rows: Mapping[str, Evaluation], attempts: int) -> Table:
    table = Table(title=escape(title), title_justify="left", show_lines=True)
    table.add_column("memory")
    for k in range(1, attempts + 1):
        table.add_column(f"pass@{k}", justify="right")
    diverse = any(row.summary.trials > row.summary.tasks for row in rows.values())
    for name in ("turns", "invalid", *(["diversity"] if diverse else [])):
        table.add_column(name, justify="right")
    for name, row in rows.items():
        found = row.summary
        cells = [interval(estimate) for estimate in found.pass_at]
        cells += [""] * (attempts - len(cells))
        cells += [f"{found.turns_per_episode.value:.2f}", f"{found.invalid_rate.value:.1%}"]
        if diverse:
            cells.append(interval(found.diversity))
        table.add_row(escape(name), *cells)
    return table


def interval(estimate: Estimate | Truth, between: str = "\n") -> str:
    """A value with its interval, by itself below it: narrow enough for a table in 80 columns."""
    value, low, high = (f"{number:.3f}".removeprefix("0") for number in estimate[:3])
    return f"{value}{between}[dim]{low}-{high}[/]"


def below(cell: str) -> str:
    """A cell of a written table, `0.143 (0.010-0.231)`, in the form of `interval`."""
    return re.sub(r"\b0\.", ".", cell).replace(" (", "\n[dim]").replace(")", "[/]")


def conditions(evaluation: Evaluation) -> str:
    """Under what an evaluation was made, in one line of markup."""
    config, found = evaluation.config, evaluation.summary
    diversity = ", diversity in nats" if found.trials > found.tasks else ""
    true = "" if evaluation.truth is None else f"reflections true {told_truth(evaluation.truth)}; "
    rendered = f" ({_said(given(evaluation.template))})" if evaluation.template else ""
    return (
        f"{true}{config.env}, split {config.split}, {found.tasks} tasks x {config.trials} trials; policy "
        f"{_said(config.policy)}{rendered}; {strategy(config)}{sampled(evaluation.sampling)}; "
        f"{escape(across_tasks(config))}95 % intervals over {found.instances} instances; turns per episode, invalid "
        f"actions per turn{diversity}"
    )


def sampled(sampling: Mapping[str, Any]) -> str:
    """The numbers that answers were drawn with; "unknown" for None: the server's or chat model's own."""
    always = ("temperature", "top_p", "top_k", "seed")
    names = [*always, *(name for name, value in sampling.items() if value is None and name not in always)]
    return ", ".join(f"{name.replace('_', '-')} {_number(sampling[name])}" for name in names)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def told_truth(truth: Truth) -> str:
    """A share of true reflections, as .41 of 220, with its interval."""
    value, low, high = (f"{number:.2f}".removeprefix("0") for number in truth[:3])
    return f"{value} ({low}-{high}) of {truth.judged}"


def strategy(config: CollectConfig) -> str:
    """What the policy was asked for besides its actions, with a comma; nothing where that was nothing."""
    said = [] if config.strategy == "lamer" else [f"strategy {config.strategy}"]
    return "".join(f"{one}, " for one in [*said, *([] if config.thoughts == "hidden" else ["thoughts shown"])])


def across_tasks(config: CollectConfig) -> str:
    """What the trials saw of other tasks, with a semicolon; nothing where they saw none."""
    if config.scope == "trial":
        return ""
    filled = f"filled from {config.store}" if config.store else "empty at first"
    seen = "as it was before the first trial" if config.visible == "frozen" else "live"
    which = "" if config.outcomes == "any" else f"{config.outcomes} "
    like = "" if config.embedder == "hashing" else f", compared by {config.embedder}"
    by = {"similar": "", "value": ", of the highest value", "ucb": ", by likeness, value and what is little known"}
    held = f", held back from {config.control:g} of the trials" if config.control else ""
    return f"memory of other tasks: {config.k} {which}records{like}{by[config.select]}, {filled}, {seen}{held}; "


def facts(title: str, rows: Mapping[str, str]) -> Table:
    """Names and values below each other."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table
