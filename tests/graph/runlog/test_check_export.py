"""`check` finds what a trainer would trip over, and the Parquet table holds every policy call exactly."""

import copy

import orjson
import pytest

from lamer_graph.errors import RunLogError
from lamer_graph.runlog import RunLog, check, export_parquet
from log_samples import a_call, a_trial, a_turn


def write(folder, *trials, tail=b""):
    RunLog.create(folder, {}).close()
    lines = [orjson.dumps({"schema_version": 1, **trial}) + b"\n" for trial in trials]
    (folder / "trials.jsonl").write_bytes(b"".join(lines) + tail)
    return folder


def test_a_sound_log_is_counted(tmp_path):
    report = check(write(tmp_path, a_trial(), a_trial(index=1), a_trial("other"), tail=b'{"schema_ver'))
    assert report.ok
    assert (report.trials, report.tasks, report.episodes, report.turns, report.reflections) == (3, 2, 6, 9, 3)
    assert (report.calls, report.tokens, report.successes, report.failed_trials) == (12, 33, 3, 0)
    assert (report.torn_bytes, report.policy_versions) == (12, {"policy-v0001": 12})
    assert orjson.loads(orjson.dumps(report.to_json()))["ok"] is True


def test_duplicates_are_found(tmp_path):
    report = check(write(tmp_path, a_trial("a"), a_trial("b"), a_trial("a")))
    assert report.duplicates == [(3, "a/0")]
    assert not report.ok


def changed(change):
    trial = copy.deepcopy(a_trial())
    change(trial)
    return trial


def first_call(trial):
    return trial["episodes"][0]["turns"][0]["call"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("success"), "success: Field required"),
        (lambda t: t.update(more=1), "more: Extra inputs are not permitted"),
        (lambda t: t.update(extra=1), "extra: Input should be an object"),
        (lambda t: t.update(extra={"a": "x" * 70_000}), "extra must be a JSON object of at most 65,536 bytes"),
        (lambda t: t.update(trial="0"), "trial: Input should be a valid integer"),
        (lambda t: t.update(success=False), "its episodes say otherwise"),
        (lambda t: t["texts"].append("the rules"), "texts are not unique"),
        (lambda t: t["timings"].update(started="2026-11-03T10:00:00"), "not an ISO-8601 UTC time"),
        (lambda t: t["timings"].update(started="2026-11-03T10:00:00+01:00"), "not an ISO-8601 UTC time"),
        (lambda t: t["timings"].update(started="yesterday"), "not an ISO-8601 UTC time"),
        (lambda t: t["reflections"][0].update(episode=2), "a reflection on episode 2 of 2"),
        (lambda t: t["episodes"][1]["turns"][0].pop("observation"), "episodes.1.turns.0.observation: Field required"),
        (lambda t: first_call(t)["messages"].append(["user", 2]), "episodes.0.turns.0: a message points past"),
        (
            lambda t: first_call(t)["messages"].append(["nobody", 0]),
            "Input should be 'system', 'user', 'assistant' or 'tool'",
        ),
        (lambda t: first_call(t)["token_ids"].append(-1), "greater than or equal to 0"),
        (lambda t: first_call(t)["prompt_token_ids"].clear(), "tokens without prompt tokens"),
        (lambda t: first_call(t)["logprobs"].pop(), "3 token_ids but 2 logprobs"),
        (lambda t: first_call(t)["logprobs"].__setitem__(1, float("nan")), "a logprob is not finite"),
        (lambda t: t["reflections"][0]["call"]["logprobs"].__setitem__(0, float("-inf")), "reflections.0: a logprob"),
    ],
)
def test_a_wrong_trial_is_reported_with_its_line(tmp_path, change, message):
    report = check(write(tmp_path, a_trial("a"), changed(change), a_trial("c")))
    assert not report.ok
    assert report.error_count == len(report.errors) == 1
    line, text = report.errors[0]
    assert line == 2
    assert message in text


def test_token_defects_are_counted_by_kind(tmp_path):
    trial = a_trial()
    calls = [turn["call"] for episode in trial["episodes"] for turn in episode["turns"]]
    calls[0].update(token_ids=[], logprobs=[])
    calls[1]["logprobs"].pop()
    calls[2]["logprobs"][0] = float("nan")
    report = check(write(tmp_path, trial))
    assert (report.untrainable_calls, report.length_mismatches, report.non_finite_calls) == (1, 1, 1)


def test_a_call_without_tokens_or_a_failed_trial_is_not_an_error(tmp_path):
    trial = changed(lambda t: first_call(t).update(token_ids=[], logprobs=[], prompt_token_ids=[]))
    trial["error"] = {"type": "PolicyConnectionError", "message": "no server", "episode": 1, "turn": 0}
    report = check(write(tmp_path, trial))
    assert report.ok
    assert (report.untrainable_calls, report.failed_trials) == (1, 1)


def test_check_goes_on_past_damage(tmp_path):
    write(tmp_path, a_trial("a"), a_trial("b"))
    whole = (tmp_path / "trials.jsonl").read_bytes()
    newer = orjson.dumps({"schema_version": 2, **a_trial("d")}) + b"\n"
    (tmp_path / "trials.jsonl").write_bytes(b"{\n" + newer + whole)
    report = check(tmp_path)
    assert [line for line, _ in report.errors] == [1, 2]
    assert "not valid JSON" in report.errors[0][1]
    assert "schema_version 2" in report.errors[1][1]
    assert report.trials == 2


def test_many_errors_are_counted_but_not_all_spelt_out(tmp_path):
    report = check(write(tmp_path, *({**a_trial(index=index), "more": 1} for index in range(150))))
    assert (report.error_count, len(report.errors)) == (150, 100)


def test_check_of_no_log_is_an_error(tmp_path):
    with pytest.raises(RunLogError, match="no run log"):
        check(tmp_path)


# -- Parquet ----------------------------------------------------------------------------------------------------------


def rows_of(path):
    from datasets import Dataset

    return Dataset.from_parquet(str(path), cache_dir=str(path.parent / "cache")).to_list()


def test_each_policy_call_is_a_row_with_its_exact_tokens(tmp_path):
    trial = a_trial(note="\u2028 \U0001f4a3")
    trial["episodes"][0]["turns"].insert(1, a_turn("(9, 9)", call=False))
    other = a_trial("other", 4)
    other["reflections"][0]["call"]["logprobs"][0] = float("nan")
    folder = write(tmp_path / "run", trial, other, tail=b"{torn")
    out = tmp_path / "calls.parquet"
    assert export_parquet(folder, out) == 8
    rows = rows_of(out)
    places = [(row["kind"], row["episode"], row["turn"]) for row in rows]
    assert places[:4] == [("action", 0, 0), ("action", 0, 2), ("reflection", 0, None), ("action", 1, 0)]
    first, reflection = rows[0], rows[2]
    call = a_call()
    assert (first["prompt_token_ids"], first["token_ids"]) == (call["prompt_token_ids"], call["token_ids"])
    assert (first["logprobs"], first["sampling_seed"]) == (call["logprobs"], 2**61)
    assert first["messages"][1] == {"role": "user", "content": trial["texts"][1]}
    assert (first["task_id"], first["seed"], first["contents"]) == (trial["task"]["id"], 7, "reflection")
    assert (first["observation"], first["action"], first["reward"]) == ("? ?\n? ?", "(1, 2)", -0.1)
    assert (reflection["text"], reflection["token_ids"], reflection["reward"]) == (
        trial["reflections"][0]["text"],
        [7, 2],
        None,
    )
    assert [row["episode_success"] for row in rows[:4]] == [False, False, False, True]
    assert rows[6]["logprobs"] == [None, -0.5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "calls.parquet", "run"]


def test_an_empty_run_exports_an_empty_table(tmp_path):
    assert export_parquet(write(tmp_path / "run"), tmp_path / "calls.parquet") == 0
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "calls.parquet").num_rows == 0


def test_a_second_export_sees_what_was_added(tmp_path):
    folder, out = write(tmp_path / "run", a_trial()), tmp_path / "calls.parquet"
    assert export_parquet(folder, out) == 4
    with RunLog.create(folder, {}, resume=True) as log:
        log.append(a_trial("more"))
    assert export_parquet(folder, out) == 8


def test_an_export_that_fails_leaves_no_file_and_says_why(tmp_path):
    folder = write(tmp_path / "run", a_trial())
    with pytest.raises(RunLogError, match=r"cannot write .*No such file or directory"):
        export_parquet(folder, tmp_path / "nowhere" / "calls.parquet")
    with pytest.raises(RunLogError, match="no run log"):
        export_parquet(tmp_path / "none", tmp_path / "calls.parquet")
    broken = write(tmp_path / "broken", {"task": {"id": "x"}, "trial": 0})
    with pytest.raises(RunLogError, match="malformed trial"):
        export_parquet(broken, tmp_path / "calls.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "run"]
