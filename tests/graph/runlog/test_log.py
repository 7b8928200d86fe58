"""What is written to the run log is read again, once, under the configuration that it was begun with."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamer_graph.errors import RunLogError
from lamer_graph.runlog import RunLog, check, config_hash, read_config, read_trials, write_atomic
from lamer_graph.runlog import log as runlog
from log_samples import CONFIG, a_trial, filled, lines_of, logged

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


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


def test_what_is_no_file_is_written_into_and_stays_what_it_is(tmp_path):
    (tmp_path / "out").symlink_to("/dev/null")
    write_atomic(tmp_path / "out", b"gone")
    assert (tmp_path / "out").is_char_device()


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
