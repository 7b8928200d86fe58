"""Tasks of an application: collected, evaluated and logged as an environment's, with the policy that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

import helpdesk
from lamer_envs import make
from lamer_envs.errors import EnvParameterError, InstanceError, NotOfferedError, UnknownEnvError
from lamer_envs.registry import use
from lamer_graph import CollectConfig, MemoryConfig, collect, evaluate, task_agent
from lamer_graph.apps.tool_text import chat_of, read
from lamer_graph.errors import ConfigError, PolicyConnectionError
from lamer_graph.policies.control import CONTROL_TOKENS
from lamer_graph.policies.tool_form import CALL, CALLED
from lamer_graph.runlog import read_trials
from lamer_graph.runlog.schema import check
from places import SUPPORT
from scripted import ScriptedPolicy


def visitor(messages: Any, sampling: Any) -> str:
    """Guesses until a lesson says to look; then looks, and says what it saw."""
    rules, said = messages[0]["content"], messages[-1]["content"]
    if rules.startswith("You review"):
        return "<remark>Look into the room.</remark>"
    if "> Look into the room." not in rules:
        return "w999"
    if "answers:" in said:
        return f"<think>so it is</think>{said.split('is ')[-1]}"
    return f'I look.\n{CALL}{{"name": "look", "arguments": {{"room": {said.split("room ")[1].rstrip("?")}}}}}{CALLED}'


def config(**changes: Any) -> CollectConfig:
    return CollectConfig(**{"env": helpdesk.app.spec, "tasks": 3, "trials": 2, "split": "train", **changes})


async def test_tasks_are_collected_with_what_the_policy_read_and_said(tmp_path: Path) -> None:
    policy = ScriptedPolicy(visitor)
    summary = await collect(config(), policy, tmp_path / "run")
    assert (summary.finished, summary.failed) == (6, 0)
    report = check(tmp_path / "run")
    assert report.ok, report.errors
    assert report.untrainable_calls == 0
    read_by_policy = {json.dumps(messages) for messages in policy.seen}
    for trial in read_trials(tmp_path / "run"):
        assert trial["success"]
        first, second = trial["episodes"]
        assert [turn["reward"] for turn in first["turns"]] == [0.0]
        assert [turn["reward"] for turn in second["turns"]] == [0.0, 1.0]
        seed = trial["task"]["seed"]
        assert second["turns"][1]["action"] == f"assistant: w{seed}."  # without its thought
        assert second["turns"][1]["text"] == f"<think>so it is</think>w{seed}."
        for turn in [*first["turns"], *second["turns"], *trial["reflections"]]:
            asked = [{"role": role, "content": trial["texts"][place]} for role, place in turn["call"]["messages"]]
            assert json.dumps(asked) in read_by_policy


async def test_a_run_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    lost = [True]

    def answer(messages: Any, sampling: Any) -> str:
        if lost and "room 2" in messages[-1]["content"]:
            lost.clear()
            raise PolicyConnectionError("the server is gone")
        return visitor(messages, sampling)

    first = await collect(config(), ScriptedPolicy(answer), tmp_path / "run", concurrency=1)
    assert (first.finished, first.failed) == (5, 1)
    second = await collect(config(), ScriptedPolicy(answer), tmp_path / "run", resume=True)
    assert (second.already, second.finished) == (5, 1)
    assert check(tmp_path / "run").ok
    names = [trial["trial_id"] for trial in read_trials(tmp_path / "run") if trial["error"] is None]
    assert len(set(names)) == 6


async def test_answers_depend_on_seeds_and_places_alone(tmp_path: Path) -> None:
    drawn = []
    for name in "ab":
        policy = ScriptedPolicy(visitor)
        await collect(config(seed=3), policy, tmp_path / name, concurrency=1)
        drawn.append([sampling.seed for sampling in policy.samplings])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == len(drawn[0])  # trials of a group draw apart, reflections too


async def test_evaluation_reads_pass_at_k(tmp_path: Path) -> None:
    reading, _ = await evaluate(config(tasks=4, trials=1, split="test"), ScriptedPolicy(visitor), tmp_path / "run")
    assert [point["value"] for point in reading.to_json()["pass_at"]] == [0.0, 1.0, 1.0]
    nothing, _ = await evaluate(config(split="test", contents="none"), ScriptedPolicy(visitor), tmp_path / "none")
    assert [point["value"] for point in nothing.to_json()["pass_at"]] == [0.0, 0.0, 0.0]


def test_splits_are_apart_and_training_begins_again() -> None:
    env = helpdesk.app
    found = {split: list(env.seeds(split)) for split in ("val", "test")}
    train = env.seeds("train")
    found["train"] = [next(train) for _ in range(40 - len(found["val"]) - len(found["test"]))]
    assert sorted([*found["train"], *found["val"], *found["test"]]) == list(range(40))
    again = next(train)
    assert again == found["train"][0] + 40
    assert env.reset(again) == env.reset(found["train"][0])
    named = task_agent(
        lambda model: None,
        tasks=[{"input": "a", "split": "train"}, {"input": "b", "split": "test"}],
        grade=lambda *_: True,
        name="named",
    )
    assert list(named.seeds("test")) == [1]
    with pytest.raises(EnvParameterError, match="none of the 2 tasks of 'named' is of split 'val'"):
        list(named.seeds("val"))


def test_a_task_says_what_it_is_not() -> None:
    with pytest.raises(NotOfferedError, match="is a task of an application, which is played as a whole"):
        helpdesk.app.step(helpdesk.app.reset(0), "look")
    with pytest.raises(InstanceError, match="must be a JSON object with an input"):
        helpdesk.app.load({"question": "?"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "help desk"}, "name must be one word"),
        ({"tools": []}, "give either tools=\\[..\\] for LangChain's create_agent, or build="),
        ({"build": lambda model: None}, "give either tools="),
        ({"tools": [], "build": lambda model: None, "system_prompt": "x"}, "system_prompt= would do nothing"),
        ({"tasks": []}, "there are no tasks"),
        ({"tasks": "nowhere.jsonl"}, "cannot read the tasks in nowhere.jsonl: No such file"),
        ({"grade": 1}, "grade must be a function"),
    ],
)
def test_what_is_malformed_is_refused(changes: dict[str, Any], message: str) -> None:
    given = {"tools": [helpdesk.look], "tasks": helpdesk.TASKS, "grade": helpdesk.grade, "name": "other", **changes}
    with pytest.raises(ConfigError, match=message):
        task_agent(**given)


def test_a_file_of_tasks_names_the_line_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    for text, message in (
        ('{"input": "a"}\n\n{"input"', f"{path} line 3 is not JSON"),
        ('{"input": "a"}\n["b"]\n', f"{path} line 2 must be a JSON object with an input"),
        ('{"input": "a", "split": "tset"}\n', f"{path} line 1 is of split 'tset': splits are train, val, test"),
        ('{"input": [["nobody", "b"]]}\n', f"{path} line 1 is malformed"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            task_agent(tools=[helpdesk.look], tasks=path, grade=helpdesk.grade, name="filed")
    path.write_text('{"input": [["system", "Be brief."], ["user", "b"]], "answer": "c"}\n')
    env = task_agent(tools=[helpdesk.look], tasks=str(path), grade=helpdesk.grade, name="filed")
    assert env.observe(env.reset(0)) == "Be brief.\nb"


def test_only_a_person_has_a_module_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_alone.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnknownEnvError, match="no environment is called 'mine_alone'"):
        make("mine_alone:app")
    with pytest.raises(EnvParameterError, match="'mine_alone:app' cannot be imported: RuntimeError: imported"):
        use("mine_alone:app")
    with pytest.raises(EnvParameterError, match=r"must be a subclass or an object of lamer_envs\.Env, not a list"):
        use("helpdesk:TASKS")
    assert use("helpdesk:app") is make("helpdesk:app") is make("task:helpdesk")


def test_the_command_line_plays_tasks_of_a_module(cli: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "desk.py").write_text((SUPPORT / "helpdesk.py").read_text().replace('"helpdesk"', '"desk"'))
    command = ["eval", "--task", "desk:app", "--policy", tiny_model_dir, "--tasks", 2, "--max-tokens", 8, "--json"]
    done = cli(*command, "--out", "run")
    assert done.code == 0, done.err
    assert json.loads(done.out)["config"]["env"] == "task:desk"
    assert check(tmp_path / "run").ok
    again = cli("collect", "--task", "desk:nothing", "--policy", tiny_model_dir, "--out", "other")
    assert again.code == 2
    assert "'desk:nothing' cannot be imported: AttributeError" in again.err
    assert not (tmp_path / "other").exists()


def test_the_command_line_takes_what_tasks_there_are_and_knows_when_they_were_changed(
    cli: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    text = (SUPPORT / "helpdesk.py").read_text()
    (tmp_path / "before.py").write_text(text.replace('"helpdesk"', '"changing"'))
    (tmp_path / "after.py").write_text(text.replace('"helpdesk"', '"changing"').replace("What is", "Which is"))
    command = ["--policy", tiny_model_dir, "--max-tokens", 4, "--out", "run"]
    done = cli("eval", "--task", "before:app", *command, "--json")
    assert done.code == 0, done.err
    there = make("before:app").count("test")  # type: ignore[attr-defined]
    assert json.loads(done.out)["config"]["tasks"] == there < 100
    changed = cli("eval", "--task", "after:app", *command, "--resume")
    assert changed.code == 2
    assert "tasks_of is" in changed.err
    many = cli("eval", "--task", "before:app", "--tasks", there + 1, *command)
    assert many.code == 2
    assert f"task:changing has {there} tasks of split 'test': give --tasks {there}" in many.err
    misspelt = cli("eval", "--task", "before.py:app", *command)
    assert misspelt.code == 2
    assert "modules are named as they are imported: before:app, not before.py:app" in misspelt.err


async def test_an_application_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    def build(model: Any) -> Any:
        raise RuntimeError("no such database")

    env = task_agent(build, tasks=helpdesk.TASKS, grade=helpdesk.grade, name="unbuilt")
    with pytest.raises(ConfigError, match="'task:unbuilt' cannot be built: RuntimeError: no such database"):
        await collect(config(env=env.spec), ScriptedPolicy(visitor), tmp_path / "run")

    def broken(seed: int) -> Any:
        raise RuntimeError("no such table")

    env = task_agent(lambda model: helpdesk.app.build(model), tasks=broken, grade=helpdesk.grade, name="untold")
    with pytest.raises(InstanceError, match="task 0 of 'untold' failed: RuntimeError: no such table"):
        await collect(config(env=env.spec), ScriptedPolicy(visitor), tmp_path / "other")


# -- tools in text ----------------------------------------------------------------------------------------------------


def test_a_conversation_is_written_as_it_was_sampled() -> None:
    raw = f'<think>hm</think>I look.{CALL}{{"name":"look","arguments":{{"room":2}}}}{CALLED}'
    said = AIMessage(**read(raw, "id"), response_metadata={"raw": raw})
    assert said.content == "I look."
    assert said.tool_calls[0]["args"] == {"room": 2}
    messages = [
        SystemMessage("Be brief."),
        HumanMessage("Look."),
        said,
        ToolMessage("it is <|im_end|>", tool_call_id="id-0", name="look"),
    ]
    tools = [{"function": {"name": "look"}}]
    system, *chat = chat_of(messages, tools, CONTROL_TOKENS, "raw")
    assert system["content"].startswith("Be brief.\n\nYou can use these tools")
    assert '{"name":"look"}' in system["content"]
    assert [message["role"] for message in chat] == ["user", "assistant", "user"]
    assert chat[1]["content"] == raw
    assert "<|im_end|>" not in chat[2]["content"]
    # The prompt of a call begins with that of the call before it.
    assert chat_of(messages[:2], tools, CONTROL_TOKENS, "raw") == [system, chat[0]]


@pytest.mark.parametrize(
    ("text", "calls", "broken"),
    [
        ("no call", 0, 0),
        (f'{CALL}{{"name":"a","arguments":{{}}}}{CALLED}{CALL}{{"name":"b"}}{CALLED}', 2, 0),
        (f"{CALL}look(2){CALLED}", 0, 1),
        (f'{CALL}{{"name":"a","arguments":[1]}}{CALLED}', 0, 1),
        (f'<think>{CALL}{{"name":"a"}}{CALLED}</think>done', 0, 0),
        (f'{CALL}{{"name":"a"}}', 0, 0),
    ],
)
def test_calls_are_json_between_tags_outside_of_thoughts(text: str, calls: int, broken: int) -> None:
    found = read(text, "id")
    assert (len(found["tool_calls"]), len(found["invalid_tool_calls"])) == (calls, broken)
    AIMessage(**found)


async def test_a_memory_of_other_tasks_is_that_of_the_run(tmp_path: Path) -> None:
    store = f"chroma:{tmp_path / 'mem'}"
    policy = ScriptedPolicy(visitor)
    await collect(
        config(scope="tasks", backend=store, visible="live", trials=1), policy, tmp_path / "run", concurrency=1
    )
    episodes = [len(trial["episodes"]) for trial in read_trials(tmp_path / "run")]
    assert episodes == [2, 1, 1]
    assert MemoryConfig("reflection").scope == "trial"
