"""The figures of docs/, as SVG made here (`make readme` writes them, a test holds them to the code).

What must stay true: what a figure states comes from the code, not from this file. The graph is the one that
`create_lamer_agent` compiles, the returns are those of `lamer_trainers.credit`, contents and backends those that can be
chosen. This file knows places and colours alone; a node without a place is an error.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, get_args

from langchain_core.language_models import FakeListChatModel

from lamer_graph.agent import create_lamer_agent, episode_graph
from lamer_memory import Contents, Scope, backend_names
from lamer_trainers.credit import cross_episode_returns

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "figures"
INK, LINE, PAPER, BLUE, GREEN, RED, GREY = "#1f2328", "#57606a", "#ffffff", "#dbe9f6", "#dcefe0", "#f6dfd9", "#eeeeea"
REWARDS = [[0.5, -0.1], [0.5, 0.5, -0.1], [0.5, 10.0]]
"""A trial of three episodes: two end on a mine, the third wins."""
GAMMA_STEP, GAMMA_TRAJ = 0.95, 0.6

Box = tuple[float, float, float, float]


def box(place: Box, lines: str, fill: str = PAPER, size: int = 14) -> str:
    """A rounded box (centre, width, height) with lines of text in its middle."""
    x, y, width, height = place
    rows = lines.split("\n")
    texts = "".join(
        f'<text x="{x:g}" y="{y + (row - (len(rows) - 1) / 2) * (size + 4) + size * 0.36:g}" font-size="{size}" '
        f'text-anchor="middle" fill="{INK}">{escape(text)}</text>'
        for row, text in enumerate(rows)
    )
    return (
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}" rx="6" '
        f'fill="{fill}" stroke="{LINE}"/>{texts}'
    )


def label(x: float, y: float, text: str, size: int = 12, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{LINE}">{escape(text)}</text>'


def edge_of(place: Box, towards: tuple[float, float]) -> tuple[float, float]:
    """Where the line from the middle of a box to a point leaves the box."""
    x, y, width, height = place
    dx, dy = towards[0] - x, towards[1] - y
    scale = min(width / 2 / abs(dx) if dx else 9e9, height / 2 / abs(dy) if dy else 9e9)
    return x + dx * scale, y + dy * scale


def arrow(start: Box, end: Box, dashed: bool = False) -> str:
    """From box to box; from a box to itself a loop below it."""
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    head = f' fill="none" stroke="{LINE}" marker-end="url(#head)"{dash}/>'
    if start == end:
        x, y, width, height = start
        bottom = y + height / 2
        return f'<path d="M{x + width / 4:g} {bottom:g} v18 h{-width / 2:g} v-15"{head}'
    (x1, y1), (x2, y2) = edge_of(start, end[:2]), edge_of(end, start[:2])
    return f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}"{head}'


def svg(width: int, height: int, title: str, parts: list[str]) -> str:
    """A picture that needs nothing from outside and can be read on light and dark pages."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'font-family="system-ui, sans-serif" role="img">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def drawn(graph: Any, places: dict[str, Box], fills: dict[str, str]) -> list[str]:
    """A LangGraph graph at these places: every node and edge it has."""
    drawable = graph.get_graph()
    boxes = [box(places[name], name.strip("_"), fills.get(name, GREY)) for name in drawable.nodes]
    return [*boxes, *(arrow(places[one.source], places[one.target], one.conditional) for one in drawable.edges)]


def graph() -> str:
    """The compiled trial and the episode inside it."""
    agent = create_lamer_agent(FakeListChatModel(responses=["-"]), "minesweeper:4x4-3")
    trial: dict[str, Box] = {
        "__start__": (60, 70, 64, 32),
        "recall": (180, 70, 100, 44),
        "episode": (340, 70, 100, 44),
        "__end__": (460, 70, 56, 32),
        "reflect": (340, 180, 100, 44),
        "remember": (180, 180, 100, 44),
    }
    episode: dict[str, Box] = {
        "__start__": (590, 70, 64, 32),
        "act": (690, 70, 70, 44),
        "__end__": (790, 70, 56, 32),
    }
    fills = {"episode": BLUE, "act": BLUE, "reflect": RED, "recall": GREEN, "remember": GREEN}
    parts = [label(180, 24, "the trial", 13), label(690, 24, "one episode in it", 13)]
    parts += [*drawn(agent, trial, fills), *drawn(episode_graph(agent), episode, fills)]
    return svg(840, 226, "The graph of a trial, and of one episode in it", parts)


def credit() -> str:
    """The returns of a trial of three episodes, and where they come from."""
    made = cross_episode_returns(REWARDS, gamma_step=GAMMA_STEP, gamma_traj=GAMMA_TRAJ)
    parts, x = [], 150.0
    firsts: list[Box] = []
    notes: list[Box] = []
    for number, (rewards, returns) in enumerate(zip(REWARDS, made.turns, strict=True)):
        parts.append(label(x - 30, 28, f"episode {number + 1}", 13, "start"))
        for turn, (reward, value) in enumerate(zip(rewards, returns, strict=True)):
            place = (x, 72.0, 66.0, 44.0)
            firsts += [place] if turn == 0 else []
            parts += [box(place, f"turn {turn + 1}\nr = {reward:g}", BLUE, 12), label(x, 114, f"G = {value:.2f}")]
            x += 74
        if number < len(made.reflections):
            note = (x + 6, 160.0, 76.0, 44.0)
            notes.append(note)
            parts += [box(note, "reflection", RED, 12), label(x + 6, 202, f"G = {made.reflections[number]:.2f}")]
            x += 90
    for note, first in zip(notes, firsts[1:], strict=True):
        parts.append(arrow(first, note, True))
    parts.append(label(20, 76, "reward r", 12, "start"))
    parts.append(label(20, 114, "return G", 12, "start"))
    parts.append(label(20, 164, "written after it", 12, "start"))
    says = f"gamma_step {GAMMA_STEP:g} within an episode, gamma_traj {GAMMA_TRAJ:g} from one to the next"
    parts.append(label(20, 236, says, 12, "start"))
    return svg(int(x) + 20, 254, "Returns of a trial of three episodes", parts)


def memory() -> str:
    """The independent choices of a memory."""
    rows = {
        "what (contents)": [*get_args(Contents)],
        "where (backend)": backend_names(),
        "whose (scope)": [*get_args(Scope)],
    }
    parts = []
    for row, (title, names) in enumerate(rows.items()):
        y = 46 + row * 66
        parts.append(label(20, y + 4, title, 13, "start"))
        for column, name in enumerate(names):
            parts.append(box((220 + column * 130, y, 114, 40), name, (BLUE, GREEN, RED)[row]))
    width = 220 + max(map(len, rows.values())) * 130 - 50
    return svg(width, 46 + len(rows) * 66 - 20, "What is remembered, where, and whose", parts)


FIGURES = {"graph": graph, "credit": credit, "memory": memory}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw())


if __name__ == "__main__":
    main()
