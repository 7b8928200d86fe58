"""The baseline of bench_graph: the same nested graph with nothing in it but an environment step.

An outer graph of one episode node, an inner one whose `act` returns a Command: LangGraph's own cost of a turn. Nothing
of ours is imported but the environment.
"""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from lamer_envs import make


class Trial(TypedDict, total=False):
    seed: int
    episodes: list[int]


class Episode(TypedDict, total=False):
    state: dict[str, Any]
    turns: list[str]


def bare_agent(turns: int, *, asynchronous: bool, episodes: int = 3) -> Any:
    """`invoke({"seed": n})`, or `ainvoke`, plays `episodes` episodes of `turns` invalid actions each."""
    env = make("minesweeper", size=4, mines=3)
    limit: Any = {"recursion_limit": turns + 5}

    def act(now: Episode) -> Command[Any]:
        step = env.step(now["state"], "(9, 9)")
        played = [*now.get("turns", []), "(9, 9)"]
        return Command(update={"state": step.state, "turns": played}, goto="act" if len(played) < turns else END)

    async def aact(now: Episode) -> Command[Any]:
        return act(now)

    inner = StateGraph(Episode)
    inner.add_node("act", aact if asynchronous else act, destinations=("act", END))
    inner.add_edge(START, "act")
    compiled = inner.compile()

    def episode(now: Trial) -> Trial:
        played = compiled.invoke({"state": env.reset(now["seed"])}, limit)
        return {"episodes": [*now.get("episodes", []), len(played["turns"])]}

    async def aepisode(now: Trial) -> Trial:
        played = await compiled.ainvoke({"state": env.reset(now["seed"])}, limit)
        return {"episodes": [*now.get("episodes", []), len(played["turns"])]}

    outer = StateGraph(Trial)
    outer.add_node("episode", aepisode if asynchronous else episode)
    outer.add_edge(START, "episode")
    outer.add_conditional_edges(
        "episode", lambda now: END if len(now["episodes"]) == episodes else "episode", [END, "episode"]
    )
    return outer.compile()
