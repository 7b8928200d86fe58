"""Where an answer ends is a run's setting: at the closing tag that a standard prompt asks for, or by the model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from command_line import Cli
from lamer_graph import create_lamer_agent
from lamer_graph.collection.collect import collect
from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Watched
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.runlog import RunLog, check, read_config, read_trials
from lamer_graph.runlog.recording import TrialRecorder
from lamer_graph.text import plain
from lamer_graph.types import Sampling
from scripted import ScriptedPolicy, is_reflection, random_player

TAGS = ["</action>", "</remark>"]


class Stopping(ScriptedPolicy):
    """Ends its answers at stop strings, as those of `random_player` end anyway."""

    stops = True


def config(**more: Any) -> CollectConfig:
    return CollectConfig(**{"env": "minesweeper:4x4-3", "tasks": 2, "trials": 2, "max_turns": 3, **more})


def stops_of(policy: ScriptedPolicy) -> set[tuple[bool, tuple[str, ...]]]:
    """The stop strings of its calls, with whether the call was a reflection."""
    asked = zip(policy.seen, policy.samplings, strict=True)
    return {(is_reflection(messages), sampling.stop) for messages, sampling in asked}


@pytest.mark.parametrize("through_graph", [False, True])
@pytest.mark.parametrize(
    ("more", "action", "remark"),
    [
        ({}, ("</action>",), ("</remark>",)),
        ({"stop": "never"}, (), ()),
        ({"prompt_style": "compact"}, (), ()),
        ({"strategy": "react"}, ("</action>",), ("</remark>",)),
    ],
)
async def test_both_drivers_end_answers_at_the_tag_that_a_standard_prompt_asks_for(
    tmp_path: Path, more: dict[str, Any], action: tuple[str, ...], remark: tuple[str, ...], through_graph: bool
) -> None:
    policy = Stopping(random_player)
    await collect(config(**more), policy, tmp_path / "run", through_graph=through_graph)
    assert stops_of(policy) == {(False, action), (True, remark)}
    for trial in read_trials(tmp_path / "run"):
        assert trial["sampling"].get("stop") == (TAGS if action else None)


async def test_a_policy_that_ends_its_answers_itself_is_asked_as_before(tmp_path: Path) -> None:
    policy = ScriptedPolicy(random_player)
    await collect(config(), policy, tmp_path / "run")
    assert stops_of(policy) == {(False, ()), (True, ())}
    assert all("stop" not in trial["sampling"] for trial in read_trials(tmp_path / "run"))


def test_an_agent_stops_at_its_own_strings_too_and_refuses_what_would_do_nothing() -> None:
    policy = Stopping(random_player)
    watched = Watched(policy, lambda: None)
    agent = create_lamer_agent(watched, "minesweeper:4x4-3", max_turns=2, sampling=Sampling(stop=("\n",)))
    agent.invoke({"task": {"seed": 1}})
    assert stops_of(policy) == {(False, ("\n", "</action>")), (True, ("\n", "</remark>"))}
    create_lamer_agent(policy, "minesweeper:4x4-3", stop="never")
    with pytest.raises(ConfigError, match="unknown stop 'often'; choose one of: auto, never"):
        create_lamer_agent(policy, "minesweeper:4x4-3", stop="often")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="stop must be a tuple of texts"):
        create_lamer_agent(policy, "minesweeper:4x4-3", sampling=Sampling(stop="</action>"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"sampling asks for stop .*which ScriptedPolicy would not do"):
        create_lamer_agent(ScriptedPolicy(random_player), "minesweeper:4x4-3", sampling=Sampling(stop=("x",)))


async def test_a_run_of_before_the_setting_is_the_same_run_and_goes_on(tmp_path: Path) -> None:
    await collect(config(tasks=1), ScriptedPolicy(random_player), tmp_path / "run")
    assert "stop" not in read_config(tmp_path / "run")
    assert "stop" not in config().model_dump(mode="json")
    assert config(stop="never").model_dump(mode="json")["stop"] == "never"
    done = await collect(config(tasks=1), ScriptedPolicy(random_player), tmp_path / "run", resume=True)
    assert (done.already, done.missing) == (2, 0)


def test_the_command_line_says_it_by_the_same_name(cli: Cli) -> None:
    done = cli("eval", "--tasks", "1", "--stop", "never", "--json", "--episodes", "1", "--out", "run")
    assert done.code == 0, done.err
    assert read_config("run")["stop"] == "never"


async def test_what_was_stopped_is_logged_with_the_tokens_that_were_sampled(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    policy = LocalPolicy(tiny_model_dir)
    # The model is random and never writes a tag: it is made to stop at what it does write.
    text = policy.generate_sync([{"role": "user", "content": "Act"}], Sampling(max_tokens=8, seed=1)).text
    recorder = TrialRecorder(RunLog.create(tmp_path / "run", {}))
    sampling = Sampling(max_tokens=30, stop=(text[2],), seed=1)
    agent = create_lamer_agent(policy, "minesweeper:4x4-3", max_turns=2, sampling=sampling, recorder=recorder)
    await asyncio.to_thread(agent.invoke, {"task": {"seed": 1}})
    recorder.log.close()
    assert check(tmp_path / "run").error_count == 0
    stopped = 0
    for trial in read_trials(tmp_path / "run"):
        for episode in trial["episodes"]:
            for turn in episode["turns"]:
                call = turn["call"]
                assert len(call["token_ids"]) == len(call["logprobs"])
                assert plain(policy.decode(call["token_ids"])).startswith(turn["text"])
                stopped += call["finish_reason"] == "stop" and turn["text"].endswith(text[2])
    assert stopped
    policy.close()


def test_a_chat_model_ends_its_answers_itself_and_says_so() -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("<action>(1, 1)</action>")] * 40))
    create_lamer_agent(model, "minesweeper:4x4-3", max_turns=1).invoke({"task": {"seed": 1}})
    with pytest.raises(ConfigError, match=r"sampling asks for stop \('x',\), which ChatModelPolicy would not do"):
        create_lamer_agent(model, "minesweeper:4x4-3", sampling=Sampling(stop=("x",)))
