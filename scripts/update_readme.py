"""Draw the compiled graph into README.md: `make readme`.

What must stay true: the picture is what LangGraph draws of the graph that `create_lamer_agent` compiles, as Mermaid
text made here; a test compares it with the README, so the two cannot drift apart.
"""

from __future__ import annotations

import re
from pathlib import Path

from langchain_core.language_models import FakeListChatModel

from lamer_graph.agent import create_lamer_agent, episode_graph

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- graph: begin -->", "<!-- graph: end -->"


def pictures() -> str:
    """The outer graph and the episode inside it, as two Mermaid blocks between the README's markers."""
    agent = create_lamer_agent(FakeListChatModel(responses=["-"]), "minesweeper:4x4-3")
    blocks = []
    for title, graph in (("The trial:", agent), ("and one episode in it:", episode_graph(agent))):
        text = graph.get_graph().draw_mermaid().strip()
        blocks.append(f"{title}\n\n```mermaid\n{text}\n```")
    return "\n\n".join([BEGIN, *blocks, END])


def main() -> None:
    text = README.read_text()
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"{README} must hold {BEGIN} .. {END} once")
    README.write_text(pattern.sub(lambda match: pictures(), text))


if __name__ == "__main__":
    main()
