"""An application with tools, tasks and a grade: where is the key? `lamer-graph eval --task helpdesk:app` plays it.

    cd examples && lamer-graph eval --task helpdesk:app --policy DIR --tasks 100

The agent is LangChain's `create_agent` with three tools. Eight cabinets, one of them holds the key; two questions
narrow it down to two cabinets, and no attempt has more steps than two tools and an answer. So a first attempt that asks
well is right half of the time, and a second one that remembers what was found out is right always: what an attempt
finds out is worth more than its own chance of success. `train_helpdesk.py` trains a policy on it.
"""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool

from lamer_graph import Grade, task_agent
from lamer_graph.types import stable_seed

CABINETS = 8
STEPS = 6
"""Supersteps of an attempt: two calls of tools, each behind a call of the model, and the answer."""


def ticket(seed: int) -> dict[str, Any]:
    """A task: its number says nothing about the cabinet."""
    number, cabinet = 100 + stable_seed("ticket", seed) % 900, 1 + stable_seed("cabinet", seed) % CABINETS
    return {"input": f"Ticket {number}: where is the key?", "cabinet": cabinet}


def _cabinet(config: RunnableConfig) -> int:
    """Where the key of this trial's ticket is: tools find the task in the configuration."""
    return int(config["configurable"]["lamer_task"]["cabinet"])


@tool
def side(config: RunnableConfig) -> str:
    """Is the key in an odd or an even cabinet?"""
    return "odd" if _cabinet(config) % 2 else "even"


@tool
def half(config: RunnableConfig) -> str:
    """Is the key in a low (1 to 4) or a high (5 to 8) cabinet?"""
    return "low" if _cabinet(config) <= CABINETS // 2 else "high"


@tool
def open_cabinet(cabinet: int, config: RunnableConfig) -> str:
    """Look into a cabinet."""
    return "the key" if cabinet == _cabinet(config) else "empty"


def grade(task: dict[str, Any], result: dict[str, Any]) -> Grade:
    """Right or wrong; how far off nobody says."""
    right = result["messages"][-1].text == f"cabinet {task['cabinet']}"
    return Grade(right, "" if right else "wrong")


app = task_agent(
    tools=[side, half, open_cabinet],
    system_prompt="Find the key.",
    tasks=ticket,
    grade=grade,
    name="helpdesk",
    recursion_limit=STEPS,
)
