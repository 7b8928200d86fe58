"""The steps of a trial of an application: each fetches, decides and returns an update; see `retries` for their order.

What must stay true: every attempt starts from the caller's messages, never from a failed transcript; only the final
answer is added to them. What a step needs again after a crash is in the state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, cast

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, convert_to_messages
from langchain_core.runnables import Runnable
from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import get_runtime

from lamer_graph.agent import invocation
from lamer_graph.agent.person import Review, reviewed
from lamer_graph.agent.stops import kept
from lamer_graph.apps import events, lessons
from lamer_graph.apps.asking import answering
from lamer_graph.apps.attempt import Runner, Running, messages_in
from lamer_graph.apps.checking import Through
from lamer_graph.apps.grading import Grade, Grader, OutOfTime, called, graded
from lamer_graph.apps.knowing import TRIAL_KEY, Known, about, answer_of, check_format, error_of, of_theirs, opening
from lamer_graph.apps.left import Left
from lamer_graph.apps.lessons import Inject
from lamer_graph.apps.lines import Lines, line_of
from lamer_graph.apps.states import Attempt, RetryState
from lamer_graph.errors import ConfigError, PolicyError, RunLogError
from lamer_graph.policies.base import Policy, run_sync
from lamer_graph.text import plain
from lamer_graph.trial import keeping
from lamer_graph.trial.answers import MAX_REMARK_CHARS, extract_remark
from lamer_graph.trial.keeping import Keeper, Recalled
from lamer_graph.trial.states import Json
from lamer_graph.trial.tasks import trial_id_of
from lamer_graph.trial.whose import of_user
from lamer_graph.types import stable_seed
from lamer_memory import MemoryRecord
from lamer_memory.base import Namespace
from lamer_memory.recall import trial_namespace
from lamer_memory.utility import held_back


class Ways(NamedTuple):
    """How the application's own functions are used."""

    grade: Grader
    reflect: Any
    inject: Inject
    enter: Callable[[list[AnyMessage], list[str]], Any] | None
    leave: Callable[[Any], Any] | None
    review: Review | None
    timeout: float


class Nodes:
    """The node functions of one application."""

    def __init__(
        self,
        *,
        runner: Runner,
        ways: Ways,
        keeper: Keeper,
        user: str,
        namespace: Namespace | None,
        log: Lines | None,
        max_attempts: int,
        through: Through,
        name: str,
    ) -> None:
        self.runner = runner
        self.ways = ways
        self.keeper = keeper
        self.left = Left(keeper.memory, name)
        self.max_attempts = max_attempts
        self.through = through
        self.name = name
        self.user = user
        self._namespace = namespace
        self._log = log

    def is_over(self, s: RetryState) -> bool:
        return s["success"] or len(s["attempts"]) >= self.max_attempts

    def teaches(self, s: RetryState) -> bool:
        """Whether a trial that was won is still to be reflected on, for other tasks' sake."""
        return s["success"] and self.keeper.memory.lessons == "all" and len(s["reflections"]) < len(s["attempts"])

    # -- open ---------------------------------------------------------------------------------------------------------

    def open(self, s: RetryState) -> Json:
        trial = self._opened(s)
        return self._fresh(trial, keeping.recall(self.keeper, self._asking(trial, s, 0)))

    async def aopen(self, s: RetryState) -> Json:
        trial = self._opened(s)
        return self._fresh(trial, await keeping.arecall(self.keeper, self._asking(trial, s, 0)))

    def _opened(self, s: RetryState) -> Json:
        """What the trial is known by. Raises ConfigError where nothing is asked, or nobody says whose memory it is."""
        if not s.get("messages"):
            raise ConfigError('nothing is asked: invoke it with {"messages": [("user", "..")]}')
        given = get_config().get("configurable", {}).get(TRIAL_KEY)
        if isinstance(given, Known):  # what a client sends is no such object
            held = held_back(self.keeper.memory.control, 0, given.task_id, given.place)  # exact among a task's trials
            return {**opening(*given), "named": True, "held": held}
        whose = self._whose()
        unique, of_thread = invocation.named(whose, None)
        task_id = f"app:{self.name}/i{stable_seed(*(f'{m.type}:{lessons.text_of(m)}' for m in s['messages'])):016x}"
        number = (s.get("trial") or {}).get("number", 0) + 1
        trial_id = trial_id_of(task_id, 0, unique, number)
        held = held_back(self.keeper.memory.control, 0, trial_id, 0)  # a question that comes again is drawn again
        return {**opening(task_id, trial_id, whose, number=number), "named": not of_thread, "held": held}

    def _whose(self) -> Namespace:
        """Whose memory it is, and this application's; () where no record outlives its trial. Raises ConfigError."""
        if not self.keeper.outlives:
            return ()
        place = f"config['configurable'][{self.user!r}]"
        chosen = of_user(get_config().get("configurable", {}).get(self.user), place, self._namespace)
        if chosen is None:
            raise ConfigError(
                f"memory '{self.keeper.memory.contents}' in {type(self.keeper.backend).__name__} outlives its trial, "
                f"and nobody has said whose it is: say so with {place}, or once with namespace="
            )
        return (*chosen, f"app:{self.name}")

    def _fresh(self, trial: Json, found: Recalled) -> Json:
        """The update that opens a trial, whatever an earlier one has left on the thread."""
        return {
            "trial": self._recalled(trial, found, 0),
            "attempts": [],
            "reflections": [],
            "success": False,
            "result": None,
            "reflection": None,
            "best": None,
        }

    def _asking(self, trial: Json, s: RetryState, episode: int) -> keeping.Asking:
        return keeping.Asking(
            namespace=self._place(trial),
            trial_id=trial["trial_id"],
            task_id=trial["task_id"],
            episode=episode,
            about=lambda: about(s),
            kept=trial["records"],
            held=trial.get("held", False),
        )

    def _place(self, trial: Json) -> Namespace:
        return trial_namespace(self.keeper.memory, tuple(trial["namespace"]), trial["trial_id"])

    @staticmethod
    def _recalled(trial: Json, found: Recalled, episode: int) -> Json:
        told = [record.to_json() for record in found.records]
        return {**trial, "memory": told, "reads": [*trial["reads"], found.to_json(episode)]}

    # -- attempt ------------------------------------------------------------------------------------------------------

    def attempt(self, s: RetryState) -> Json:
        with self._logged(s):
            run = self._running(s)
            error = self.runner.run(run)
            if error is None:
                run.ended()
            return self._attempted(run, error)

    async def aattempt(self, s: RetryState) -> Json:
        async with self._alogged(s):
            run = self._running(s)
            error = await self.runner.arun(run)
            if error is None:
                run.ended()
            return self._attempted(run, error)

    def _running(self, s: RetryState) -> Running:
        number, trial = len(s["attempts"]) + 1, s["trial"]
        memory = [MemoryRecord.from_json(record) for record in trial["memory"]]
        told = lessons.lessons(memory)
        name = f"lamer-lessons-{number}"
        extra = {key: s[key] for key in self.through.inputs if key in s}  # type: ignore[literal-required]
        asked: Any
        if self.ways.enter is not None:
            asked = of_theirs("enter", self.ways.enter, list(s["messages"]), told)
            if asked is None:
                raise ConfigError("enter= returned None: return the graph's input")
        else:
            text = lessons.lesson_text(memory, trial["trial_id"], trial["task_id"])
            inject = self.ways.inject
            if callable(inject):
                asked = {**extra, "messages": list(of_theirs("inject", inject, list(s["messages"]), list(told)))}
            else:
                messages, more = lessons.injected(inject, s["messages"], text, name)
                asked = {**extra, **more, "messages": messages}
        given = messages_in(asked) if isinstance(asked, dict) and self.ways.enter is None else []
        known = frozenset({name, *(str(message.id) for message in [*s["messages"], *given] if message.id)})
        write = get_runtime().stream_writer
        return Running(
            number=number,
            trial=trial,
            input=asked,
            known=known,
            given=[message for message in given if message.id == name],
            leave=None if self.ways.leave is None else self._left,
            tell=lambda message: write(events.turn_event(number, message)),
        )

    def _left(self, result: Any) -> list[AnyMessage]:
        """The messages of an attempt that has come to `result`. Raises ConfigError for what are none."""
        found = of_theirs("leave", cast(Callable[[Any], Any], self.ways.leave), result)
        if found is None or isinstance(found, str):
            return [AIMessage(found)] if found else []
        if isinstance(found, BaseMessage):
            return [cast(AnyMessage, found)]
        try:
            return cast(list[AnyMessage], convert_to_messages(found))
        except Exception:  # LangChain has no one error for it
            raise ConfigError(
                f"leave= returned {str(found)[:100]!r}: return messages, or the answer as a text"
            ) from None

    def _attempted(self, run: Running, error: Json | None) -> Json:
        attempt = Attempt(
            messages=run.messages,
            given=run.given,
            success=False,
            score=0.0,
            feedback="",
            error=error,
            attempt_id=run.attempt_id,
        )
        return {"result": {"attempt": attempt, "values": run.values}}

    # -- grade --------------------------------------------------------------------------------------------------------

    def grade(self, s: RetryState) -> Json:
        with self._logged(s):
            return self._graded(s, run_sync(self._grade(s)))

    async def agrade(self, s: RetryState) -> Json:
        async with self._alogged(s):
            return self._graded(s, await self._grade(s))

    async def _grade(self, s: RetryState) -> Grade:
        attempt: Attempt = s["result"]["attempt"]
        if (error := attempt["error"]) is not None:
            return Grade(0.0, f"The attempt ended in an error. {error['type']}: {error['message']}", False)
        task = {"messages": s["messages"], **{key: s[key] for key in self.through.inputs if key in s}}  # type: ignore[literal-required]
        return await graded(self.ways.grade, task, s["result"]["values"], self.ways.timeout)

    def _graded(self, s: RetryState, grade: Grade) -> Json:
        values = s["result"]["values"]
        came = {"success": bool(grade.success), "score": grade.score, "feedback": grade.feedback}
        attempt = cast(Attempt, {**s["result"]["attempt"], **came})
        attempts = [*s["attempts"], attempt]
        get_runtime().stream_writer(events.attempt_event(len(attempts), attempt))
        best = s["best"]
        if best is None or grade.success or attempt["score"] >= best["score"]:
            out = {key: values[key] for key in self.through.outputs if isinstance(values, dict) and key in values}
            best = {"score": attempt["score"], "answer": answer_of(attempt), "out": out}
        return {"attempts": attempts, "success": bool(grade.success), "best": best, "result": None}

    # -- reflect, review, remember ------------------------------------------------------------------------------------

    def reflect(self, s: RetryState) -> Json:
        with self._logged(s):
            return run_sync(self._reflect(s))

    async def areflect(self, s: RetryState) -> Json:
        async with self._alogged(s):
            return await self._reflect(s)

    async def _reflect(self, s: RetryState) -> Json:
        attempt, number, how = s["attempts"][-1], len(s["attempts"]), self.ways.reflect
        told = lessons.transcript(attempt["messages"])
        made: Json = {"asked": [], "answer": None, "valid": True}
        try:
            if not isinstance(how, Policy | Runnable):
                text = await called(how, (told, attempt["feedback"]), self.ways.timeout) or ""
                if not isinstance(text, str):
                    raise ConfigError(f"reflect= returned {str(text)[:100]!r}: return a text")
            else:
                before = [record["text"] for record in s["trial"]["memory"]]
                asked = lessons.review(about(s), before, told, attempt["feedback"], number, self.max_attempts)
                if s["success"]:
                    asked = lessons.of_success(asked)
                answer = await called(
                    answering(how, asked, f"{s['trial']['trial_id']}/{number}/reflection"), (), self.ways.timeout
                )
                text, failure = extract_remark(plain(lessons.text_of(answer)))
                made = {"asked": asked if self._log else [], "answer": answer, "valid": failure is None}
        except OutOfTime:
            raise PolicyError(
                f"no reflection on attempt {number} within {self.ways.timeout:g} s; resume to reflect on it again"
            ) from None
        made["text"] = plain(text).strip()[:MAX_REMARK_CHARS]
        get_runtime().stream_writer(events.reflection_event(number, made["text"]))
        trial = s["trial"]
        return {"reflection": made["text"], "trial": {**trial, "reflections": [*trial["reflections"], made]}}

    def review(self, s: RetryState) -> Json:
        attempt = s["attempts"][-1]
        proposed = {
            "reflection": s["reflection"],
            "attempt": len(s["attempts"]),
            "feedback": attempt["feedback"],
            "error": attempt["error"],
        }
        text = reviewed(proposed)
        trial = s["trial"]
        *earlier, made = trial["reflections"]
        if text != made["text"]:  # a person's words are no call that could be trained on
            made = {"asked": [], "answer": None, "valid": True, "text": text}
        return {"reflection": text, "trial": {**trial, "reflections": [*earlier, made]}}

    async def areview(self, s: RetryState) -> Json:
        return self.review(s)

    def remember(self, s: RetryState) -> Json:
        if s["success"]:
            return self._concluded(s)
        records, trial = self._memories(s)
        with self._logged(s):
            keeping.remember(self.keeper, self._place(trial), records)
            found = keeping.recall(self.keeper, self._asking(trial, s, len(s["attempts"])))
        return self._remembered(s, trial, found)

    async def aremember(self, s: RetryState) -> Json:
        if s["success"]:
            return self._concluded(s)
        records, trial = self._memories(s)
        async with self._alogged(s):
            await keeping.aremember(self.keeper, self._place(trial), records)
            found = await keeping.arecall(self.keeper, self._asking(trial, s, len(s["attempts"])))
        return self._remembered(s, trial, found)

    @staticmethod
    def _concluded(s: RetryState) -> Json:
        """The update that takes over the reflection on an attempt that succeeded; `finish` writes it."""
        return {"reflections": [*s["reflections"], s.get("reflection") or ""], "reflection": None}

    def _memories(self, s: RetryState) -> tuple[list[MemoryRecord], Json]:
        """What the failed attempt leaves, and the trial with that noted."""
        records = self.left.memories(s)
        return records, self._noted(s["trial"], len(s["attempts"]) - 1, records)

    def _noted(self, trial: Json, episode: int, records: Sequence[MemoryRecord]) -> Json:
        trial = {
            **trial,
            "writes": [*trial["writes"], {"episode": episode, "keys": [record.key for record in records]}],
        }
        if not self.keeper.backend.persistent:
            trial["records"] = [*trial["records"], *(record.to_json() for record in records)]
        return trial

    def _remembered(self, s: RetryState, trial: Json, found: Recalled) -> Json:
        update: Json = {"trial": self._recalled(trial, found, len(s["attempts"])), "reflection": None}
        if self.keeper.reflects:
            update["reflections"] = [*s["reflections"], s.get("reflection") or ""]
        return update

    # -- finish -------------------------------------------------------------------------------------------------------

    def finish(self, s: RetryState) -> Json:
        taught = self.left.lessons(s)
        if taught:
            keeping.remember(self.keeper, self._place(s["trial"]), taught)
        keeping.settle(self.keeper, self._asking(s["trial"], s, 0), s["trial"]["reads"], self._won_in(s))
        trial = self._finished(s, taught)
        if self._log is not None:
            self._log.append(self._line(s, trial, None))
        return self._answer(s, trial)

    async def afinish(self, s: RetryState) -> Json:
        taught = self.left.lessons(s)
        if taught:
            await keeping.aremember(self.keeper, self._place(s["trial"]), taught)
        await keeping.asettle(self.keeper, self._asking(s["trial"], s, 0), s["trial"]["reads"], self._won_in(s))
        trial = self._finished(s, taught)
        if self._log is not None:
            await self._log.aappend(self._line(s, trial, None))
        return self._answer(s, trial)

    @staticmethod
    def _won_in(s: RetryState) -> int | None:
        return len(s["attempts"]) - 1 if s["success"] else None

    def _finished(self, s: RetryState, taught: Sequence[MemoryRecord]) -> Json:
        return self._noted(s["trial"], len(s["attempts"]) - 1, taught) if taught else s["trial"]

    def _answer(self, s: RetryState, trial: Json) -> Json:
        """The result: the answer of the attempt that succeeded, else of the best one."""
        best = s["best"] or {"answer": [], "out": {}}
        # The next trial on this thread counts on; what this one remembered is in its memory, or over with it.
        return {**best["out"], "messages": best["answer"], "trial": {"number": trial["number"]}, "best": None}

    # -- the log ------------------------------------------------------------------------------------------------------

    def _line(self, s: RetryState, trial: Json, error: Json | None) -> Json:
        log = cast(Lines, self._log)
        attempts = s["attempts"]
        if error is not None and s.get("result"):
            attempts = [*attempts, s["result"]["attempt"]]
        return line_of(log, self.name, s["messages"], attempts, trial, self.keeper.memory.to_json(), error)

    @contextmanager
    def _logged(self, s: RetryState) -> Iterator[None]:
        """Log what had been played if an error ends the trial here; a resume then logs the whole."""
        check_format(s)
        try:
            with kept():
                yield
        except Exception as error:
            if self._log is not None and not isinstance(error, GraphBubbleUp | RunLogError):
                self._log.append(self._line(s, s["trial"], error_of(error, s)))
            raise

    @asynccontextmanager
    async def _alogged(self, s: RetryState) -> AsyncIterator[None]:
        """`_logged`, async."""
        check_format(s)
        try:
            with kept():
                yield
        except Exception as error:
            if self._log is not None and not isinstance(error, GraphBubbleUp | RunLogError):
                await self._log.aappend(self._line(s, s["trial"], error_of(error, s)))
            raise
