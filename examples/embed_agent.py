"""The agent inside an application: streamed, checkpointed, corrected by a person, as a node of a graph, and as a tool.

    python examples/embed_agent.py            # some ten seconds on two cores

`create_lamer_agent` returns a compiled LangGraph graph like any other. Before `reflect` the run stops; a person (here a
rule) writes the reflection, and the run goes on from its checkpoint, which could as well be another process tomorrow.
The application has users and a context of its own; what the agent remembers from task to task lies in the application's
store, each user's by itself.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.store.memory import InMemoryStore
from typing_extensions import TypedDict

from lamer_graph import LocalPolicy, Sampling, create_lamer_agent
from lamer_memory import StoreMemory

POLICY = Path(__file__).parent / "policies" / "minesweeper-warmstart"
ENV = "minesweeper:4x4-3"
DICE = Sampling(seed=0)
"""The same play every time, for whoever reads along; without a seed every trial draws its own."""


def corrected_by_a_person(policy: LocalPolicy, seed: int, checkpoints: SqliteSaver) -> dict[str, Any]:
    """One trial in which every reflection is written by someone who looked at the board."""
    agent = create_lamer_agent(policy, ENV, sampling=DICE, checkpointer=checkpoints, interrupt_before=["reflect"])
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


@dataclass
class AppContext:
    """The application's own context; of it the agent reads whose memory it plays with, `user_id`, and nothing else."""

    user_id: str
    language: str = "en"


def as_a_node(policy: LocalPolicy, store: InMemoryStore) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The agent between two nodes of the application, with a memory of earlier tickets in the application's store."""
    graph = StateGraph(Ticket, context_schema=AppContext)
    graph.add_node("triage", lambda ticket: {"task": {"seed": ticket["number"]}})
    graph.add_node("play", create_lamer_agent(policy, ENV, sampling=DICE, store=store))
    graph.add_node("report", lambda ticket: {"answer": "solved" if ticket["success"] else "not solved"})
    for start, end in ((START, "triage"), ("triage", "play"), ("play", "report"), ("report", END)):
        graph.add_edge(start, end)
    return graph.compile()


def as_a_tool(policy: LocalPolicy, seed: int) -> str:
    """What a model that calls the agent as a tool is told."""
    agent = create_lamer_agent(policy, ENV, sampling=DICE)
    tool = agent.as_tool(name="play_minesweeper", description="Plays a MineSweeper board and says how it went.")
    call = {"type": "tool_call", "id": "1", "name": tool.name, "args": {"task": {"seed": seed}}}
    result = json.loads(tool.invoke(call).content)
    return f"{len(result['episodes'])} episodes, {'won' if result['success'] else 'lost'}"


def main() -> None:
    policy = LocalPolicy(POLICY)
    with tempfile.TemporaryDirectory() as folder, SqliteSaver.from_conn_string(f"{folder}/trials.db") as checkpoints:
        print("a person writes the reflections:")
        print(corrected_by_a_person(policy, 7, checkpoints))
    print("as a node of another graph:")
    store = InMemoryStore()
    app = as_a_node(policy, store)
    for number in range(6):
        user = ("ann", "bob")[number % 2]
        answer = app.invoke({"number": number}, context=AppContext(user))["answer"]
        kept = len(StoreMemory(store).search((user,), limit=100))
        print(f"  ticket {number} of {user}: {answer}; {kept} reflections are {user}'s")
    print("as a tool:")
    print(f"  {as_a_tool(policy, 3)}")


if __name__ == "__main__":
    main()
