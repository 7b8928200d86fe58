"""The run log loses nothing acknowledged, and survives kills, crowds and full disks."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lamer_graph.errors import RunLogError
from lamer_graph.runlog import RunLog, read_trials
from lamer_graph.runlog import log as runlog
from log_samples import CONFIG, a_trial, filled, logged
from places import SUPPORT

WRITER = SUPPORT / "log_writer.py"


# -- acknowledged means on disk ---------------------------------------------------------------------------------------


def start_writer(folder, name, count, mode):
    command = [sys.executable, str(WRITER), str(folder), name, str(count), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_kill_9_loses_nothing_acknowledged(tmp_path, mode):
    acknowledged = set()
    for attempt, patience in enumerate((1, 7, 40)):
        name = f"task {attempt}"
        writer = start_writer(tmp_path, name, 3000, mode)
        for _ in range(patience):
            acknowledged.add((name, int(writer.stdout.readline())))
        time.sleep(0.003 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read()  # not `communicate`, which passes over what `readline` has buffered
        writer.wait()
        acknowledged |= {(name, int(line)) for line in rest.splitlines(keepends=True) if line.endswith("\n")}
        assert writer.returncode == -signal.SIGKILL
        keys = logged(tmp_path)
        assert len(keys) == len(set(keys))
        assert acknowledged <= set(keys)
    with RunLog.create(tmp_path, {"purpose": "test"}, resume=True) as log:
        assert log.trial_ids == {trial["trial_id"] for trial in read_trials(tmp_path)}


def test_several_processes_share_a_log(tmp_path):
    writers = [start_writer(tmp_path, f"writer {i}", 60, mode) for i, mode in enumerate(["sync", "async", "async"])]
    victim = start_writer(tmp_path, "victim", 3000, "async")
    victim.stdout.readline()
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    keys = logged(tmp_path)
    assert len(keys) == len(set(keys))
    assert {(f"writer {i}", index) for i in range(3) for index in range(60)} <= set(keys)


def test_a_forked_child_may_not_write_through_its_parents_log(tmp_path):
    with RunLog.create(tmp_path, CONFIG) as log:
        child = os.fork()
        if child == 0:
            try:
                log.append(a_trial())
            except RunLogError as error:
                os._exit(7 if "another process" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert logged(tmp_path) == []


def test_an_append_returns_after_its_fsync(tmp_path, monkeypatch):
    events = []
    real_write, real_fsync = os.write, os.fsync
    monkeypatch.setattr(runlog.os, "write", lambda fd, data: events.append("write") or real_write(fd, data))
    monkeypatch.setattr(runlog.os, "fsync", lambda fd: events.append("fsync") or real_fsync(fd))
    with RunLog.create(tmp_path, CONFIG) as log:
        events.clear()
        log.append(a_trial())
        assert events == ["write", "fsync"]
        asyncio.run(log.aappend(a_trial(index=1)))
        assert events == ["write", "fsync"] * 2


def test_trials_that_wait_together_share_one_fsync(tmp_path, monkeypatch):
    fsyncs = []
    real_fsync = os.fsync

    def slow_fsync(fd):
        time.sleep(0.01)
        fsyncs.append(fd)
        real_fsync(fd)

    async def everything(log):
        await asyncio.gather(*(log.aappend(a_trial(index=index)) for index in range(300)))

    with RunLog.create(tmp_path, CONFIG) as log:
        monkeypatch.setattr(runlog.os, "fsync", slow_fsync)
        asyncio.run(everything(log))
    assert len(logged(tmp_path)) == 300
    assert 1 <= len(fsyncs) < 30


def test_a_batch_is_bounded_in_bytes_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(runlog, "MAX_BATCH_BYTES", 3000)

    async def everything(log):
        await asyncio.gather(*(log.aappend(a_trial(index=i, note="x" * (i % 5) * 1000)) for i in range(100)))

    with RunLog.create(tmp_path, CONFIG) as log:
        asyncio.run(everything(log))
    assert [index for _, index in logged(tmp_path)] == list(range(100))


def test_a_cancelled_wait_disturbs_nobody(tmp_path):
    async def everything(log):
        waits = [asyncio.ensure_future(log.aappend(a_trial(index=index))) for index in range(20)]
        await asyncio.sleep(0)
        for wait in waits[::2]:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        assert all(wait.exception() is None for wait in waits[1::2])

    with RunLog.create(tmp_path, CONFIG) as log:
        asyncio.run(everything(log))
    assert {index for _, index in logged(tmp_path)} >= set(range(1, 20, 2))


def test_threads_and_loops_may_share_a_log(tmp_path):
    def sync(worker):
        for index in range(20):
            log.append(a_trial(f"sync {worker}", index))

    def run_loop(worker):
        async def everything():
            await asyncio.gather(*(log.aappend(a_trial(f"async {worker}", index)) for index in range(20)))

        asyncio.run(everything())

    with RunLog.create(tmp_path, CONFIG) as log:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(3) for work in (sync, run_loop)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(log.trial_ids) == 120
    assert len(set(logged(tmp_path))) == len(logged(tmp_path)) == 120


def test_close_writes_what_is_queued_and_ends_the_writer(tmp_path):
    async def leave_waiting(log):
        for index in range(50):
            asyncio.ensure_future(log.aappend(a_trial(index=index)))  # noqa: RUF006
        await asyncio.sleep(0)
        log.close()

    before = threading.active_count()
    log = RunLog.create(tmp_path, CONFIG)
    asyncio.run(leave_waiting(log))
    assert len(logged(tmp_path)) == 50
    assert threading.active_count() == before
    log.close()
    with pytest.raises(RunLogError, match="was closed"):
        log.append(a_trial(index=99))
    with pytest.raises(RunLogError, match="was closed"):
        asyncio.run(log.aappend(a_trial(index=99)))


# -- disks that refuse ------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_in_mid_line_costs_that_line_only(tmp_path):
    filled(tmp_path / "run", 0)
    (tmp_path / "run" / "run.json").unlink()
    writer = start_writer(tmp_path / "run", "task", 40, "full")
    out, err = writer.communicate()
    assert writer.returncode == 0, err
    acknowledged = [("task", int(line)) for line in out.split()]
    refused = err.splitlines()
    assert logged(tmp_path / "run") == acknowledged
    assert acknowledged[-1] == ("task", 39)
    assert refused
    assert len(refused) + len(acknowledged) in (40, 41)
    assert all("cannot write" in line and "File too large" in line and "--resume" in line for line in refused)


def test_a_full_device_is_an_error_with_the_reason(tmp_path):
    (tmp_path / "trials.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunLogError, match="No space left on device"), RunLog.create(tmp_path, CONFIG) as log:
        log.append(a_trial())


def test_when_the_write_fails_everyone_who_waits_hears_it_and_may_try_again(tmp_path, monkeypatch):
    async def everything(log):
        return await asyncio.gather(*(log.aappend(a_trial(index=index)) for index in range(20)), return_exceptions=True)

    real_write = os.write

    def full(fd, data):
        if len(data) < 50:
            raise OSError(28, "No space left on device")
        return real_write(fd, data[: len(data) - 40])

    with RunLog.create(tmp_path, CONFIG) as log:
        log.append(a_trial("before"))
        monkeypatch.setattr(runlog.os, "write", full)
        results = asyncio.run(everything(log))
        assert all(isinstance(result, RunLogError) and "No space left" in str(result) for result in results)
        assert log.trial_ids == {a_trial("before")["trial_id"]}
        assert logged(tmp_path) == [("before", 0)]
        monkeypatch.undo()
        asyncio.run(everything(log))
    assert len(logged(tmp_path)) == 21


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(RunLogError, match=f"cannot write the run folder {folder}"):
            RunLog.create(folder, CONFIG)
