"""The gateway's routes: trials that are opened, graded and ended, and the calls that an agent makes in between.

What must stay true: a call belongs to the trial whose key it bears, or which its header names beside the gateway's own
key, and to no other. It is on disk before the agent has its last byte. A trial's line is whole: it is not ended while
a call of it is being answered.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lamer_graph.errors import PolicyConnectionError
from lamer_graph.policies.tool_calls import as_messages
from lamer_graph.runlog import RunLog
from lamer_graph.text import plain_json
from lamer_graph.types import stable_seed
from lamer_graph.web.flowing import Gone, Quiet, Stream, flowing
from lamer_graph.web.gateway.answer import Asked, Heard
from lamer_graph.web.gateway.journal import Journal, OpenTrial, is_trial_key
from lamer_graph.web.gateway.lines import line_of
from lamer_graph.web.gateway.relay import Answered, OutOfTime, Relay, TooLong
from lamer_graph.web.http import (
    MAX_BODY_BYTES,
    Json,
    body_of,
    check_fields,
    event,
    is_retry,
    key_of,
    number_in,
    on_fault,
    on_refusal,
    problem,
    same,
    text_in,
)

TRIAL_HEADER = "x-lamer-trial"
"""Names the trial of a call that bears the gateway's own key."""
CALL_HEADER = "x-lamer-call"
"""Of the value "reflection": the call reflects on the attempt that ended last, and belongs to no attempt."""
MAX_NAME = 200
_NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
MAX_FEEDBACK = 20_000
SPLITS = ("train", "val", "test")


class Gateway:
    """One gateway: its journal, its log, and the server behind it."""

    def __init__(self, relay: Relay, log: RunLog, *, name: str = "agent", key: str | None = None) -> None:
        """`key` opens, grades and ends trials; None asks for none. Raises RunLogError."""
        self._relay = relay
        self._log = log
        self._name = name
        self._key = key
        self._journal = Journal(log.folder)
        self._answering: Counter[str] = Counter()
        self._closing: set[str] = set()
        self._grading = asyncio.Lock()
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/lamer/trials", self._list, methods=["GET"]),
                Route("/lamer/trials", self._open, methods=["POST"]),
                Route("/lamer/trials/{trial}/attempts", self._attempt, methods=["POST"]),
                Route("/lamer/trials/{trial}/end", self._end, methods=["POST"]),
                Route("/lamer/trials/{trial}", self._drop, methods=["DELETE"]),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/{rest:path}", self._other, methods=["GET", "POST"]),
            ],
            exception_handlers={HTTPException: on_refusal, Exception: on_fault},
            lifespan=self._open_for_good,
        )

    @asynccontextmanager
    async def _open_for_good(self, _: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self._relay.aclose()
            self._journal.close()

    @property
    def open_trials(self) -> list[OpenTrial]:
        return self._journal.all()

    # -- who asks -----------------------------------------------------------------------------------------------------

    def _check_owner(self, request: Request) -> None:
        """Raises HTTPException where the gateway's own key is missing."""
        if self._key is not None and not same(key_of(request) or "", self._key):
            raise HTTPException(401, "trials are opened, graded and ended with the gateway's own key (LAMER_API_KEY)")

    def _trial_of_call(self, request: Request) -> OpenTrial:
        """The trial that a call belongs to. Raises HTTPException."""
        key, named = key_of(request) or "", request.headers.get(TRIAL_HEADER)
        trial = self._journal.opened_by(key)
        if trial is not None:
            self._named(trial.trial_id)
            if named not in (None, trial.trial_id):
                raise HTTPException(
                    403, f"this key is another trial's than {named[:MAX_NAME]!r}: send no {TRIAL_HEADER}"
                )
            return trial
        if (self._key is not None and not same(key, self._key)) or (named is None and is_trial_key(key)):
            raise HTTPException(401, "this is the key of no open trial: its trial may be over")
        if named is None:
            raise HTTPException(
                400,
                "whose call is this? Open a trial (POST /lamer/trials) and send its api_key, or name it in the header "
                f"{TRIAL_HEADER}",
            )
        return self._named(named)

    def _named(self, trial_id: str) -> OpenTrial:
        trial = self._journal.trial(trial_id)
        if trial is None or trial_id in self._closing:
            raise HTTPException(404, f"no trial {trial_id[:MAX_NAME]!r} is open: open it first, or it is over")
        return trial

    @asynccontextmanager
    async def _closed_to_calls(self, trial: OpenTrial) -> AsyncIterator[None]:
        """While a trial is being ended no call may begin. Raises HTTPException where one is being answered."""
        if count := self._answering[trial.trial_id]:
            raise HTTPException(409, f"{count} call(s) of the trial are still being answered: wait for them first")
        self._closing.add(trial.trial_id)
        try:
            yield
        finally:
            self._closing.discard(trial.trial_id)

    # -- trials -------------------------------------------------------------------------------------------------------

    async def _health(self, _: Request) -> Response:
        return Json({"status": "ok"})

    async def _list(self, request: Request) -> Response:
        self._check_owner(request)
        trials = await asyncio.to_thread(self._journal.all)
        return Json({"trials": [{"trial_id": one.trial_id, "attempts": len(one.grades)} for one in trials]})

    async def _open(self, request: Request) -> Response:
        self._check_owner(request)
        body = plain_json(await body_of(request))
        check_fields(body, frozenset({"task", "trial_id", "split"}))
        task = body.get("task")
        if not task or not isinstance(task, str | dict):
            raise HTTPException(400, 'say which task it is: {"task": "What is 2 + 2?"}, or an object')
        split = body.get("split")
        if split is not None and split not in SPLITS:
            raise HTTPException(400, f"split must be one of {', '.join(SPLITS)}")
        named = text_in(body, "trial_id", MAX_NAME)
        if named is not None and not _NAMES.fullmatch(named):
            raise HTTPException(400, "trial_id must be of letters, digits, '.', '_' and '-'")
        if named in self._log.trial_ids:
            raise HTTPException(409, f"trial {named!r} is over, and in the log: choose another trial_id")
        digest = stable_seed(orjson.dumps(task, option=orjson.OPT_SORT_KEYS).decode())
        task_id = f"app:{self._name}/i{digest:016x}"
        trial = await asyncio.to_thread(self._journal.open, task_id, task, split, named)
        if trial.opening["task_id"] != task_id:
            raise HTTPException(409, f"trial {named!r} is open, of another task: choose another trial_id")
        base_url = f"{str(request.base_url).rstrip('/')}/v1"
        return Json({"trial_id": trial.trial_id, "api_key": self._journal.key_of(trial), "base_url": base_url})

    async def _attempt(self, request: Request) -> Response:
        self._check_owner(request)
        body = plain_json(await body_of(request))
        async with self._grading:
            trial = self._named(request.path_params["trial"])
            grade = _grade(body)
            if not _is_again(body, grade, trial):
                async with self._closed_to_calls(trial):
                    trial = await self._graded(trial, grade)
        return Json({"trial_id": trial.trial_id, "attempts": len(trial.grades)})

    async def _end(self, request: Request) -> Response:
        self._check_owner(request)
        body = plain_json(await body_of(request))
        trial_id = request.path_params["trial"]
        async with self._grading:
            if trial_id in self._log.trial_ids and self._journal.trial(trial_id) is None:
                return Json({"trial_id": trial_id, "logged": True})
            trial = self._named(trial_id)
            grade = _grade(body) if body else None
            async with self._closed_to_calls(trial):
                return Json(await self._ended(trial, grade))

    async def _graded(self, trial: OpenTrial, grade: dict[str, Any]) -> OpenTrial:
        """End the attempt that is being made. Raises HTTPException where nothing has been called in it."""
        if self._journal.is_empty(trial):
            raise HTTPException(409, "no call has been made in this attempt: there is nothing to grade")
        return await asyncio.to_thread(self._journal.grade, trial, grade)

    async def _ended(self, trial: OpenTrial, grade: dict[str, Any] | None) -> dict[str, Any]:
        """Write the trial's line, with `grade` for the attempt that is being made. Raises HTTPException."""
        if grade is not None and not (
            self._journal.is_empty(trial) and trial.grades[-1:] == [grade]
        ):  # else: once more
            trial = await self._graded(trial, grade)
        if not self._journal.is_empty(trial):
            raise HTTPException(409, 'its last attempt has no grade: end it with {"success": true}, false or a score')
        if not trial.grades:
            raise HTTPException(409, "nothing has been tried in it: DELETE it to forget it")
        calls = await asyncio.to_thread(self._journal.calls, trial)
        line = line_of(self._name, self._log.config_hash, trial, calls)
        await self._log.aappend(line)
        await asyncio.to_thread(self._journal.close_trial, trial)
        trainable = sum(call["answer"]["tokens"] is not None for call in calls)
        return {"trial_id": trial.trial_id, "logged": True, "calls": len(calls), "trainable": trainable}

    async def _drop(self, request: Request) -> Response:
        self._check_owner(request)
        async with self._grading:
            trial = self._named(request.path_params["trial"])
            async with self._closed_to_calls(trial):
                await asyncio.to_thread(self._journal.close_trial, trial)
        return Json({"trial_id": trial.trial_id, "logged": False})

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        key = key_of(request) or ""
        if self._key is not None and not same(key, self._key) and self._journal.opened_by(key) is None:
            raise HTTPException(401, "this is the key of no open trial: its trial may be over")
        try:
            return _passed_on(await self._relay.models())
        except (PolicyConnectionError, TooLong) as error:
            return problem(502, str(error) or "the server's answer is too long")

    async def _other(self, request: Request) -> Response:
        return problem(404, f"the gateway records chat completions; /v1/{request.path_params['rest'][:50]} it has not")

    async def _chat(self, request: Request) -> Response:
        self._trial_of_call(request)  # before anything of the body is read
        body = _checked(await body_of(request, MAX_BODY_BYTES))
        trial = self._trial_of_call(request)
        kind = request.headers.get(CALL_HEADER, "turn")
        call = _Call(self, request, trial, body, kind, self._relay.sampling(body))
        stack = AsyncExitStack()
        try:
            answered = await stack.enter_async_context(call.asked())
        except PolicyConnectionError as error:
            await stack.aclose()
            return problem(504 if isinstance(error, OutOfTime) else 502, str(error))
        except TooLong:
            await stack.aclose()
            return problem(502, "the server's answer is too long to pass on")
        except BaseException:
            await stack.aclose()
            raise
        if answered.events is None:
            async with stack:
                return await call.whole(answered)
        return Stream(call.chunks(answered.events, stack), stack)


class _Call:
    """One call on its way."""

    def __init__(
        self,
        gateway: Gateway,
        request: Request,
        trial: OpenTrial,
        body: dict[str, Any],
        kind: str,
        sampling: dict[str, Any],
    ) -> None:
        if kind not in ("turn", "reflection"):
            raise HTTPException(400, f"{CALL_HEADER} must be 'turn' or 'reflection', not {kind[:50]!r}")
        if kind == "reflection" and not trial.grades:
            raise HTTPException(409, "there is no attempt yet to reflect on: grade it first")
        self._gateway = gateway
        self._request = request
        self._trial = trial
        self._body = body
        self._reflection = kind == "reflection"
        self._sampling = sampling
        self._wanted = Asked.of(body)
        self._heard = Heard()
        self._began = time.perf_counter()

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[Answered]:
        """The answer of the model's server, while it comes."""
        answering, name = self._gateway._answering, self._trial.trial_id
        answering[name] += 1
        try:
            async with self._gateway._relay.chat(self._body) as answered:
                yield answered
        finally:
            answering[name] -= 1
            if not answering[name]:
                del answering[name]

    async def whole(self, answered: Answered) -> Response:
        """An answer that came at once: recorded, then passed on. A refusal is passed on and no call."""
        data = answered.data
        if answered.status != 200 or data is None:
            return _passed_on(answered)
        self._heard.whole(data)
        if await self._request.is_disconnected():  # an agent that has given up acts on nothing of it
            self._heard.ended = False
        await asyncio.to_thread(self._record)
        return Json(self._wanted.cleaned(data))

    async def chunks(
        self, events: AsyncIterator[dict[str, Any] | None], stack: AsyncExitStack
    ) -> AsyncGenerator[bytes, None]:
        """An answer that comes in chunks: recorded before the agent is told that it was the last."""
        recorded = False
        try:
            async with stack:
                async for data in flowing(self._request, events):
                    if isinstance(data, Quiet):
                        continue
                    if data is None:
                        break
                    self._heard.chunk(data)
                    if "error" in data and not data.get("choices"):
                        yield event(data)
                        return
                    if data.get("choices") or self._wanted.usage:
                        yield event(self._wanted.cleaned(data))
            recorded = True
            await asyncio.to_thread(self._record)
            if self._heard.ended:
                yield b"data: [DONE]\n\n"
            else:
                yield event(_broken(f"{self._gateway._relay.address} broke off its answer"))
        except Gone:
            return
        except (PolicyConnectionError, TooLong) as error:
            yield event(_broken(str(error) or "the answer is too long to pass on"))
        finally:
            if not recorded:  # the agent has gone, or the server: what was heard is no whole answer
                self._heard.ended = False
                self._record()

    def _record(self) -> None:
        self._gateway._journal.add_call(
            self._trial,
            {
                "attempt": len(self._trial.grades),
                "reflection": self._reflection,
                "messages": self._body["messages"],
                "again": is_retry(self._request),
                "answer": plain_json(self._heard.recorded()),
                "sampling": self._sampling,
                "seconds": round(time.perf_counter() - self._began, 6),
            },
        )


def _grade(body: dict[str, Any]) -> dict[str, Any]:
    """What a body says of an attempt. Raises HTTPException."""
    check_fields(body, frozenset({"success", "score", "feedback", "attempt"}))
    success, score = body.get("success"), number_in(body, "score")
    if success is None and score is None:
        raise HTTPException(400, 'say what the attempt came to: {"success": false}, or {"score": 0.5}')
    if not (success is None or isinstance(success, bool)):
        raise HTTPException(400, "success must be true or false")
    return {
        "success": score is not None and score >= 1.0 if success is None else success,
        "score": float(bool(success)) if score is None else score,
        "feedback": text_in(body, "feedback", MAX_FEEDBACK) or "",
    }


def _is_again(body: dict[str, Any], grade: dict[str, Any], trial: OpenTrial) -> bool:
    """Whether the grade of the body's attempt is there already, because an answer was lost. Raises HTTPException for
    an attempt that is not being made."""
    number, now = body.get("attempt"), len(trial.grades) + 1
    if number is None or number == now:
        return False
    if type(number) is int and 1 <= number < now and trial.grades[number - 1] == grade:
        return True
    if type(number) is int and 1 <= number < now:
        raise HTTPException(409, f"attempt {number} has another grade already: {trial.grades[number - 1]}")
    raise HTTPException(409, f"attempt {str(number)[:50]} is not the one that is being made: {now} is")


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    """A request that can be recorded. Raises HTTPException."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise HTTPException(400, 'messages must be a list, such as [{"role": "user", "content": ".."}]')
    if body.get("n") not in (None, 1):
        raise HTTPException(400, "a call has one answer here: leave n out, or call again")
    try:
        as_messages(messages)
    except Exception:  # LangChain has no one error for it
        raise HTTPException(
            400, "messages are malformed: each has a role and content, as OpenAI's API has it"
        ) from None
    return {**plain_json(body), "messages": plain_json(messages)}


def _passed_on(answered: Answered) -> Response:
    return Response(answered.body, answered.status, media_type="application/json")


def _broken(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "code": 502, "param": None}}
