"""An application with tasks, as a user would write one: a code word is found in a drawer that only a failure names."""

from __future__ import annotations

from langchain_core.tools import tool

from lamer_graph import Grade, task_agent

TASKS = [{"input": f"What is the code word of room {n}?", "answer": f"w{n}"} for n in range(40)]


@tool
def look(room: int) -> str:
    """Look into a room."""
    return f"The code word of room {room} is w{room}."


def grade(task: dict, result: dict) -> Grade:
    said = result["messages"][-1].text
    return Grade(task["answer"] in said, "" if task["answer"] in said else "that is not the code word")


app = task_agent(tools=[look], tasks=TASKS, grade=grade, name="helpdesk", recursion_limit=12)
