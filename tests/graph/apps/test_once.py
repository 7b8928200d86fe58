"""Tools that must not run again: their call in flight is not repeated when a killed attempt goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from agents import Told, calling, thread
from lamer_graph import once, task_agent, with_retries
from lamer_graph.apps.once import UNKNOWN
from lamer_graph.apps.tasks import TaskEnv
from lamer_graph.errors import ConfigError


class Killed(BaseException):
    """As a process that is gone: nothing catches it."""


class Payment:
    """A tool that is killed in the middle of its first call, and the agent that pays with it."""

    def __init__(self, guarded: bool = True, asks: bool = False) -> None:
        self.paid = 0
        self.saw: list[str] = []

        @tool
        def pay(amount: int) -> str:
            """Pay somebody."""
            if asks:
                return f"paid {amount}, {interrupt('may I?')}"
            self.paid += 1
            if self.paid == 1:
                raise Killed
            return f"paid {amount}"

        def answer(messages: Any) -> AIMessage:
            if messages[-1].type != "tool":
                return calling("pay", amount=7)
            self.saw.append(messages[-1].text)
            return AIMessage("done")

        self.model = Told(answer=answer)
        self.tool = once(pay) if guarded else pay
        agent = create_agent(self.model, [self.tool])
        self.app = with_retries(agent, grade=lambda *_: True, memory="none", checkpointer=InMemorySaver())


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("guarded", [True, False])
def test_a_call_that_was_in_flight_is_not_made_again(sync: bool, guarded: bool) -> None:
    payment = Payment(guarded)

    def run(given: Any) -> Any:
        config = thread("t")
        if sync:
            return payment.app.invoke(given, config, durability="sync")
        return asyncio.run(payment.app.ainvoke(given, config, durability="sync"))

    with pytest.raises(Killed):
        run({"messages": [("user", "Pay.")]})
    made = run(None)
    assert made["messages"][-1].text == "done"
    assert payment.paid == (1 if guarded else 2)
    assert payment.saw == ([UNKNOWN] if guarded else ["paid 7"])


def test_a_tool_that_asks_a_person_goes_on_with_the_reply() -> None:
    payment = Payment(asks=True)
    stopped = payment.app.invoke({"messages": [("user", "Pay.")]}, thread("t"))
    assert stopped["__interrupt__"][0].value == "may I?"
    payment.app.invoke(Command(resume="yes"), thread("t"))
    assert payment.saw == ["paid 7, yes"]


def test_the_tool_is_otherwise_the_same() -> None:
    payment = Payment()
    assert payment.tool.name == "pay"
    assert payment.tool.args_schema.model_json_schema()["properties"]["amount"]["type"] == "integer"  # type: ignore[union-attr]
    payment.paid = 1
    assert payment.tool.invoke({"amount": 3}) == "paid 3"


@pytest.mark.parametrize("where", ["metadata", "extras"])
def test_task_agent_takes_the_mark_on_a_tool(where: str) -> None:
    @tool
    def pay(amount: int) -> str:
        """Pay somebody."""
        return "paid"

    setattr(pay, where, {"restorable": False})
    app = task_agent(tools=[pay], tasks=[{"input": "Pay."}], grade=lambda *_: True, name="payments")
    assert isinstance(app, TaskEnv)
    graph = app.build(Told(answer=lambda _: AIMessage("done")))
    held = graph.nodes["tools"].bound.tools_by_name["pay"]
    assert any(kind.__name__ == "_Once" for kind in type(held).__mro__)


def test_what_is_no_tool_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes a tool of LangChain's"):
        once(print)  # type: ignore[type-var]
