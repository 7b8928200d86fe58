"""From a trial's last state to a line of the run log.

What must stay true: the state is logged as it is, with the tokens its calls really used, once per trial; the run log
itself skips a trial that it already holds, so recording again after a crash is harmless, and another trial of the same
id gets one of its own, told by when they began. A field of a line is added here, in `schema` (with a default, for the
logs of before) and in `export`; a user's own are in `extra`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from lamer_graph.errors import RunLogError
from lamer_graph.text import plain_json
from lamer_graph.trial.deltas import unpacked
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.quoting import held
from lamer_graph.trial.states import EpisodeRecord, EpisodeState, Json, TrialState
from lamer_graph.trial.steps import progress_of

if TYPE_CHECKING:
    from lamer_graph.runlog import RunLog

MAX_EXTRA_BYTES = 1 << 16
"""Most that a user's own fields of a line may take, as JSON."""


class TrialRecorder:
    """Writes trials to a run log; give it as `context={"recorder": ..}` to log a graph run for training (an
    OpenAIPolicy must then be made with `training=True`, or its calls have no tokens).

    `on_line` is told of every line that was written, once it is on disk. `extra` are fields of the user's own for every
    line: a JSON object of at most `MAX_EXTRA_BYTES`; those of one trial come by `with_extra`. Raises RunLogError for
    others.
    """

    def __init__(
        self,
        log: RunLog,
        split: str | None = None,
        on_line: Callable[[Json], None] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.log = log
        self.split = split
        self.extra = checked_extra({} if extra is None else extra)
        self._on_line = on_line

    def with_extra(self, extra: Mapping[str, Any]) -> TrialRecorder:
        """A recorder into the same log, whose lines hold these fields too. Raises RunLogError for what is no JSON."""
        return TrialRecorder(self.log, self.split, self._on_line, {**self.extra, **checked_extra(extra)})

    def record(
        self, h: Harness, s: TrialState, error: Json | None = None, unfinished: EpisodeState | None = None
    ) -> None:
        """Append the trial; returns when it is on disk. `error` says what ended it early, in the midst of `unfinished`.

        Raises RunLogError.
        """
        line = self._line(h, s, error, unfinished)
        if self.log.append(line):
            self._tell(line)

    async def arecord(
        self,
        h: Harness,
        s: TrialState,
        error: Json | None = None,
        unfinished: EpisodeState | None = None,
        branch: Json | None = None,
    ) -> None:
        """`record`, async and batched with other trials' appends. `branch` says where a re-roll was begun."""
        line = self._line(h, s, error, unfinished)
        if branch is not None:
            line["branch"] = branch
        if await self.log.aappend(line):
            self._tell(line)

    def _line(self, h: Harness, s: TrialState, error: Json | None, unfinished: EpisodeState | None) -> Json:
        """The trial as one line of the log; the turns of `unfinished` are kept as a truncated episode."""
        calls = _Calls()
        episodes = _episodes(s, unfinished, calls)
        reflections = _reflections(s, error, calls)
        task = s["playing"]
        line = {
            "trial_id": s["trial_id"],
            "task": {
                "id": s["task_id"],
                "env": h.env.spec,
                "seed": task.get("seed"),
                "instance": task.get("instance"),
                "split": self.split,
            },
            "trial": s["trial"],
            "config_hash": self.log.config_hash,
            "memory": h.memory.to_json(),
            "sampling": h.policy.as_sent(h.asked),
            "texts": list(calls.texts),
            "episodes": episodes,
            "reflections": reflections,
            "memory_reads": s["reads"],
            "memory_writes": s["writes"],
            "success": s["success"],
            "timings": {
                "started": datetime.fromtimestamp(s["started"], tz=UTC).isoformat(timespec="microseconds"),
                "seconds": round(time.time() - s["started"], 6),
                "policy_seconds": round(calls.seconds, 6),
            },
            "error": error,
        }
        if escaped := held(calls.texts, h.prompts.control):
            line["escaped"] = escaped
        progress = list(s.get("progress", []))
        if progress and len(episodes) > len(s["episodes"]) and unfinished is not None:
            progress += progress_of(h, unfinished["env_state"])
        if progress and len(progress) == len(episodes) + 1:  # a trial of before may have begun without
            line["progress"] = progress
        if self.extra:
            line["extra"] = self.extra
        if not s.get("named", True):  # a thread's name is no promise that all its trials are in one checkpointer
            line["trial_id"] = self.log.name_of(line)
        return line

    def _tell(self, line: Json) -> None:
        if self._on_line is not None:
            self._on_line(line)


def checked_extra(extra: Any) -> Json:
    """A user's fields as they are logged. Raises RunLogError for what is not a JSON object, or too large a one."""
    try:
        data = orjson.dumps(plain_json(extra))
    except (TypeError, RecursionError) as error:
        raise RunLogError(f"extra must be a JSON object: {error}") from None
    if not data.startswith(b"{") or len(data) > MAX_EXTRA_BYTES:
        raise RunLogError(
            f"extra must be a JSON object of at most {MAX_EXTRA_BYTES:,} bytes, not {type(extra).__name__} of "
            f"{len(data):,}; keep a reference to what is larger"
        )
    found: Json = orjson.loads(data)
    return found


class _Calls:
    """The calls of a line: their texts, each once, and the time that they took."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.seconds = 0.0

    def logged(self, made: Json | None) -> Json | None:
        if made is None:
            return None
        self.seconds += made["seconds"]
        messages = [[m["role"], self.texts.setdefault(m["content"], len(self.texts))] for m in made["messages"]]
        return {**made, "messages": messages}


def _episodes(s: TrialState, unfinished: EpisodeState | None, calls: _Calls) -> list[Json]:
    episodes = list(s["episodes"])
    if unfinished is not None and unfinished["turns"]:
        turns = unfinished["turns"]
        reward = sum(turn["reward"] for turn in turns)
        episodes.append(EpisodeRecord(turns=turns, success=False, reward=reward, truncated=True))
    logged = []
    for number, episode in enumerate(episodes):
        apart = s.get("calls", [])[number : number + 1]
        made = unpacked(apart[0] if apart and apart[0] else [turn.get("call") for turn in episode["turns"]])
        played = zip(episode["turns"], made, strict=True)
        logged.append({**episode, "turns": [{**turn, "call": calls.logged(call)} for turn, call in played]})
    return logged


def _reflections(s: TrialState, error: Json | None, calls: _Calls) -> list[Json]:
    """The reflection of episode i is number i. One that a person wrote or edited has no call that could be trained on.

    One that was written when the error struck, before it was remembered, is the last.
    """
    written = {made["episode"]: made for made in s["reflection_calls"]}
    texts = [*s["reflections"]]
    if error is not None and s.get("reflection") is not None:
        texts.append(s["reflection"] or "")
    logged = []
    for number, text in enumerate(texts):
        made = written.get(number)
        own = made if made is not None and made["text"] == text else None
        valid = own is None or own["valid"]
        call = None if own is None else calls.logged(own["call"])
        logged.append({"episode": number, "text": text, "valid": valid, "call": call})
    return logged
