"""In-context memory keeps the contract of every backend, and what it promises beyond it."""

import asyncio
import subprocess
import sys
import time

import pytest

pytest.register_assert_rewrite("lamer_memory.conformance")

from lamer_memory import InContextMemory, make_record  # noqa: E402
from lamer_memory.conformance import BackendConformance, MakeBackend  # noqa: E402


class TestInContextMemory(BackendConformance):
    @pytest.fixture
    def make_backend(self) -> MakeBackend:
        return InContextMemory


def test_it_says_that_records_die_with_the_process():
    assert InContextMemory.persistent is False


def test_async_forms_run_inline_without_giving_up_the_loop():
    memory = InContextMemory()
    put = memory.aput(("a",), [make_record("t", "task", 0, "reflection", "x", False)])
    with pytest.raises(StopIteration):  # the coroutine ends at its first step: no thread, no await
        put.send(None)
    assert len(asyncio.run(memory.asearch(("a",)))) == 1


def test_a_forgotten_namespace_leaves_nothing_behind():
    memory = InContextMemory()
    for i in range(100):
        memory.put(("run", str(i)), [make_record(str(i), "task", 0, "reflection", "x", False)])
        memory.delete(("run", str(i)), [f"{i}/0/reflection"] if i % 2 else None)
    assert memory._spaces == {}


def test_put_and_search_do_not_slow_down_with_the_number_of_trials():
    def seconds(memory: InContextMemory, trials: range) -> float:
        started = time.process_time()
        for i in trials:
            memory.put(("run", str(i)), [make_record(str(i), "task", 0, "reflection", "x", False)])
            memory.search(("run", str(i)))
        return time.process_time() - started

    crowded = InContextMemory()
    seconds(crowded, range(30_000))
    fresh = min(seconds(InContextMemory(), range(2_000)) for _ in range(3))
    late = min(seconds(crowded, range(k, k + 2_000)) for k in (30_000, 32_000, 34_000))
    assert late < 5 * fresh


def test_importing_the_package_is_light():
    heavy = "torch transformers trl vllm chromadb numpy pytest langgraph pydantic"
    code = f"import sys, lamer_memory; print([m for m in '{heavy}'.split() if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
