"""From what a gateway has recorded of a trial to its line of the run log, in the format of every other.

What must stay true: a turn is a call, in the order in which calls were answered; an episode is an attempt, whose score
is the reward of its last turn. What the agent put into a prompt is never trained on, a call that brought no tokens
neither.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from lamer_graph.apps.lessons import text_of
from lamer_graph.apps.lines import Texts, call_of, episode, turn_of
from lamer_graph.policies.exact import TOKENS_KEY, drawn
from lamer_graph.policies.tool_calls import as_messages
from lamer_graph.runlog.lines import APPLICATION
from lamer_graph.trial.answers import MAX_REMARK_CHARS, extract_remark
from lamer_graph.trial.states import Json
from lamer_graph.web.gateway.journal import OpenTrial
from lamer_memory import MemoryConfig


def message_of(answer: Mapping[str, Any]) -> AIMessage:
    """A recorded answer as a message, with its tokens."""
    made = {"role": "assistant", "content": answer["content"], "tool_calls": answer["tool_calls"] or None}
    (message,) = as_messages([made])
    assert isinstance(message, AIMessage)
    message.response_metadata = {
        "finish_reason": answer["finish_reason"],
        "model_name": answer["model"],
        **({TOKENS_KEY: answer["tokens"]} if answer["tokens"] else {}),
    }
    return message


def line_of(name: str, config_hash: str, trial: OpenTrial, calls: Sequence[Mapping[str, Any]]) -> Json:
    """The trial as one line of the log."""
    texts = Texts()
    episodes = []
    for number, grade in enumerate(trial.grades):
        own = _acted_on([call for call in calls if call["attempt"] == number and not call["reflection"]])
        turns = [_turn(call, texts) for call in own]
        episodes.append(episode(turns, grade["success"], grade["score"], any(_cut(call) for call in own[-1:])))
    # The last that came to its end: an attempt has one reflection, however often the agent asked for it.
    last = {call["attempt"]: call for call in calls if call["reflection"] and not _cut(call)}
    reflections = [_reflection(call, texts) for call in last.values()]
    opening = trial.opening
    return {
        "trial_id": trial.trial_id,
        "task": {
            "id": opening["task_id"],
            "env": f"{APPLICATION}{name}",
            "seed": None,
            "instance": opening["task"] if isinstance(opening["task"], dict) else {"input": opening["task"]},
            "split": opening["split"],
        },
        "trial": opening["index"],
        "config_hash": config_hash,
        "memory": MemoryConfig("none").to_json(),  # what it remembers is the agent's own business
        "sampling": drawn([call["sampling"] for call in calls]),
        "texts": list(texts.places),
        "episodes": episodes,
        "reflections": reflections,
        "memory_reads": [],
        "memory_writes": [],
        "success": any(grade["success"] for grade in trial.grades),
        "timings": {
            "started": datetime.fromtimestamp(opening["started"], tz=UTC).isoformat(timespec="microseconds"),
            "seconds": round(max(0.0, time.time() - opening["started"]), 6),
            "policy_seconds": round(sum(call["seconds"] for call in calls), 6),
        },
        "error": None,
    }


def _acted_on(calls: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The calls without those whose answer was lost, so that the client asked once more."""
    kept: list[Mapping[str, Any]] = []
    for call in calls:
        if call.get("again") and kept and kept[-1]["messages"] == call["messages"]:
            kept.pop()
        kept.append(call)
    return kept


def _turn(call: Mapping[str, Any], texts: Texts) -> Json:
    prompt = as_messages(call["messages"])
    turn = turn_of(_new(prompt), prompt, message_of(call["answer"]), texts)
    return _timed(turn, call)


def _timed(made: Json, call: Mapping[str, Any]) -> Json:
    return {**made, "call": {**made["call"], "seconds": call["seconds"], "seed": call["sampling"].get("seed")}}


def _new(prompt: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """What has come since the model last spoke."""
    said = [place for place, message in enumerate(prompt) if isinstance(message, AIMessage)]
    return prompt[said[-1] + 1 :] if said else prompt[-1:]


def _reflection(call: Mapping[str, Any], texts: Texts) -> Json:
    prompt, answer = as_messages(call["messages"]), message_of(call["answer"])
    said = text_of(answer)
    remark, failure = extract_remark(said)
    text = said if failure is not None else remark  # an agent of somebody else's knows nothing of tags
    made = {"episode": call["attempt"] - 1, "text": text.strip()[:MAX_REMARK_CHARS], "valid": not _cut(call)}
    return _timed({**made, "call": call_of(prompt, answer, texts)}, call)


def _cut(call: Mapping[str, Any]) -> bool:
    return bool(call["answer"]["finish_reason"] == "cut")
