"""What the graph logs: a line per trial of whoever played it, also of one cut short; and what a checkpoint grows by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from lamer_envs import make
from lamer_graph import create_lamer_agent
from lamer_graph.agent import compile_agent, play_in_graph
from lamer_graph.errors import LamerError, PolicyError, RunLogError
from lamer_graph.runlog import RunLog, check, read_trials
from lamer_graph.runlog.recording import MAX_EXTRA_BYTES, TrialRecorder
from lamer_graph.trial.harness import make_harness
from lamer_graph.trial.states import Json
from lamer_graph.types import Completion, Message, Sampling
from lamer_memory import InContextMemory, MemoryBackendError, MemoryConfig, MemoryRecord
from scripted import DICE, ScriptedPolicy, random_player

TASK: Any = {"task": {"seed": 11}}


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


def an_agent(policy: ScriptedPolicy | None = None, **options: Any) -> Any:
    policy = policy or ScriptedPolicy(random_player)
    options = {"sampling": DICE, "checkpointer": InMemorySaver(), **options}
    return create_lamer_agent(policy, make("minesweeper", size=4, mines=3), **options)


# -- whose trial it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sync", "async"])
def test_two_threads_that_play_one_task_into_one_recorder_are_two_lines(form: str, tmp_path: Path) -> None:
    told: list[Json] = []
    agent = an_agent()
    with RunLog.create(tmp_path, {}) as log:
        context = {"recorder": TrialRecorder(log, on_line=told.append)}
        for name in ("ann", "bob"):
            if form == "sync":
                agent.invoke(TASK, thread(name), context=context)
            else:
                asyncio.run(agent.ainvoke(TASK, thread(name), context=context))
    logged = list(read_trials(tmp_path))
    assert [trial["trial_id"].rpartition("@")[2] for trial in logged] == ["ann", "bob"]
    assert [line["trial_id"] for line in told] == [trial["trial_id"] for trial in logged]
    assert len({(trial["task"]["id"], trial["trial"]) for trial in logged}) == 1
    assert check(tmp_path).ok


def test_a_task_played_again_on_its_thread_is_another_trial(tmp_path: Path) -> None:
    agent = an_agent()
    with RunLog.create(tmp_path, {}) as log:
        for _ in range(3):
            agent.invoke(TASK, thread("ann"), context={"recorder": TrialRecorder(log)})
    names = [trial["trial_id"].partition("#")[2] for trial in read_trials(tmp_path)]
    assert names == ["0@ann", "0.2@ann", "0.3@ann"]


def test_nobody_is_told_of_a_line_that_was_not_written(tmp_path: Path) -> None:
    told: list[Json] = []
    agent = an_agent()
    for _ in range(2):
        with RunLog.create(tmp_path, {}, resume=True) as log:
            recorder = TrialRecorder(log, on_line=told.append)
            agent.invoke(TASK, thread("a"), context={"recorder": recorder, "unique": "one"})
            asyncio.run(agent.ainvoke(TASK, thread("b"), context={"recorder": recorder, "unique": "one"}))
    assert len(told) == len(list(read_trials(tmp_path))) == 1


def test_the_logged_observation_is_what_observe_shows_also_where_the_prompt_shows_less(tmp_path: Path) -> None:
    env = make("minesweeper", size=4, mines=3)
    for style in ("standard", "compact"):
        with RunLog.create(tmp_path / style, {}) as log:
            agent = create_lamer_agent(ScriptedPolicy(random_player), env, prompt_style=style)  # type: ignore[arg-type]
            agent.invoke(TASK, context={"recorder": TrialRecorder(log)})
        (trial,) = read_trials(tmp_path / style)
        turn = trial["episodes"][0]["turns"][0]
        start = env.reset(TASK["task"]["seed"])
        assert turn["observation"] == env.observe(start)
        prompt = trial["texts"][turn["call"]["messages"][-1][1]]
        assert (env.compact(start) in prompt) == (style == "compact")


# -- trials that are cut short ----------------------------------------------------------------------------------------

LOSING = 11
"""A task whose first episodes fail."""


class Failing(ScriptedPolicy):
    """Plays until its call number `last`, which raises."""

    def __init__(self, last: int, error: Exception) -> None:
        super().__init__(random_player)
        self.last, self.error = last, error

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        if len(self.seen) == self.last:
            raise self.error
        return await super().generate(messages, sampling)


def play(agent: Any, form: str, given: Any, context: Any) -> None:
    if form == "sync":
        agent.invoke(given, thread("t"), context=context)
    else:
        asyncio.run(agent.ainvoke(given, thread("t"), context=context))


def calls_of(trial: Json) -> list[Json]:
    made = [turn["call"] for episode in trial["episodes"] for turn in episode["turns"]]
    return made + [one["call"] for one in trial["reflections"] if one["call"] is not None]


def tokens(trial: Json) -> list[Any]:
    return sorted([call["seed"], call["token_ids"], call["prompt_token_ids"]] for call in calls_of(trial))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The line of the task, played to its end."""
    folder = tmp_path_factory.mktemp("whole")
    with RunLog.create(folder, {}) as log:
        an_agent(memory="both").invoke(TASK, thread("t"), context={"recorder": TrialRecorder(log)})
    (trial,) = read_trials(folder)
    return trial


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize("last", [0, 1, 5, 9, 14])
@pytest.mark.parametrize("error", [PolicyError("the server is gone"), ValueError("a defect")], ids=["policy", "defect"])
def test_what_was_played_before_an_error_is_logged_with_it_and_a_resume_logs_the_whole(
    form: str, last: int, error: Exception, whole: Json, tmp_path: Path
) -> None:
    policy = Failing(last, error)
    agent = an_agent(policy, memory="both")
    with RunLog.create(tmp_path, {}) as log:
        context = {"recorder": TrialRecorder(log)}
        with pytest.raises(type(error)):
            play(agent, form, TASK, context)
        (cut,) = read_trials(tmp_path)
        assert (cut["error"]["type"], cut["error"]["message"]) == (type(error).__name__, str(error))
        assert len(calls_of(cut)) == last
        assert [call for call in tokens(whole) if call in tokens(cut)] == tokens(cut)
        policy.last = -1
        play(agent, form, None, context)
    _, trial = read_trials(tmp_path)
    assert trial["error"] is None
    assert tokens(trial) == tokens(whole)
    assert trial["texts"] == whole["texts"]
    assert check(tmp_path).ok


@pytest.mark.parametrize("last", [0, 3, 9])
def test_a_trial_that_fails_in_the_graph_of_a_collection_keeps_its_tokens(last: int, tmp_path: Path) -> None:
    harness = make_harness(Failing(last, PolicyError("gone")), make("minesweeper", size=4, mines=3), "both")
    with RunLog.create(tmp_path, {}) as log:
        asyncio.run(play_in_graph(compile_agent(harness), {"seed": LOSING}, TrialRecorder(log), namespace=("t",)))
    (trial,) = read_trials(tmp_path)
    assert trial["error"]["type"] == "PolicyError"
    assert len(calls_of(trial)) == last
    assert check(tmp_path).ok


@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_reflection_that_could_not_be_remembered_is_logged(form: str, tmp_path: Path) -> None:
    class Full(InContextMemory):
        def put(self, namespace: tuple[str, ...], records: Sequence[MemoryRecord]) -> None:
            raise MemoryBackendError("the disk is full")

    agent = an_agent(memory=MemoryConfig("reflection", backend=Full()))
    with RunLog.create(tmp_path, {}) as log:
        context = {"recorder": TrialRecorder(log)}
        with pytest.raises(LamerError, match="disk is full"):
            play(agent, form, TASK, context)
    (trial,) = read_trials(tmp_path)
    (reflection,) = trial["reflections"]
    assert reflection["call"]["token_ids"]
    assert check(tmp_path).ok


def test_an_interrupt_is_no_error_and_logs_nothing(tmp_path: Path) -> None:
    agent = an_agent(memory="reflection", interrupt_before=["reflect"])
    with RunLog.create(tmp_path, {}) as log:
        agent.invoke(TASK, thread("t"), context={"recorder": TrialRecorder(log)})
    assert not list(read_trials(tmp_path))


# -- a user's own fields ----------------------------------------------------------------------------------------------


def test_a_users_own_fields_are_on_the_line_and_in_the_table(tmp_path: Path) -> None:
    from datasets import Dataset

    from lamer_graph.runlog import export_parquet

    agent = an_agent()
    with RunLog.create(tmp_path / "run", {}) as log:
        recorder = TrialRecorder(log, extra={"app": "shop", "build": [1, 2]})
        agent.invoke(TASK, thread("ann"), context={"recorder": recorder.with_extra({"user": "ann \u2028 \ud83d"})})
        agent.invoke(TASK, thread("bob"), context={"recorder": TrialRecorder(log)})
    first, second = read_trials(tmp_path / "run")
    assert first["extra"] == {"app": "shop", "build": [1, 2], "user": "ann \u2028 \\ud83d"}
    assert "extra" not in second
    assert check(tmp_path / "run").ok
    export_parquet(tmp_path / "run", tmp_path / "calls.parquet")
    rows = Dataset.from_parquet(str(tmp_path / "calls.parquet"), cache_dir=str(tmp_path / "cache")).to_list()
    mine = [row["extra"] for row in rows if row["trial_id"] == first["trial_id"]]
    assert {json.dumps(json.loads(one)) for one in mine} == {json.dumps(first["extra"])}
    assert {row["extra"] for row in rows if row["trial_id"] == second["trial_id"]} == {None}
    assert {row["error"] for row in rows} == {None}


@pytest.mark.parametrize(
    "extra", [[], "", [1], "text", {"a": object()}, {1: 2}, {"a": "x" * MAX_EXTRA_BYTES}, {"a": 1 << 70}]
)
def test_fields_that_are_no_bounded_json_object_are_refused_before_any_work(extra: Any, tmp_path: Path) -> None:
    with RunLog.create(tmp_path, {}) as log:
        with pytest.raises(RunLogError, match="extra must be a JSON object"):
            TrialRecorder(log, extra=extra)
        with pytest.raises(RunLogError, match="extra must be a JSON object"):
            TrialRecorder(log).with_extra(extra)


# -- what a checkpoint grows by ---------------------------------------------------------------------------------------


class Wordy(ScriptedPolicy):
    """Asks for a token per four characters of prompt, as a real one does."""

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        done = await super().generate(messages, sampling)
        text = "".join(message["content"] for message in messages)
        ids = [sum(map(ord, text[i : i + 4])) for i in range(0, len(text), 4)]
        return Completion(done.text, ids, [5] * 12, [-0.123456789] * 12, "policy-v0000", "stop")


def wander(messages: Sequence[Message], sampling: Sampling) -> str:
    return f"<action>go to {['desk', 'shelf', 'bed'][(sampling.seed or 0) % 3]} 1</action>"


def bytes_of_an_episode(turns: int, record: bool, folder: Path) -> int:
    folder.mkdir(parents=True)
    with (
        SqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver,
        RunLog.create(folder / "log", {}) as log,
    ):
        agent = create_lamer_agent(
            Wordy(wander), make("alfworld"), "none", max_episodes=1, max_turns=turns, checkpointer=saver
        )
        context = {"recorder": TrialRecorder(log)} if record else {}
        result = agent.invoke({"task": {"seed": 3}}, thread("t"), context=context, durability="sync")
        assert len(result["episodes"][0]["turns"]) == turns
        assert len(log.trial_ids) == record
        rows = "select sum(length(checkpoint)) + sum(length(metadata)) from checkpoints"
        writes = "select sum(length(value)) from writes"
        return sum(saver.conn.execute(query).fetchone()[0] for query in (rows, writes))


@pytest.mark.parametrize("record", [False, True], ids=["played", "recorded"])
def test_an_episode_twice_as_long_takes_twice_the_bytes(record: bool, tmp_path: Path) -> None:
    short, long = (bytes_of_an_episode(turns, record, tmp_path / str(turns)) for turns in (20, 40))
    assert long < 2.3 * short
    assert long < 40 * 10_000
