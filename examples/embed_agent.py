"""The agent inside an application's own graph: a person edits the reflection, the process may die in between.

    python examples/embed_agent.py            # some seconds on two cores

What it shows: the agent is a compiled LangGraph graph like any other, so it streams, checkpoints, interrupts and nests.
A `triage` node of the application chooses the task, the agent plays it as a subgraph, `thank` reports; before `reflect`
the run stops, a person writes the reflection, and the run goes on from the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from lamer_graph import LocalPolicy, create_lamer_agent

POLICY = Path(__file__).parent / "policies" / "minesweeper-warmstart"
ENV = "minesweeper:4x4-3"
