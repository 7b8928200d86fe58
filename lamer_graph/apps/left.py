"""What a trial of an application leaves to later attempts and to other tasks, as records.

What must stay true: keys are deterministic, so that a step that is done again writes the same records over themselves.
"""

from __future__ import annotations

from typing import NamedTuple

from lamer_graph.apps import lessons
from lamer_graph.apps.knowing import about
from lamer_graph.apps.states import Attempt, RetryState
from lamer_memory import MemoryConfig, MemoryRecord
from lamer_memory.base import Kind
from lamer_memory.recall import ABOUT_KEY, kinds, make_record


class Left(NamedTuple):
    """The records of one application's trials; `name` is the application's."""

    memory: MemoryConfig
    name: str

    def memories(self, s: RetryState) -> list[MemoryRecord]:
        """What the attempt that has just failed leaves."""
        texts: dict[Kind, str] = {
            "reflection": s.get("reflection") or "",
            "trajectory": self._trajectory(s["attempts"][-1]),
        }
        last = len(s["attempts"]) - 1
        return [self._record(s, last, kind, texts[kind]) for kind in kinds(self.memory.contents) if texts[kind].strip()]

    def lessons(self, s: RetryState) -> list[MemoryRecord]:
        """What a solved trial leaves to other tasks': the transcript that won, and its reflections as ones that led to
        a success."""
        if self.memory.scope != "tasks" or not s["success"]:
            return []
        found = list[MemoryRecord]()
        for kind in kinds(self.memory.contents):
            if kind == "trajectory":
                found.append(self._record(s, len(s["attempts"]) - 1, kind, self._trajectory(s["attempts"][-1])))
            else:
                told = [(number, text) for number, text in enumerate(s["reflections"]) if text.strip()]
                found += [self._record(s, number, kind, text) for number, text in told]
        return found

    def _record(self, s: RetryState, episode: int, kind: Kind, text: str) -> MemoryRecord:
        trial = s["trial"]
        metadata = {"env": f"app:{self.name}", "spec": f"app:{self.name}"}
        if self.memory.scope == "tasks":  # a later trial looks for its like by what was asked
            metadata[ABOUT_KEY] = about(s)
        return make_record(trial["trial_id"], trial["task_id"], episode, kind, text, s["success"], metadata)

    def _trajectory(self, attempt: Attempt) -> str:
        told = lessons.transcript(attempt["messages"])
        graded = f"grade: {attempt['score']:g} {attempt['feedback']}".rstrip()
        return lessons.shortened(f"{told}\n{graded}", self.memory.max_chars)
