"""The agent inside an application: streamed, checkpointed, corrected by a person, and as a node of another graph.

    python examples/embed_agent.py            # some ten seconds on two cores

`create_lamer_agent` returns a compiled LangGraph graph like any other. Before `reflect` the run stops; a person (here a
rule) writes the reflection, and the run goes on from its checkpoint, which could as well be another process tomorrow.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from lamer_graph import LocalPolicy, create_lamer_agent

POLICY = Path(__file__).parent / "policies" / "minesweeper-warmstart"
ENV = "minesweeper:4x4-3"


def corrected_by_a_person(policy: LocalPolicy, seed: int, checkpoints: SqliteSaver) -> dict[str, Any]:
    """One trial in which every reflection is written by someone who looked at the board."""
    agent = create_lamer_agent(
        policy, ENV, prompt_style="compact", checkpointer=checkpoints, interrupt_before=["reflect"]
    )
    thread: Any = {"configurable": {"thread_id": f"task-{seed}"}}
    given: Any = {"task": {"seed": seed}}
    while True:
        for event in agent.stream(given, thread, stream_mode="custom"):
            if event["event"] == "turn":
                print(f"  episode {event['episode'] + 1}, turn {event['turn'] + 1}: {event['outcome']}")
        state = agent.get_state(thread)
        if not state.next:
            return {"success": state.values["success"], "reflections": state.values["reflections"]}
        hit = state.values["episodes"][-1]["turns"][-1]["action"]
        agent.update_state(thread, {"reflection": f"mine at {hit}"})
        given = None


class Ticket(TypedDict, total=False):
    """The state of an application of its own; the agent shares `task`, `success` and `reflections` with it."""

    number: int
    task: dict[str, Any]
    success: bool
    reflections: list[str]
    answer: str


def as_a_node(policy: LocalPolicy, number: int) -> str:
    """The agent between two nodes of the application."""
    graph = StateGraph(Ticket)
    graph.add_node("triage", lambda ticket: {"task": {"seed": ticket["number"]}})
    graph.add_node("play", create_lamer_agent(policy, ENV, prompt_style="compact"))
    graph.add_node("report", lambda ticket: {"answer": "solved" if ticket["success"] else "not solved"})
    for start, end in ((START, "triage"), ("triage", "play"), ("play", "report"), ("report", END)):
        graph.add_edge(start, end)
    return str(graph.compile().invoke({"number": number})["answer"])


def main() -> None:
    policy = LocalPolicy(POLICY)
    with tempfile.TemporaryDirectory() as folder, SqliteSaver.from_conn_string(f"{folder}/trials.db") as checkpoints:
        print("a person writes the reflections:")
        print(corrected_by_a_person(policy, 7, checkpoints))
    print("as a node of another graph:")
    for number in range(5):
        print(f"  ticket {number}: {as_a_node(policy, number)}")


if __name__ == "__main__":
    main()
