"""The run log drops nothing but a torn last line: any other damage is named, and left as it is."""

import os
import threading

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamer_graph.errors import RunLogError
from lamer_graph.runlog import RunLog, read_trials
from log_samples import CONFIG, a_named, a_trial, filled, lines_of, logged

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


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
