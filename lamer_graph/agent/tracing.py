"""What a tracer sees of a trial beside LangGraph's own runs: model calls of policies that are no chat models, turns of
the environment, and what was recalled.

What must stay true: where nobody listens (LangSmith, OpenTelemetry, a callback of the application's) it costs a look at
the configuration, and what is played is the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, LLMResult
from langgraph.config import get_config

from lamer_graph.policies.base import Policy
from lamer_graph.trial.calls import Generate
from lamer_graph.trial.states import EpisodeState, Json, TrialState
from lamer_graph.types import Completion, Message, Sampling

T = TypeVar("T")


def listening() -> Any:
    """The callbacks of the node that is running, None where nobody listens."""
    try:
        callbacks = get_config().get("callbacks")
    except RuntimeError:  # no graph runs around this call
        return None
    return callbacks if getattr(callbacks, "handlers", None) else None


def turn_of(s: EpisodeState) -> Json:
    """Where in its trial a turn is: attributes of the runs in it."""
    return {"lamer_trial": s["trial_id"], "lamer_episode": s["episode"] + 1, "lamer_turn": len(s["turns"]) + 1}


def end_of(s: TrialState) -> Json:
    """The same of what lies between two episodes."""
    return {"lamer_trial": s["trial_id"], "lamer_episode": len(s["episodes"])}


def around(policy: Policy, about: Callable[[], Mapping[str, Any]]) -> Callable[[Generate], Generate] | None:
    """What opens a model run around each call, None where nobody listens or the policy opens one by itself."""
    if policy.opens_runs or (callbacks := listening()) is None:
        return None
    name, attributes = type(policy).__name__, dict(about())

    def wrap(generate: Generate) -> Generate:
        async def traced(messages: Sequence[Message], sampling: Sampling) -> Completion:
            manager = _with(callbacks, attributes)
            asked = convert_to_messages([dict(message) for message in messages])
            # LangChain's own form of what a call is sent, from which tracers take the settings.
            told = {"invocation_params": {"_type": name, **sampling.to_json()}}
            (run,) = await _now(manager.on_chat_model_start({"name": name}, [asked], **told))
            try:
                made = await generate(messages, sampling)
            except BaseException as error:
                await _now(run.on_llm_error(error))
                raise
            await _now(run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=_said(made))]])))
            return made

        return traced

    return wrap


def _said(made: Completion) -> AIMessage:
    asked, answered = len(made.prompt_token_ids), len(made.token_ids)
    usage: Any = {"input_tokens": asked, "output_tokens": answered, "total_tokens": asked + answered}
    about = {"model_name": made.policy_version, "finish_reason": made.finish_reason}
    return AIMessage(made.text, response_metadata=about, usage_metadata=usage if answered else None)


async def step(callbacks: Any, env: str, now: EpisodeState, update: EpisodeState) -> None:
    """A turn's answer of the environment, as a tool's run: its reward and success are attributes of it."""
    turn = update["turns"][-1]
    came = {"lamer_reward": turn["reward"], "lamer_valid": turn["valid"], "lamer_success": update["success"]}
    manager = _with(callbacks, {**turn_of(now), **came})
    run = await _now(manager.on_tool_start({"name": env}, str(turn["action"])))
    await _now(run.on_tool_end(update["outcomes"][-1]))


class Recall:
    """A retriever's run around a recall of memory."""

    def __init__(self, s: TrialState) -> None:
        self._callbacks = listening()
        self._s = s

    @property
    def is_heard(self) -> bool:
        return self._callbacks is not None

    async def around(self, recalling: Awaitable[Json]) -> Json:
        """The update that a recall gives. Raises what it raises."""
        if self._callbacks is None:
            return await recalling
        about = {"lamer_trial": self._s["trial_id"], "lamer_episode": len(self._s["episodes"]) + 1}
        manager = _with(self._callbacks, about)
        asked = f"what is known of {self._s['task_id']}"
        run = await _now(manager.on_retriever_start({"name": "memory"}, asked, name="memory"))
        try:
            update = await recalling
        except BaseException as error:
            await _now(run.on_retriever_error(error))
            raise
        told = [Document(record["text"], metadata={"key": record["key"]}) for record in update["memory"]]
        await _now(run.on_retriever_end(told))
        return update


def _with(callbacks: Any, about: Mapping[str, Any]) -> Any:
    manager = callbacks.copy()
    manager.add_metadata(dict(about))
    return manager


async def _now(told: T | Awaitable[T]) -> T:
    """What a callback returns, be its manager a sync or an async one."""
    return await told if inspect.isawaitable(told) else told
