"""The run log loses nothing acknowledged, drops nothing but a torn tail, and survives kills, crowds and full disks."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamer_graph.errors import RunLogError
from lamer_graph.runlog import RunLog, check, config_hash, read_config, read_trials, write_atomic
from lamer_graph.runlog import log as runlog
from log_samples import a_trial
from places import SUPPORT

CONFIG = {"env": "minesweeper:6x6-3", "episodes": 3, "sampling": {"temperature": 1.0, "top_k": 0}}
WRITER = SUPPORT / "log_writer.py"
shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def logged(folder):
    return [(trial["task"]["id"], trial["trial"]) for trial in read_trials(folder)]


def a_named(task, index):
    """The least that a line must say."""
    return {"trial_id": f"{task}#{index}", "task": {"id": task}, "trial": index}


def lines_of(folder):
    return (Path(folder) / "trials.jsonl").read_bytes()


def filled(folder, count=3):
    with RunLog.create(folder, CONFIG) as log:
        for index in range(count):
            log.append(a_trial(index=index))
    return folder


# -- what is written is read ------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@shared_folder
@given(notes=st.lists(json_values, min_size=1, max_size=5))
def test_trials_come_back_as_they_were(tmp_path_factory, notes):
    folder = tmp_path_factory.mktemp("run")
    trials = [{**a_trial(index=index), "memory": {"note": note}} for index, note in enumerate(notes)]
    with RunLog.create(folder, CONFIG) as log:
        for trial in trials:
            log.append(trial)
    assert list(read_trials(folder)) == [{"schema_version": 1, **trial} for trial in trials]


def test_each_line_is_one_trial_and_begins_with_its_schema_version(tmp_path):
    filled(tmp_path / "run", 2)
    lines = lines_of(tmp_path / "run").split(b"\n")
    assert len(lines) == 3
    assert lines[2] == b""
    assert all(line.startswith(b'{"schema_version":1,"trial_id":') for line in lines[:2])


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\n", "\r\n", "\x00"])
def test_line_separators_inside_strings_do_not_split_a_trial(tmp_path, separator):
    trial = a_trial(note=f"one{separator}two")
    with RunLog.create(tmp_path, CONFIG) as log:
        log.append(trial)
        log.append(a_trial(index=1))
    assert [read["texts"] for read in read_trials(tmp_path)] == [trial["texts"], a_trial()["texts"]]


def test_half_a_surrogate_pair_does_not_cost_the_trial(tmp_path):
    with RunLog.create(tmp_path, CONFIG) as log:
        log.append(a_trial(note="broken \ud83d, whole \U0001f600"))
    (trial,) = read_trials(tmp_path)
    assert trial["texts"][1] == "the board broken \\ud83d, whole \U0001f600"


def test_a_trial_that_is_not_json_is_refused_and_nothing_is_written(tmp_path):
    with RunLog.create(tmp_path, CONFIG) as log:
        for bad, message in (
            ({**a_trial(), "memory": {"backend": object()}}, "JSON-plain"),
            ({**a_trial(), "schema_version": 2}, "schema 2"),
            ({"trial": 3}, "no trial_id"),
            ({"trial_id": 3}, "no trial_id"),
        ):
            with pytest.raises(RunLogError, match=message):
                log.append(bad)
        log.append(a_trial())
    assert len(logged(tmp_path)) == 1


def test_a_trial_is_logged_once(tmp_path):
    async def several(log):
        written = await asyncio.gather(*(log.aappend(a_trial(index=1, note=str(i))) for i in range(5)))
        assert written == [True, False, False, False, False]

    with RunLog.create(tmp_path, CONFIG) as log:
        assert log.append(a_trial(note="first"))
        assert not log.append(a_trial(note="again"))
        asyncio.run(several(log))
    with RunLog.create(tmp_path, CONFIG, resume=True) as log:
        assert log.trial_ids == {a_trial()["trial_id"], a_trial(index=1)["trial_id"]}
        assert not log.append(a_trial(note="after a restart"))
    assert [trial["texts"][1] for trial in read_trials(tmp_path)] == ["the board first", "the board 0"]


def test_a_trial_that_an_error_ended_is_not_finished_and_may_be_played_again(tmp_path):
    failure = {"type": "PolicyConnectionError", "message": "no server", "episode": 1, "turn": 0}
    failed, finished = {**a_trial(), "error": failure}, a_trial()
    with RunLog.create(tmp_path, CONFIG) as log:
        log.append(failed)
        assert log.trial_ids == set()
    with RunLog.create(tmp_path, CONFIG, resume=True) as log:
        assert log.trial_ids == set()
        log.append(finished)
        log.append(finished)
        log.append(failed)  # late news: it has finished meanwhile
        assert log.trial_ids == {a_trial()["trial_id"]}
    assert [trial["error"] for trial in read_trials(tmp_path)] == [failure, None]
    assert check(tmp_path).duplicates == []


# -- any history ------------------------------------------------------------------------------------------------------

some_ids = st.sampled_from(["", "t#0", "t#0@ann", "t#0@bob", "t#0.2@ann", "\u2028", "\x00", "\n", "#@"]) | st.text()
appends = st.tuples(st.just("append"), st.lists(st.tuples(some_ids, st.booleans()), min_size=1, max_size=4))
together = st.tuples(st.just("aappend"), st.lists(st.tuples(some_ids, st.booleans()), min_size=1, max_size=4))
histories = st.lists(
    appends | together | st.just(("resume", None)) | st.tuples(st.just("torn"), st.binary(max_size=30)), max_size=12
)


@shared_folder
@given(history=histories)
def test_whatever_happens_a_finished_trial_is_on_disk_once_and_all_that_was_acknowledged_is_there(
    tmp_path_factory, history
):
    """Ids of any text; trials that finish and trials that an error ends; resumes; neighbours killed in mid-line."""
    folder = tmp_path_factory.mktemp("run")
    finished, acknowledged = set(), []
    log = RunLog.create(folder, CONFIG)

    def trial(name, well):
        return {"trial_id": name, "task": {"id": "t"}, "trial": 0, "error": None if well else {"type": "E"}}

    def came(name, well, written):
        assert written == (name not in finished)
        if written:
            acknowledged.append((name, well))
        if well:
            finished.add(name)

    async def all_at_once(several):
        return await asyncio.gather(*(log.aappend(trial(*one)) for one in several))

    for what, given_ in history:
        if what == "append":
            for one in given_:
                came(*one, log.append(trial(*one)))
        elif what == "aappend":
            for one, written in zip(given_, asyncio.run(all_at_once(given_)), strict=True):
                came(*one, written)
        elif what == "resume":  # as after a kill: what is on disk is all there is
            log.close()
            log = RunLog.create(folder, CONFIG, resume=True)
            assert log.trial_ids == finished
        else:
            with (folder / "trials.jsonl").open("ab") as neighbour:
                neighbour.write(b'{"schema_version":1,' + given_.replace(b"\n", b""))
    log.close()
    RunLog.create(folder, CONFIG, resume=True).close()
    on_disk = [(one["trial_id"], one["error"] is None) for one in read_trials(folder)]
    assert on_disk == acknowledged
    assert sorted(name for name, well in on_disk if well) == sorted(finished)


# -- run.json ---------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_configuration(tmp_path):
    log = RunLog.create(tmp_path / "deep" / "run", CONFIG)
    log.close()
    assert read_config(tmp_path / "deep" / "run") == CONFIG
    assert log.config_hash == config_hash(dict(reversed(CONFIG.items()))) != config_hash({**CONFIG, "episodes": 2})


def test_an_existing_run_is_continued_only_when_asked(tmp_path):
    filled(tmp_path)
    with pytest.raises(RunLogError, match="already holds this run; continue it with --resume or choose another name"):
        RunLog.create(tmp_path, CONFIG)
    with RunLog.create(tmp_path, CONFIG, resume=True) as log:
        assert len(log.trial_ids) == 3


def test_another_configuration_is_refused_key_by_key(tmp_path):
    filled(tmp_path)
    before = lines_of(tmp_path)
    other = {"env": "sokoban", "episodes": 3, "sampling": {"temperature": 0.7, "top_k": 0}, "new": [1]}
    for resume in (False, True):
        with pytest.raises(RunLogError) as caught:
            RunLog.create(tmp_path, other, resume=resume)
        message = str(caught.value)
        assert 'env is "minesweeper:6x6-3" there and "sokoban" here' in message
        assert "sampling.temperature is 1.0 there and 0.7 here" in message
        assert "new is absent there and [1] here" in message
        assert "episodes" not in message
        assert "top_k" not in message
        assert "\n" not in message
    assert lines_of(tmp_path) == before


def test_equal_configurations_are_equal_after_json(tmp_path):
    RunLog.create(tmp_path, {"k": (1, 2)}).close()
    RunLog.create(tmp_path, {"k": [1, 2]}, resume=True).close()


def test_a_folder_with_trials_but_no_description_is_not_taken_over(tmp_path):
    filled(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunLogError, match=r"no run\.json"):
        RunLog.create(tmp_path, CONFIG, resume=True)


def test_a_damaged_description_is_named(tmp_path):
    filled(tmp_path)
    for text, message in ((b"{", "not a readable"), (b"[]", "but a list"), (b'{"schema_version":1}', "no 'config'")):
        (tmp_path / "run.json").write_bytes(text)
        with pytest.raises(RunLogError, match=message):
            RunLog.create(tmp_path, CONFIG, resume=True)


def test_an_atomic_write_replaces_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomic(path, b"old")

    def broken(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runlog.os, "fsync", broken)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# -- torn tails and damage --------------------------------------------------------------------------------------------


def test_a_log_cut_at_any_byte_holds_exactly_its_whole_lines(tmp_path):
    keys = [("a", 0), ("\u2028 \U0001f4a3", 1), ("c", 2)]
    with RunLog.create(tmp_path, CONFIG) as log:
        for task, index in keys:
            log.append({**a_named(task, index), "texts": ['{"quoted": "\n"}']})
    whole = lines_of(tmp_path)
    ends = [0] + [i + 1 for i, byte in enumerate(whole) if byte == 0x0A]
    for cut in range(len(whole) + 1):
        (tmp_path / "trials.jsonl").write_bytes(whole[:cut])
        count = sum(end <= cut for end in ends) - 1
        assert logged(tmp_path) == keys[:count]
        with RunLog.create(tmp_path, CONFIG, resume=True) as log:
            assert log.trial_ids == {a_named(*key)["trial_id"] for key in keys[:count]}
            assert lines_of(tmp_path) == whole[: ends[count]]
            log.append(a_trial("another", 5))
        assert logged(tmp_path) == [*keys[:count], ("another", 5)]


@shared_folder
@given(notes=st.lists(st.text(max_size=30), min_size=1, max_size=4), data=st.data())
def test_a_cut_log_of_any_text_recovers_its_whole_lines(tmp_path_factory, notes, data):
    folder = tmp_path_factory.mktemp("run")
    with RunLog.create(folder, CONFIG) as log:
        for index, note in enumerate(notes):
            log.append(a_named(note, index))
    whole = lines_of(folder)
    cut = data.draw(st.integers(0, len(whole)))
    os.truncate(folder / "trials.jsonl", cut)
    kept = whole[:cut].count(b"\n")
    with RunLog.create(folder, CONFIG, resume=True) as log:
        assert log.trial_ids == {a_named(note, index)["trial_id"] for index, note in enumerate(notes[:kept])}
    assert lines_of(folder) == b"".join(line + b"\n" for line in whole.split(b"\n")[:kept])


def test_a_garbled_last_line_is_dropped_too(tmp_path):
    filled(tmp_path)
    whole = lines_of(tmp_path)
    (tmp_path / "trials.jsonl").write_bytes(whole + b'{"schema_version":1,"tri\x00\x00\x00\x00\n')
    assert len(logged(tmp_path)) == 3
    RunLog.create(tmp_path, CONFIG, resume=True).close()
    assert lines_of(tmp_path) == whole


@pytest.mark.parametrize("line", [1, 2])
def test_a_bad_line_before_the_last_is_an_error_that_names_it_and_changes_nothing(tmp_path, line):
    filled(tmp_path)
    lines = lines_of(tmp_path).split(b"\n")
    lines[line - 1] = lines[line - 1][:50]
    damaged = b"\n".join(lines)
    (tmp_path / "trials.jsonl").write_bytes(damaged)
    with pytest.raises(RunLogError, match=f"line {line} is not valid JSON"):
        list(read_trials(tmp_path))
    with pytest.raises(RunLogError, match=f"line {line} is not valid JSON"):
        RunLog.create(tmp_path, CONFIG, resume=True)
    assert lines_of(tmp_path) == damaged


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"schema_version":2,"trial_id":"x"}\n', "line 4 has schema_version 2, .* reads up to 1"),
        (b'{"trial_id":"x"}\n', "line 4 has no schema_version"),
        (b'{"schema_version":true}\n', "line 4 has no schema_version"),
        (b"[1]\n", "line 4 is not a trial but a list"),
    ],
)
def test_a_log_of_a_newer_or_no_schema_is_refused_and_kept(tmp_path, text, message):
    filled(tmp_path)
    damaged = lines_of(tmp_path) + text
    (tmp_path / "trials.jsonl").write_bytes(damaged)
    with pytest.raises(RunLogError, match=message):
        list(read_trials(tmp_path))
    with pytest.raises(RunLogError, match=message):
        RunLog.create(tmp_path, CONFIG, resume=True)
    assert lines_of(tmp_path) == damaged


def test_a_run_description_of_a_newer_schema_is_refused(tmp_path):
    filled(tmp_path)
    (tmp_path / "run.json").write_bytes(orjson.dumps({"schema_version": 9, "settings": {}}))
    with pytest.raises(RunLogError, match="schema_version 9"):
        RunLog.create(tmp_path, CONFIG, resume=True)


def test_a_missing_log_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(RunLogError, match=r"no run log at .*nowhere/trials\.jsonl"):
        list(read_trials(tmp_path / "nowhere"))


def test_an_append_after_a_killed_neighbour_drops_its_torn_line(tmp_path):
    with RunLog.create(tmp_path, CONFIG) as log:
        log.append(a_trial())
        for size in (1, 100, 300_000):
            with (tmp_path / "trials.jsonl").open("ab") as neighbour:
                neighbour.write(b'{"schema_version":1,' + b" " * size)
            assert len(logged(tmp_path)) == len(log.trial_ids)
            log.append(a_trial(index=size))
    assert logged(tmp_path) == [(a_trial()["task"]["id"], index) for index in (0, 1, 100, 300_000)]


def test_a_reader_beside_a_live_writer_sees_whole_trials_only(tmp_path):
    stop = threading.Event()
    counts = []

    def read():
        while not stop.is_set():
            counts.append(len(logged(tmp_path)))

    with RunLog.create(tmp_path, CONFIG) as log:
        reader = threading.Thread(target=read)
        reader.start()
        for index in range(60):
            log.append(a_trial(index=index, note="x" * 200_000))
        stop.set()
        reader.join()
    assert counts == sorted(counts)
    assert len(counts) > 3


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
