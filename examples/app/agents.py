"""Two agents for LangGraph's own server: one that plays, one of an application's own that is given retries.

    pip install 'langgraph-cli[inmem]'          # in an environment without vLLM, whose pins exclude it
    cd examples/app && langgraph dev            # then look at both in Studio, or call them with langgraph-sdk

`player` is played by the model LAMER_MODEL of the OpenAI-compatible server LAMER_BASE_URL, or else by a rule.
LangGraph's server brings its own checkpointer and store, so that nothing is said of either here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from lamer_graph import Grade, OpenAIPolicy, create_lamer_agent, with_retries
from lamer_graph.policies.base import Policy
from lamer_graph.types import Completion, Message, Sampling

URL, MODEL = os.environ.get("LAMER_BASE_URL"), os.environ.get("LAMER_MODEL")


class Rule(Policy):
    """Opens cells from a corner on; in place of a model, so that this runs anywhere."""

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        asked = messages[-1]["content"]
        if "<remark>" in asked or "remark" in messages[0]["content"]:
            text = "<remark>Begin somewhere else.</remark>"
        else:
            turn = asked.count("You played")
            text = f"<action>({1 + turn // 4 % 4}, {1 + turn % 4})</action>"
        return Completion(text, (), (), (), policy_version="rule", finish_reason="stop")


player = create_lamer_agent(
    OpenAIPolicy(URL, MODEL) if URL else Rule(), "minesweeper:4x4-3", "reflection", name="player"
)


def guess(state: MessagesState) -> dict[str, Any]:
    """An application's own graph: it knows the answer once it has been told."""
    known = any("Turku" in str(message.content) for message in state["messages"] if message.type == "system")
    return {"messages": [AIMessage("Turku" if known else "Helsinki")]}


def grade(task: dict[str, Any], result: dict[str, Any]) -> Grade:
    said = result["messages"][-1].text
    return Grade(said == "Turku", "" if said == "Turku" else f"not {said}: it is the older city")


def reflect(transcript: str, feedback: str) -> str:
    return f"The grade said: {feedback}. The older city is Turku."


_graph: StateGraph[Any, Any, Any, Any] = StateGraph(MessagesState)
_graph.add_node("guess", guess)
_graph.add_edge(START, "guess")
_graph.add_edge("guess", END)
helper = with_retries(_graph.compile(), grade=grade, reflect=reflect, name="helper")
