"""From a trial of an application to a line of the run log, in the format of the environments'.

What must stay true: a turn is a call of a model, an episode an attempt; its grade's score is the reward of its last
turn. What tools and people said stands in the prompts and is never trained on; a call whose message brought no tokens
(`policies.exact`) is logged without any, and so is not trained on either.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

from langchain_core.messages import AIMessage, BaseMessage

from lamer_graph.apps.lessons import shortened, shown, text_of
from lamer_graph.apps.memory_tools import accesses
from lamer_graph.apps.policy_chat import messages_of
from lamer_graph.policies.exact import RAW_KEY, TOKENS_KEY, drawn, exact
from lamer_graph.runlog.lines import APPLICATION
from lamer_graph.trial.states import Json
from lamer_graph.trial.steps import MAX_TEXT_CHARS
from lamer_graph.types import Message

_ROLES = {"system": "system", "human": "user", "ai": "assistant", "tool": "tool"}


@runtime_checkable
class Lines(Protocol):
    """Where lines go: a RunLog, or what stands before one."""

    config_hash: str

    def name_of(self, trial: Mapping[str, Any]) -> str: ...

    def append(self, trial: Mapping[str, Any]) -> bool: ...

    async def aappend(self, trial: Mapping[str, Any]) -> bool: ...


class Texts:
    """The texts of a line, each once."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def messages(self, messages: Sequence[BaseMessage]) -> list[list[Any]]:
        return [[role_of(m), self.places.setdefault(_words(m), len(self.places))] for m in messages]

    def chat(self, messages: Sequence[Message]) -> list[list[Any]]:
        """What a policy read, word for word: a log's prompts are rendered again from it."""
        return [[m["role"], self.places.setdefault(m["content"], len(self.places))] for m in messages]


def role_of(message: BaseMessage) -> str:
    """A message's role as OpenAI names it."""
    return _ROLES.get(message.type, "user")


def _words(message: BaseMessage) -> str:
    """A message in the words of a log: with its tool calls, at most `MAX_TEXT_CHARS`."""
    if isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls):
        return shortened(shown(message), MAX_TEXT_CHARS)
    return shortened(text_of(message), MAX_TEXT_CHARS)


def _said(answer: AIMessage) -> str:
    """The whole answer: as it was sampled, where that is known."""
    raw = answer.response_metadata.get(RAW_KEY)
    return raw[:MAX_TEXT_CHARS] if isinstance(raw, str) else _words(answer)


def call_of(prompt: Sequence[BaseMessage], answer: AIMessage, texts: Texts) -> Json:
    """The call that `answer` answered, with its tokens where it brought them."""
    metadata = answer.response_metadata
    tokens = exact(answer) or {}
    read = messages_of(metadata.get(TOKENS_KEY))
    return {
        "messages": texts.messages(prompt) if read is None else texts.chat(read),
        "prompt_token_ids": list(tokens.get("prompt_token_ids", ())),
        "token_ids": list(tokens.get("token_ids", ())),
        "logprobs": list(tokens.get("logprobs", ())),
        "policy_version": str(tokens.get("policy_version") or metadata.get("model_name") or "unknown"),
        "finish_reason": str(metadata.get("finish_reason") or "unknown"),
        "seed": tokens.get("seed"),
        "dropped": 0,
        "seconds": float(tokens.get("seconds", 0.0)),
    }


def turn_of(new: Sequence[BaseMessage], prompt: Sequence[BaseMessage], answer: AIMessage, texts: Texts) -> Json:
    """A call of a model as a turn: it read `prompt`, of which `new` had come since its last one."""
    return {
        "observation": shortened("\n".join(_words(one) for one in new), MAX_TEXT_CHARS),
        "action": shortened(shown(answer), MAX_TEXT_CHARS),
        "reward": 0.0,
        "valid": not answer.invalid_tool_calls,
        "text": _said(answer),
        "call": call_of(prompt, answer, texts),
    }


def episode(turns: list[Json], success: bool, score: float, truncated: bool) -> Json:
    """An attempt's turns as an episode: its score is the reward of the last."""
    if turns:
        turns[-1]["reward"] = score
    return {
        "turns": turns,
        "success": success,
        "reward": sum(turn["reward"] for turn in turns),
        "truncated": truncated,
    }


def episode_of(asked: Sequence[BaseMessage], attempt: Mapping[str, Any], texts: Texts) -> Json:
    """An attempt as an episode: a turn for every message of a model."""
    turns: list[Json] = []
    before: list[BaseMessage] = [*attempt["given"], *asked]
    new: list[BaseMessage] = list(asked[-1:])
    for message in attempt["messages"]:
        if isinstance(message, AIMessage):
            turns.append(turn_of(new, before, message, texts))
            new = []
        else:
            new.append(message)
        before.append(message)
    return episode(turns, attempt["success"], attempt["score"], attempt["error"] is not None)


def _with_tools(own: Sequence[Json], attempts: Sequence[Mapping[str, Any]], kind: str) -> list[Json]:
    """What the trial itself read or wrote, and behind it of each attempt what the agent's memory tools did."""
    told = [one for number, attempt in enumerate(attempts) for one in accesses(attempt["messages"], number, kind)]
    return sorted([*own, *told], key=lambda one: one["episode"])


def line_of(
    log: Lines,
    app: str,
    asked: Sequence[BaseMessage],
    attempts: Sequence[Mapping[str, Any]],
    trial: Mapping[str, Any],
    memory: Json,
    error: Json | None,
) -> Json:
    """A trial as one line of the log."""
    texts = Texts()
    episodes = [episode_of(asked, attempt, texts) for attempt in attempts]
    answers = [m for attempt in attempts for m in attempt["messages"] if isinstance(m, AIMessage)]
    answers += [made["answer"] for made in trial["reflections"] if made["answer"] is not None]
    reflections = []
    for number, made in enumerate(trial["reflections"]):
        answer = made["answer"]
        call = None if answer is None else call_of(made["asked"], answer, texts)
        reflections.append({"episode": number, "text": made["text"], "valid": made["valid"], "call": call})
    line = {
        "trial_id": trial["trial_id"],
        "task": {
            "id": trial["task_id"],
            "env": f"{APPLICATION}{app}",
            "seed": None,
            "instance": {"messages": [[role_of(message), _words(message)] for message in asked]},
            "split": None,
        },
        "trial": trial["index"],
        "config_hash": log.config_hash,
        "memory": memory,
        "sampling": drawn([(exact(answer) or {}).get("sampling") for answer in answers]),
        "texts": list(texts.places),
        "episodes": episodes,
        "reflections": reflections,
        "memory_reads": _with_tools(trial["reads"], attempts, "reads"),
        "memory_writes": _with_tools(trial["writes"], attempts, "writes"),
        "success": any(attempt["success"] for attempt in attempts),
        "timings": {
            "started": datetime.fromtimestamp(trial["started"], tz=UTC).isoformat(timespec="microseconds"),
            "seconds": round(time.time() - trial["started"], 6),
            "policy_seconds": 0.0,
        },
        "error": error,
    }
    if not trial["named"]:  # a thread's name is no promise that all its trials are in one checkpointer
        line["trial_id"] = log.name_of(line)
    return line
