"""The sync door: one loop after the other's call, whatever the thread, and no call in another one's loop."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fake_server import FakeServer, fake_server
from lamer_graph.policies import loops
from lamer_graph.policies.base import run_sync
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.types import Message, Sampling

ACT: list[Message] = [{"role": "user", "content": "Act"}]
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


async def loop_of() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def thread_of() -> int:
    return threading.get_ident()


@pytest.fixture
def counted() -> Any:
    """A fake server that counts the connections that were opened to it."""
    with fake_server() as server:
        opened = 0
        accept = server.get_request

        def counting() -> Any:
            nonlocal opened
            opened += 1
            return accept()

        server.get_request = counting  # type: ignore[method-assign]
        yield server, lambda: opened


def ask(policy: OpenAIPolicy, number: int = 0) -> str:
    return policy.generate_sync(ACT, Sampling(seed=number)).text


def test_a_plain_call_runs_in_the_callers_thread() -> None:
    assert run_sync(thread_of()) == threading.get_ident()


def test_calls_from_inside_a_running_loop_share_one_loop_and_its_connection(counted: tuple[FakeServer, Any]) -> None:
    server, opened = counted
    policy = OpenAIPolicy(server.url)

    async def notebook() -> None:
        assert run_sync(loop_of()) is run_sync(loop_of())
        for number in range(10):
            ask(policy, number)

    for _ in range(3):
        asyncio.run(notebook())
    assert opened() == 1
    assert len(policy._http._clients) == 1
    run_sync(policy.aclose())


def test_threads_that_come_and_go_find_the_connections_of_those_before(counted: tuple[FakeServer, Any]) -> None:
    server, opened = counted
    policy = OpenAIPolicy(server.url)
    for batch in range(5):  # each `.batch` of LangChain has threads of its own
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda number: ask(policy, number), range(batch * 8, batch * 8 + 8)))
    assert 1 <= opened() <= 4
    run_sync(policy.aclose())


def test_a_call_inside_a_call_inside_a_loop_ends() -> None:
    async def nested(depth: int) -> int:
        return depth if depth == 0 else 1 + run_sync(nested(depth - 1))

    assert run_sync(nested(6)) == 6


def test_context_variables_go_along() -> None:
    async def who() -> str:
        return WHO.get()

    async def inside() -> str:
        return run_sync(who())

    WHO.set("the caller")
    assert run_sync(who()) == "the caller"
    assert asyncio.run(inside()) == "the caller"


def test_an_error_is_the_callers_and_the_loop_is_used_again() -> None:
    async def fails() -> None:
        raise ValueError("as provoked")

    before = run_sync(loop_of())
    with pytest.raises(ValueError, match="as provoked"):
        run_sync(fails())
    assert run_sync(loop_of()) is before


def test_an_interrupted_call_does_not_go_on_inside_the_next_one() -> None:
    went_on = []

    async def interrupted() -> None:
        asyncio.get_running_loop().call_soon(_interrupt)
        await asyncio.sleep(0.01)
        went_on.append(True)

    def _interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sync(interrupted())
    run_sync(asyncio.sleep(0.05))
    assert went_on == []


def test_closing_a_policy_closes_the_connections_of_loops_that_nobody_runs(counted: tuple[FakeServer, Any]) -> None:
    server, _ = counted
    policy = OpenAIPolicy(server.url)
    ask(policy)
    client = next(iter(policy._http._clients.values()))
    asyncio.run(policy.aclose())  # from another loop than that of the call
    assert client.is_closed()
    assert ask(policy)  # and it may be used again
    run_sync(policy.aclose())


def test_more_loops_than_are_kept_are_closed() -> None:
    together = threading.Barrier(loops.MOST_IDLE + 8)

    async def meet() -> None:
        together.wait(60)

    with ThreadPoolExecutor(loops.MOST_IDLE + 8) as threads:
        list(threads.map(lambda _: run_sync(meet()), range(loops.MOST_IDLE + 8)))
    assert len(loops._kept.idle) == loops.MOST_IDLE


def _in_child(out: Any) -> None:
    async def inside() -> int:
        return run_sync(thread_of())

    out.put((run_sync(thread_of()) == threading.get_ident(), asyncio.run(inside()) != threading.get_ident()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_loops_and_threads_of_its_own() -> None:
    async def inside() -> None:
        run_sync(asyncio.sleep(0))

    asyncio.run(inside())  # there is a kept thread now, which no child has
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    child = context.Process(target=_in_child, args=(out,))
    child.start()
    try:
        assert out.get(timeout=60) == (True, True)
    finally:
        child.join(10)
        if child.is_alive():
            os.kill(child.pid or 0, 9)
    run_sync(asyncio.sleep(0))  # the parent's are as they were


# -- calls that wait for nothing --------------------------------------------------------------------------------------


async def one() -> int:
    return 1


def test_a_call_that_waits_for_nothing_is_a_task_like_any_other() -> None:
    async def call() -> tuple[Any, Any, str]:
        return asyncio.current_task(), asyncio.get_running_loop(), WHO.get()

    WHO.set("ann")
    task, loop, who = run_sync(call())
    assert isinstance(task, asyncio.Task)
    assert task.get_loop() is loop
    assert who == "ann"
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_errors_and_interrupts_of_the_first_step_come_out_and_the_next_call_is_none_the_worse() -> None:
    async def raises(error: BaseException) -> None:
        raise error

    for error in (ValueError("no"), KeyboardInterrupt(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            run_sync(raises(error))
        assert run_sync(one()) == 1


def test_time_limits_hold_from_the_first_step() -> None:
    async def limited(seconds: float) -> int:
        async with asyncio.timeout(0.05):
            await asyncio.sleep(seconds)
        return 1

    assert run_sync(limited(0)) == 1
    with pytest.raises(TimeoutError):
        run_sync(limited(5))


def test_what_a_call_leaves_for_later_goes_on_and_nothing_piles_up() -> None:
    done: list[int] = []
    kept: list[Any] = []

    async def later() -> None:
        done.append(1)

    async def leaves() -> None:
        kept.append(asyncio.create_task(later()))
        asyncio.get_running_loop().call_later(60, done.append, 2).cancel()

    for _ in range(300):
        run_sync(leaves())
    assert len(done) >= 299
    loop: Any = run_sync(loop_of())
    assert len(loop._scheduled) < 200  # cancelled timers are cleared away in heaps of a hundred
