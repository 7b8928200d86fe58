"""Keep README.md true: draw the compiled graph into it (`make readme`), or put real output between its markers.

    make quickstart > q.txt && python scripts/update_readme.py quickstart q.txt
    make test | tail -1 > t.txt && python scripts/update_readme.py test t.txt

What must stay true: the picture is what LangGraph draws of the graph that `create_lamer_agent` compiles, as Mermaid
text made here, and a test compares it with the README; outputs are files that a command wrote, never typed in; of a
training's many updates four are shown.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from langchain_core.language_models import FakeListChatModel

from lamer_graph.agent import create_lamer_agent, episode_graph

README = Path(__file__).resolve().parent.parent / "README.md"


def pictures() -> str:
    """The outer graph and the episode inside it, as two Mermaid blocks between their markers."""
    agent = create_lamer_agent(FakeListChatModel(responses=["-"]), "minesweeper:4x4-3")
    blocks = []
    for title, graph in (("The trial:", agent), ("and one episode in it:", episode_graph(agent))):
        text = graph.get_graph().draw_mermaid().strip()
        blocks.append(f"{title}\n\n```mermaid\n{text}\n```")
    return between("graph", "\n\n".join(blocks))


def between(name: str, content: str) -> str:
    return f"<!-- {name}: begin -->\n\n{content}\n\n<!-- {name}: end -->"


def fill(name: str, block: str) -> None:
    """Replace what is between the markers of `name`."""
    text = README.read_text()
    pattern = re.compile(f"<!-- {name}: begin -->.*?<!-- {name}: end -->", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"{README} must hold <!-- {name}: begin --> .. <!-- {name}: end --> once")
    README.write_text(pattern.sub(lambda match: block, text))


def shortened(lines: list[str]) -> list[str]:
    """A training's updates but the first two and the last two left out, and said to be."""
    updates = [number for number, line in enumerate(lines) if re.match(r" +\d+/\d+  @1 ", line)]
    if len(updates) < 6:
        return lines
    return [*lines[: updates[2]], f"  .. (updates 3 to {len(updates) - 2})", *lines[updates[-2] :]]


def main() -> None:
    if len(sys.argv) == 1:
        fill("graph", pictures())
        return
    name, file = sys.argv[1:]
    lines = shortened([line.rstrip() for line in Path(file).read_text().strip("\n").splitlines()])
    fill(name, between(name, "\n".join(["```text", *lines, "```"])))


if __name__ == "__main__":
    main()
