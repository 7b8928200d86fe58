"""A Chroma directory that another process keeps: the contract of every backend, and what if either process ends."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from places import SUPPORT

pytest.register_assert_rewrite("lamer_memory.conformance")

from chroma_writer import record_of  # noqa: E402
from lamer_memory import MemoryBackendError, make_record  # noqa: E402
from lamer_memory.chroma import process as chroma_process  # noqa: E402
from lamer_memory.chroma.memory import ChromaMemory  # noqa: E402
from lamer_memory.chroma.process import ChromaProcess  # noqa: E402
from lamer_memory.conformance import BackendConformance, MakeBackend  # noqa: E402
from lamer_memory.errors import MemoryLockedError, MemoryServerError  # noqa: E402

WRITER = SUPPORT / "chroma_writer.py"
SPACE = ("shared",)


def record(number, text="x"):
    return make_record("trial", "task", number, "reflection", text, False)


def keeper_of(memory):
    return memory._keeper._process


@pytest.mark.slow  # the rules are those of a Chroma in this process
class TestChromaProcess(BackendConformance):
    @pytest.fixture
    def make_backend(self, tmp_path) -> MakeBackend:
        return lambda: ChromaProcess(tmp_path)

    @pytest.fixture
    def reopen(self, make_backend) -> MakeBackend:
        return make_backend


@pytest.mark.slow
class TestChromaProcessWithoutVectors(BackendConformance):
    @pytest.fixture
    def make_backend(self, tmp_path) -> MakeBackend:
        return lambda: ChromaProcess(tmp_path, embedder=None)

    @pytest.fixture
    def reopen(self, make_backend) -> MakeBackend:
        return make_backend


def test_one_process_keeps_all_stores(tmp_path):
    one, two = ChromaProcess(tmp_path / "one"), ChromaProcess(tmp_path / "two")
    assert keeper_of(one) is keeper_of(two)
    one.put(SPACE, [record(1)])
    two.put(SPACE, [record(2)])
    one.close()
    assert [entry.record.episode for entry in two.search(SPACE)] == [2]
    assert two.namespaces() == [SPACE]
    two.close()
    assert keeper_of(two).poll() is None  # it waits for the next store


def test_writes_take_effect_in_the_order_in_which_they_were_asked_for(tmp_path):
    memory = ChromaProcess(tmp_path, embedder=None)

    async def main():
        for number in range(20):
            both = memory.aput(SPACE, [record(number)]), memory.adelete(SPACE, [record(number).key])
            await asyncio.gather(*(both if number % 2 else reversed(both)))

    asyncio.run(main())
    assert [entry.record.episode for entry in memory.search(SPACE, limit=50)] == [*range(18, -1, -2)]
    memory.close()


def test_several_puts_at_once_are_one_write_with_an_outcome_each(tmp_path):
    memory = ChromaProcess(tmp_path, embedder=None)
    outcomes = asyncio.run(memory.aput_all([(SPACE, [record(0), record(1)]), (("other",), [record(2)]), (SPACE, [])]))
    assert outcomes == [None, None, None]
    assert len(memory.search(SPACE)) == 2
    assert len(memory.search(("other",))) == 1
    memory.close()


def test_a_second_process_is_told_who_has_it(tmp_path):
    memory = ChromaProcess(tmp_path)
    with pytest.raises(MemoryLockedError, match=f"in use by process {keeper_of(memory).pid}"):
        ChromaMemory(tmp_path)
    memory.close()
    ChromaMemory(tmp_path).close()


def test_errors_of_opening_are_those_of_chroma(tmp_path):
    held = ChromaMemory(tmp_path)
    with pytest.raises(MemoryLockedError, match=f"in use by process {os.getpid()}"):
        ChromaProcess(tmp_path)
    held.close()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MemoryBackendError, match="file"):
        ChromaProcess(tmp_path / "file")


def test_a_forked_child_is_refused(tmp_path):
    memory = ChromaProcess(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            memory.put(SPACE, [record(0)])
        except MemoryBackendError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    memory.close()


def test_an_interrupt_at_the_terminal_is_not_the_keepers(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from lamer_memory import make_record\n"
        "from lamer_memory.chroma.process import ChromaProcess\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "memory = ChromaProcess(sys.argv[1], embedder=None)\n"
        "os.killpg(0, signal.SIGINT)\n"
        "memory.put(('a',), [make_record('t', 't', 0, 'reflection', 'x', False)])\n"
        "memory.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], start_new_session=True, timeout=120, check=False)
    assert done.returncode == 0
    memory = ChromaMemory(tmp_path, embedder=None)
    assert len(memory.search(("a",))) == 1
    memory.close()


def test_a_keeper_that_dies_is_an_error_and_the_next_store_has_a_new_one(tmp_path):
    memory = ChromaProcess(tmp_path, embedder=None)
    for number in range(5):
        memory.put(SPACE, [record(number)])

    async def main():
        writes = [asyncio.create_task(memory.aput(SPACE, [record(number)])) for number in range(5, 200)]
        await asyncio.sleep(0)
        keeper_of(memory).kill()
        return await asyncio.gather(*writes, return_exceptions=True)

    outcomes = asyncio.run(main())
    assert {type(outcome) for outcome in outcomes} <= {type(None), MemoryServerError}
    assert MemoryServerError in {type(outcome) for outcome in outcomes}
    with pytest.raises(MemoryServerError, match=r"ended \(exit status -9\)"):
        memory.search(SPACE)
    again = ChromaProcess(tmp_path, embedder=None)
    assert keeper_of(again) is not keeper_of(memory)
    acknowledged = {*range(5), *(number for number, outcome in enumerate(outcomes, 5) if outcome is None)}
    assert acknowledged <= {entry.record.episode for entry in again.search(SPACE, limit=500)}
    again.close()
    memory.close()


@pytest.mark.parametrize("said", ["", "[0, 1, nul"])
def test_a_keeper_that_ends_before_or_within_its_answer_is_an_error(tmp_path, monkeypatch, said):
    code = f"import sys; sys.stdin.readline(); sys.stdout.write({said!r}); sys.exit(5)"
    monkeypatch.setattr(chroma_process, "COMMAND", [sys.executable, "-c", code])
    monkeypatch.setattr(chroma_process, "_current", None)
    with pytest.raises(MemoryServerError, match="exit status 5"):
        ChromaProcess(tmp_path)


def test_a_keeper_that_hangs_is_given_up(tmp_path, monkeypatch):
    memory = ChromaProcess(tmp_path, embedder=None)
    os.kill(keeper_of(memory).pid, signal.SIGSTOP)
    monkeypatch.setattr(chroma_process, "ANSWER_SECONDS", 0.2)
    try:
        with pytest.raises(MemoryServerError, match="has not answered"):
            memory.search(SPACE)
        with pytest.raises(MemoryServerError, match="has not answered"):
            asyncio.run(memory.asearch(SPACE))
    finally:
        os.kill(keeper_of(memory).pid, signal.SIGCONT)
    monkeypatch.undo()
    assert memory.search(SPACE) == []
    memory.close()


@pytest.mark.parametrize("kill_at", [37, 700])
def test_kill_9_of_who_writes_loses_no_acknowledged_record_and_doubles_none(tmp_path, kill_at):
    command = [sys.executable, WRITER, tmp_path, "w", 1000, "--each", 10, "--no-vectors", "--apart"]
    writer = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
    acknowledged = []
    for line in writer.stdout:
        acknowledged += [record_of("w", number) for number in range(int(line), int(line) + 10)]
        if len(acknowledged) >= kill_at:
            writer.kill()
    assert writer.wait() == -signal.SIGKILL
    memory = ChromaProcess(tmp_path, embedder=None)  # at once: the keeper of the killed one is still about to go
    found = [entry.record for entry in memory.search(SPACE, limit=2000)]
    assert [record for record in found if record in acknowledged] == acknowledged[::-1]
    assert len(found) == len({record.key for record in found}) < 1000
    memory.close()
