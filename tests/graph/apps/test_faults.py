"""Whose fault it is: a failed attempt, an error that the thread goes on from, or a mistake of the application's."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from agents import (
    CODE,
    QUESTION,
    calling,
    learner,
    retried,
    reviews,
    run_in_thread,
    thread,
)
from lamer_graph import MemoryConfig, RunLog
from lamer_graph.errors import ConfigError, GradeError
from lamer_graph.runlog import read_trials
from lamer_graph.runlog.schema import check
from lamer_memory import InContextMemory, MemoryBackendError


@tool
def broken(query: str) -> str:
    """Search for what is known."""
    raise ValueError(f"no index for {query}")


@pytest.mark.parametrize("sync", [True, False])
async def test_a_tools_exception_is_a_failed_attempt(sync: bool, tmp_path: Path) -> None:
    def answer(messages: Any) -> AIMessage:
        if reviews(messages):
            return AIMessage(f"<remark>The code word is {CODE}.</remark>")
        if any("The code word is" in m.text for m in messages):
            return AIMessage(CODE)
        return calling("broken", query="x")

    with RunLog.create(tmp_path / "run") as log:
        app, model = retried(answer, [broken], log=log)
        result = app.invoke(QUESTION) if sync else await app.ainvoke(QUESTION)
    assert result["success"]
    assert result["attempts"][0]["error"] == {"type": "ValueError", "message": "no index for x"}
    assert [m.type for m in result["attempts"][0]["messages"]] == ["ai"]
    review = next(asked for asked in model.asked if reviews(asked))
    assert "no index for x" in review[1].text
    assert check(tmp_path / "run").ok
    (trial,) = read_trials(tmp_path / "run")
    assert [episode["truncated"] for episode in trial["episodes"]] == [True, False]


def test_an_answer_that_waits_for_a_tool_is_none() -> None:
    app, _ = retried(
        lambda messages: AIMessage("<remark>x</remark>") if reviews(messages) else calling("broken", query="x"),
        [broken],
    )
    result = app.invoke(QUESTION)
    assert [message.type for message in result["messages"]] == ["human"]
    assert [attempt["error"]["type"] for attempt in result["attempts"]] == ["ValueError"] * 3


def test_the_recursion_limit_is_a_failed_attempt() -> None:
    app, _ = retried(
        lambda messages: AIMessage("<remark>stop</remark>") if reviews(messages) else calling("search", query="on"),
        recursion_limit=6,
        max_attempts=2,
    )
    result = app.invoke(QUESTION)
    assert [a["error"]["type"] for a in result["attempts"]] == ["GraphRecursionError"] * 2
    assert len(result["attempts"][0]["messages"]) == 6


@pytest.mark.parametrize("sync", [True, False])
async def test_a_hung_tool_ends_the_attempt_at_its_timeout(sync: bool) -> None:
    @tool
    def slow(query: str) -> str:
        """Search for what is known."""
        time.sleep(5)
        return "late"

    app, _ = retried(
        lambda messages: AIMessage("<remark>hm</remark>") if reviews(messages) else calling("slow", query="on"),
        [slow],
        attempt_timeout=0.4,
        max_attempts=2,
    )
    began = time.monotonic()
    result = app.invoke(QUESTION) if sync else await app.ainvoke(QUESTION)
    assert time.monotonic() - began < 4
    assert [a["error"] for a in result["attempts"]] == [
        {"type": "TimeoutError", "message": "the attempt did not end within 0.4 s"}
    ] * 2


def unreachable() -> openai.OpenAIError:
    return openai.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1:9/v1"))


@pytest.mark.parametrize("sync", [True, False])
async def test_a_model_that_cannot_be_reached_raises_and_the_thread_goes_on(sync: bool, tmp_path: Path) -> None:
    down = [True, True]

    def answer(messages: Any) -> AIMessage:
        if messages[-1].type == "tool" and down:
            down.pop()
            raise unreachable()
        return learner(messages)

    with RunLog.create(tmp_path / "run") as log:
        app, model = retried(answer, checkpointer=InMemorySaver(), log=log)
        for _ in range(2):
            with pytest.raises(openai.APIConnectionError):
                await run_in_thread(app, QUESTION if len(down) == 2 else None, sync)
        result = await run_in_thread(app, None, sync)
    assert result["success"]
    assert len(result["attempts"]) == 2
    assert len([asked for asked in model.asked if asked[-1].type == "human" and not reviews(asked)]) == 2
    errors = [trial["error"] and trial["error"]["type"] for trial in read_trials(tmp_path / "run")]
    assert errors == ["APIConnectionError", "APIConnectionError", None]


def test_any_models_own_error_raises_but_a_refused_request_is_the_attempts() -> None:
    class Refused(Exception):
        status_code = 400

    class Down(Exception):
        status_code = 503

    def failing(kind: type[Exception]) -> Any:
        def answer(messages: Any) -> AIMessage:
            if reviews(messages):
                return AIMessage("<remark>be brief</remark>")
            raise kind("of a provider that nobody here knows")

        return retried(answer, max_attempts=2)[0]

    with pytest.raises(Down):
        failing(Down).invoke(QUESTION)
    assert [a["error"]["type"] for a in failing(Refused).invoke(QUESTION)["attempts"]] == ["Refused", "Refused"]


def test_on_error_raise_raises_whatever_ends_an_attempt() -> None:
    app, _ = retried(lambda messages: calling("broken", query="x"), [broken], on_error="raise")
    with pytest.raises(ValueError, match="no index for x"):
        app.invoke(QUESTION)


def test_a_memory_that_fails_raises() -> None:
    class Lost(InContextMemory):
        def put(self, namespace: Any, records: Any) -> None:
            raise MemoryBackendError("the disk is gone")

    app, _ = retried(memory=MemoryConfig("reflection", backend=Lost()))
    with pytest.raises(MemoryBackendError, match="the disk is gone"):
        app.invoke(QUESTION)


def never(task: Any, result: Any) -> Any:
    raise ZeroDivisionError("no such field")


async def hanging(task: Any, result: Any) -> Any:
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("grade", "message"),
    [
        (never, "grader never failed: ZeroDivisionError: no such field"),
        (hanging, "grader hanging gave no grade within 0.3 s"),
        (lambda task, result: float("nan"), "must be a finite number"),
        (lambda task, result: "yes", "the grader returned 'yes' of str: return a Grade, a bool or a number"),
        (lambda task, result: None, "return a Grade, a bool or a number"),
    ],
)
@pytest.mark.parametrize("sync", [True, False])
async def test_a_grader_that_fails_is_no_failed_attempt(grade: Any, message: str, sync: bool) -> None:
    saver = InMemorySaver()
    app, _ = retried(grade=grade, timeout=0.3, checkpointer=saver)
    with pytest.raises(GradeError, match=message):
        await run_in_thread(app, QUESTION, sync)
    assert app.get_state(thread("t")).next == ("grade",)
    mended, _ = retried(checkpointer=saver)
    assert (await run_in_thread(mended, None, sync))["success"]


@pytest.mark.parametrize("who", ["grade", "reflect"])
def test_a_timeout_of_somebody_elses_is_reported_as_what_it_is(who: str) -> None:
    def slow(*_: Any) -> Any:
        raise TimeoutError("the proxy says 504")

    app, _ = retried(**{who: slow})
    with pytest.raises((GradeError, TimeoutError), match="the proxy says 504"):
        app.invoke(QUESTION)


async def test_an_async_grade_and_numbers_are_grades() -> None:
    async def grade(task: Any, result: Any) -> float:
        return 1.0 if result["messages"][-1].text == CODE else 0.25

    app, _ = retried(grade=grade)
    result = await app.ainvoke(QUESTION)
    assert [a["score"] for a in result["attempts"]] == [0.25, 1.0]
    assert app.invoke(QUESTION)["success"]


@pytest.mark.parametrize(
    "call",
    [
        AIMessage("", tool_calls=[{"name": "nowhere", "args": {}, "id": "1"}]),
        AIMessage("", tool_calls=[{"name": "search", "args": {"wrong": 1}, "id": "1"}]),
        AIMessage("", tool_calls=[{"name": "search", "args": {"query": q}, "id": q} for q in "abc"]),
        AIMessage("", invalid_tool_calls=[{"name": "search", "args": '{"que', "id": "1", "error": "cut"}]),
    ],
    ids=["unknown tool", "wrong arguments", "parallel calls", "unreadable arguments"],
)
def test_odd_tool_calls_leave_a_whole_trial(call: AIMessage, tmp_path: Path) -> None:
    def answer(messages: Any) -> AIMessage:
        return call.model_copy() if messages[-1].type == "human" and not reviews(messages) else learner(messages)

    with RunLog.create(tmp_path / "run") as log:
        app, _ = retried(answer, log=log)
        result = app.invoke(QUESTION)
    assert len(result["attempts"]) >= 2
    assert check(tmp_path / "run").ok


def test_a_huge_tool_output_is_bounded_wherever_it_goes_on(tmp_path: Path) -> None:
    @tool
    def flood(query: str) -> str:
        """Search for what is known."""
        return "x" * 10_000_000

    def answer(messages: Any) -> AIMessage:
        return (
            calling("flood", query="x") if messages[-1].type == "human" and not reviews(messages) else learner(messages)
        )

    with RunLog.create(tmp_path / "run") as log:
        app, model = retried(answer, [flood], memory="both", log=log)
        assert app.invoke(QUESTION)["success"]
    review = next(asked for asked in model.asked if reviews(asked))
    assert len(review[1].text) < 10_000
    assert "characters left out" in review[1].text
    assert (tmp_path / "run" / "trials.jsonl").stat().st_size < 200_000


def test_a_trial_that_another_version_has_begun_is_refused_in_one_line() -> None:
    app, _ = retried(review="reflection", checkpointer=InMemorySaver())
    app.invoke(QUESTION, thread("t"))
    trial = app.get_state(thread("t")).values["trial"]
    app.update_state(thread("t"), {"trial": {**trial, "format": 99}}, as_node="review")
    with pytest.raises(ConfigError, match="begun by another version"):
        app.invoke(None, thread("t"))
    assert app.invoke(QUESTION, thread("u"))["__interrupt__"]
