"""Training on what an application logged in use: its own environment is nothing that could be played here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent

from agents import search
from lamer_graph import Grade, LocalPolicy, RunLog, Sampling, with_retries
from lamer_graph.apps.policy_chat import PolicyChat
from lamer_graph.errors import ConfigError
from lamer_graph.runlog import read_trials
from lamer_trainers.errors import TrainingConfigError, TrainingDataError
from lamer_trainers.loop.plan import plan
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run

pytestmark = pytest.mark.usefixtures("one_thread")

RUN = """
policy: {policy}
logs: [{logs}]
collect: {{env: "app:brief", tasks: 2, max_tokens: 8}}
optimise: {{updates: 2, learning_rate: 0.00001, old_logprobs: recomputed, micro_batch_tokens: 4096}}
"""


def length(task: Any, result: Any) -> Grade:
    said = result["messages"][-1].text
    return Grade(1 / (1 + len(said)), f"{len(said)} characters", success=False)


@pytest.fixture(scope="module")
def logged(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of an application that two users asked two things each."""
    folder = tmp_path_factory.mktemp("app") / "prod"
    policy = LocalPolicy(tiny_model_dir)
    chat = PolicyChat(policy=policy, sampling=Sampling(max_tokens=8), keep_messages=True)
    with RunLog.create(folder) as log:
        app = with_retries(
            create_agent(chat, [search]), grade=length, reflect=chat, max_attempts=2, log=log, name="brief"
        )
        for who in range(2):
            for what in range(2):
                app.invoke({"messages": [("user", f"Say {what}.")]}, {"configurable": {"thread_id": f"{who}/{what}"}})
    policy.close()
    return folder


def run_of(tmp_path: Path, model: Path, logs: Path, *changes: str) -> Any:
    file = tmp_path / "agent.yaml"
    file.write_text(RUN.format(policy=model, logs=logs))
    return load_run(file, changes=changes)


def test_an_applications_log_is_trained_on_without_an_environment(
    logged: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    (first, *_) = read_trials(logged)
    assert first["sampling"]["temperature"] == 1.0
    assert first["sampling"]["max_tokens"] == 8
    done = train(run_of(tmp_path, tiny_model_dir, logged), tmp_path / "run")
    assert done.updates == 2
    assert (tmp_path / "run" / "policy" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["collect.env=app:other"], "is of app:brief, the run of app:other"),
        (["collect.env=sokoban"], "has env|is of app:brief"),
        (["collect.temperature=0.5"], "sampled at temperature 1"),
    ],
)
def test_a_log_of_something_else_is_refused(
    logged: Path, tiny_model_dir: Path, tmp_path: Path, changes: list[str], words: str
) -> None:
    with pytest.raises(TrainingDataError, match=words):
        train(run_of(tmp_path, tiny_model_dir, logged, *changes), tmp_path / "run")


@pytest.mark.parametrize("changes", [["logs=[]"], ["validation.tasks=2"]])
def test_an_application_is_not_played_here(
    logged: Path, tiny_model_dir: Path, tmp_path: Path, changes: list[str]
) -> None:
    with pytest.raises(TrainingConfigError, match=r"which is not played here: name its logs"):
        train(run_of(tmp_path, tiny_model_dir, logged, *changes), tmp_path / "run")


def test_there_is_no_plan_of_it(logged: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its logs say what it asks"):
        plan(run_of(tmp_path, tiny_model_dir, logged), "cpu")
