"""Chat models and agents for tests of applications: what a model says is a function of what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph.state import CompiledStateGraph

from lamer_graph import Grade, MemoryConfig, with_retries

CODE = "blue"
QUESTION = {"messages": [("user", "What is the code word?")]}


class Told(BaseChatModel):
    """Answers by `answer(messages)`, and keeps what it was asked."""

    answer: Callable[[Sequence[BaseMessage]], AIMessage]
    asked: list[list[BaseMessage]] = []  # noqa: RUF012  (pydantic copies it)

    @property
    def _llm_type(self) -> str:
        return "told"

    def bind_tools(self, tools: Any, **_: Any) -> Told:  # type: ignore[override]
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.asked.append(list(messages))
        return ChatResult(generations=[ChatGeneration(message=self.answer(messages))])


def reviews(messages: Sequence[BaseMessage]) -> bool:
    """Whether a model is asked for a reflection."""
    return str(messages[0].content).startswith("You review")


def calling(name: str, /, **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call-{name}"}])


def learner(messages: Sequence[BaseMessage]) -> AIMessage:
    """Searches, then says the code word if a lesson has named it, else a wrong one."""
    if reviews(messages):
        return AIMessage(f"<remark>The code word is {CODE}.</remark>")
    if messages[-1].type != "tool":
        return calling("search", query="code word")
    known = any(f"> The code word is {CODE}" in str(message.content) for message in messages if message.type != "ai")
    return AIMessage(CODE if known else "red")


@tool
def search(query: str) -> str:
    """Search for what is known."""
    return f"nothing found for {query}"


def agent_of(
    answer: Callable[[Sequence[BaseMessage]], AIMessage] = learner, tools: Sequence[Any] = (search,), **more: Any
) -> tuple[CompiledStateGraph[Any, Any, Any, Any], Told]:
    """An agent of LangChain's, and the model that plays it."""
    model = Told(answer=answer)
    return create_agent(model, list(tools), **more), model


def graded(task: Any, result: Any) -> Grade:
    said = result["messages"][-1].text
    return Grade(said == CODE, "" if said == CODE else f"the code word is not {said}")


def thread(name: str, **more: Any) -> Any:
    return {"configurable": {"thread_id": name, **more}}


def retried(answer: Any = learner, tools: Any = (search,), **settings: Any) -> Any:
    agent, model = agent_of(answer, tools)
    if MemoryConfig.of(settings.get("memory", "reflection")).contents in ("reflection", "both"):
        settings.setdefault("reflect", model)
    settings.setdefault("grade", graded)
    return with_retries(agent, **settings), model


async def run_in_thread(app: Any, given: Any, sync: bool) -> Any:
    """Through the one door or the other, on thread "t"."""
    config = thread("t")
    return app.invoke(given, config, durability="sync") if sync else await app.ainvoke(given, config, durability="sync")
