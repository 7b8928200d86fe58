"""Agents as a server runs them: a graph over messages, or a policy that plays an environment.

What must stay true: whose memory an agent has is the user's of the key, and a thread belongs to that user: its name in
the checkpointer is made of both, so that no name that somebody thinks of is another's.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Any

import orjson
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel
from langgraph.types import Command
from starlette.exceptions import HTTPException

from lamer_graph.apps.events import turn_event
from lamer_graph.apps.lessons import text_of
from lamer_graph.apps.retries import RetryApp
from lamer_graph.errors import ConfigError
from lamer_graph.web.agent.chat import Answer, Request
from lamer_graph.web.agent.events import told
from lamer_graph.web.agent.threads import next_step


class Served(ABC):
    """An agent with a name."""

    name: str
    about: str
    """What it is for, for whoever chooses among tools."""

    async def forget(self, user: str, thread: str) -> None:
        """Delete a user's thread. Raises HTTPException where none are kept."""
        raise HTTPException(404, "this server keeps no threads")

    @abstractmethod
    async def begin(self, request: Request, user: str) -> AsyncIterator[str | Answer]:
        """The work on a request: lines of progress, and the answer at the end. Raises HTTPException for what cannot be
        worked on."""

    def place_of(self, user: str, thread: str) -> str:
        """The name of a user's thread in the checkpointer."""
        return f"lamer-{sha256(orjson.dumps([self.name, user, thread])).hexdigest()[:40]}"


class ServedApp(Served):
    """A compiled graph over `messages`: of `with_retries`, `create_agent`, or by hand."""

    def __init__(self, graph: Any, name: str, checkpointer: BaseCheckpointSaver[Any] | None = None) -> None:
        """`checkpointer` keeps threads where the graph has none. Raises ConfigError for what is no such graph."""
        if not isinstance(graph, Pregel):
            raise ConfigError(
                f"an app must be a compiled LangGraph graph, such as with_retries(..), not a {type(graph).__name__}"
            )
        if "messages" not in graph.get_input_jsonschema().get("properties", {}):
            raise ConfigError("an app's input must have messages, as with_retries(..) and create_agent(..) have")
        own = graph.checkpointer if isinstance(graph.checkpointer, BaseCheckpointSaver) else None
        saver = checkpointer or own
        self.name = name
        self.about = f"The agent {name}: it works on a task until it is solved, and learns from what failed."
        self._retries = isinstance(graph, RetryApp)
        self._user_key = graph.user_key if isinstance(graph, RetryApp) else "user_id"
        self._saver = saver
        self._once = graph.copy({"checkpointer": None})
        self._kept = graph.copy({"checkpointer": saver}) if saver is not None else None

    async def forget(self, user: str, thread: str) -> None:
        if self._saver is None:
            await super().forget(user, thread)
        else:
            await self._saver.adelete_thread(self.place_of(user, thread))

    async def begin(self, request: Request, user: str) -> AsyncIterator[str | Answer]:
        configurable: dict[str, Any] = {self._user_key: user}
        graph: Any = self._once
        more: dict[str, Any] = {}
        asked: Any = {"messages": request.messages}
        known: frozenset[str] = frozenset()
        if request.thread is not None:
            if self._kept is None:
                raise HTTPException(400, "this server keeps no threads: start it with --threads FILE, or send none")
            graph, more = self._kept, {"durability": "sync"}
            configurable["thread_id"] = self.place_of(user, request.thread)
            state = await graph.aget_state({"configurable": configurable})
            before = state.values.get("messages", []) if isinstance(state.values, dict) else []
            known = frozenset(str(message.id) for message in before)
            waits = any(task.interrupts for task in state.tasks)
            step = next_step(before, request.messages, waits=waits, cut=bool(state.next), retried=request.retried)
            if step.left_out:
                request.ignored.append("system message")
            if step.do == "answer again":
                return self._again(state.values)
            asked = {"messages": list(step.messages)}
            if step.do == "reply":
                asked = Command(resume=text_of(step.messages[-1]))
            elif step.do == "go on":
                asked = None
        stream = graph.astream(asked, {"configurable": configurable}, stream_mode=["custom", "values"], **more)
        return self._work(stream, known)

    async def _again(self, values: Any) -> AsyncIterator[str | Answer]:
        yield self._answer(values, frozenset())

    async def _work(self, stream: Any, known: frozenset[str]) -> AsyncIterator[str | Answer]:
        values: Any = {}
        async for mode, event in stream:
            if mode == "custom":
                if (line := told(event)) is not None:
                    yield line
                continue
            if not self._retries:
                for message in _new(event, values, known):
                    yield told(turn_event(1, message)) or ""
            values = event
        yield self._answer(values, known)

    def _answer(self, values: Any, known: frozenset[str]) -> Answer:
        if stops := values.get("__interrupt__"):
            return Answer(_question(stops[0].value), waits=True)
        messages: list[BaseMessage] = values.get("messages", [])
        attempts = values.get("attempts") if self._retries else None
        if attempts is None:
            return Answer(_said(messages), tokens=_tokens([m for m in messages if str(m.id) not in known]))
        written = [message for attempt in attempts for message in attempt["messages"]]
        text = _said(messages)
        if not text:
            ended = "ended in an error" if attempts[-1]["error"] else "ended without one"
            text = f"There is no answer: each of {len(attempts)} attempt(s) {ended}."
        return Answer(text, success=values["success"], attempts=len(attempts), tokens=_tokens(written))


def _new(values: Any, before: Any, known: frozenset[str]) -> list[BaseMessage]:
    """The messages that a step has written, of a graph that says nothing itself."""
    had = {str(message.id) for message in before.get("messages", ())} | known
    found = [m for m in values.get("messages", ()) if str(m.id) not in had and m.type in ("ai", "tool")]
    return found if before else []


def _said(messages: Sequence[BaseMessage]) -> str:
    """The last word, where the model has it."""
    return text_of(messages[-1]) if messages and isinstance(messages[-1], AIMessage) else ""


def _tokens(messages: Sequence[BaseMessage]) -> tuple[int, int]:
    used = [m.usage_metadata for m in messages if isinstance(m, AIMessage) and m.usage_metadata]
    return sum(one["input_tokens"] for one in used), sum(one["output_tokens"] for one in used)


def _question(value: Any) -> str:
    """What a graph asks a person, as a text."""
    return value if isinstance(value, str) else orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2).decode()


class ServedPlayer(Served):
    """A policy that plays an environment: a request names a task, by its seed or as an instance."""

    def __init__(self, agent: Any, spec: str, name: str, seed: int | None = None) -> None:
        """`agent` is `create_lamer_agent`'s. `seed` makes every request draw the same; None another each time."""
        self.name = name
        self.about = f'Plays {spec}. The task is a seed, as {{"seed": 7}}, or {{"instance": {{..}}}}.'
        self._agent = agent
        self._spec = spec
        self._seed = seed

    async def begin(self, request: Request, user: str) -> AsyncIterator[str | Answer]:
        if request.thread is not None:
            raise HTTPException(400, "an environment's trials have no threads: send none")
        seed = secrets.randbits(31) if self._seed is None else self._seed
        config: Any = {"configurable": {"user_id": user}}
        task = _task(text_of(request.messages[-1]))
        return self._work(
            self._agent.astream({"task": task}, config, context={"seed": seed}, stream_mode=["custom", "values"])
        )

    async def _work(self, stream: Any) -> AsyncIterator[str | Answer]:
        values: Any = {}
        async for mode, event in stream:
            if mode == "custom" and (line := told(event)) is not None:
                yield line
            elif mode == "values":
                values = event
        episodes = values["episodes"]
        came = f"solved in episode {len(episodes)}" if values["success"] else f"not solved in {len(episodes)} episodes"
        played = ", ".join(str(turn["action"]) for turn in episodes[-1]["turns"])
        yield Answer(f"{self._spec}: {came}. The last: {played}", success=values["success"], attempts=len(episodes))


def _task(text: str) -> dict[str, Any]:
    """The task that a request names. Raises HTTPException."""
    try:
        found = orjson.loads(text)
    except ValueError:
        found = None
    if isinstance(found, int) and not isinstance(found, bool):
        return {"seed": found}
    if isinstance(found, dict) and (set(found) == {"seed"} or set(found) == {"instance"}):
        return found
    raise HTTPException(400, 'name a task: {"seed": 7}, or {"instance": {..}} as `Env.load` takes it')
