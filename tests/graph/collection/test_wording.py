"""How prompts are worded is part of what a run is: configured, checked before there is a folder, logged, hashed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli
from lamer_graph import CollectConfig, PromptTexts, Sampling, collect, create_lamer_agent
from lamer_graph.errors import ConfigError
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.runlog import read_config, read_trials
from lamer_graph.runlog.lines import config_hash
from scripted import ScriptedPolicy, is_reflection, random_player

ENV = "minesweeper:4x4-3"
TEXTS = {"reflect": "Say what you know, as <remark>..</remark>", "act": "Turn {turn}: what now?"}


def plain(**changes: Any) -> dict[str, Any]:
    return CollectConfig(env=ENV, tasks=1, **changes).model_dump(mode="json")


def test_what_is_not_said_leaves_a_run_the_run_that_it_was() -> None:
    assert {"actions", "texts", "thoughts"}.isdisjoint(plain())
    assert plain(texts={}, actions="auto") == plain()
    assert plain(texts=TEXTS)["texts"] == TEXTS
    hashes = {config_hash(each) for each in (plain(), plain(texts=TEXTS), plain(actions="never"))}
    assert len(hashes) == 3
    for changes in ({"texts": TEXTS}, {"actions": "always", "texts": PromptTexts(**TEXTS)}):
        config = CollectConfig(env=ENV, tasks=1, **changes)  # type: ignore[arg-type]
        assert CollectConfig.model_validate_json(config.model_dump_json()) == config


def test_a_run_plays_with_its_texts_and_says_so(tmp_path: Path) -> None:
    policy = ScriptedPolicy(random_player)
    config = CollectConfig(env=ENV, tasks=3, texts=TEXTS, actions="never")  # type: ignore[arg-type]
    asyncio.run(collect(config, policy, tmp_path / "run"))
    for messages in policy.seen:
        text = messages[-1]["content"]
        assert text.endswith(TEXTS["reflect"] if is_reflection(messages) else ": what now?")
        assert "Possible actions" not in text
    assert (read_config(tmp_path / "run")["texts"], read_config(tmp_path / "run")["actions"]) == (TEXTS, "never")
    with pytest.raises(Exception, match="texts"):
        asyncio.run(collect(config.model_copy(update={"texts": PromptTexts()}), policy, tmp_path / "run", resume=True))


def test_an_agent_takes_texts_and_says_which_actions_there_are() -> None:
    policy = ScriptedPolicy(random_player)
    create_lamer_agent(policy, ENV, texts=PromptTexts(**TEXTS)).invoke({"task": {"seed": 1}})
    acts = [messages for messages in policy.seen if not is_reflection(messages)]
    assert acts
    for messages in acts:
        assert messages[-1]["content"].endswith(": what now?")
        assert "## Possible actions include:\n> (" in messages[-1]["content"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": {"reflct": "x"}}, "no text 'reflct' in texts; did you mean 'reflect'"),
        ({"texts": {"act": "{}"}}, "texts.act has no field"),
        ({"texts": TEXTS, "prompt_style": "compact"}, "texts and prompt style 'compact' exclude each other"),
        ({"actions": "never", "prompt_style": "compact"}, "actions 'never' and prompt style 'compact' exclude"),
    ],
)
def test_wording_that_cannot_be_is_refused_before_there_is_a_folder(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    def played() -> None:
        config = CollectConfig(env=ENV, tasks=1, **changes)
        asyncio.run(collect(config, ScriptedPolicy(random_player), tmp_path / "run"))

    with pytest.raises(ConfigError, match=message):
        played()
    assert list(tmp_path.iterdir()) == []


# -- the command line ------------------------------------------------------------------------------------------------


def test_a_policy_is_asked_as_its_card_says_unless_something_else_is_asked_for(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(tiny_model_dir, tmp_path / "taught")
    card = {"env": ENV, "prompt_style": "standard", "actions": "never", "texts": TEXTS}
    (folder / "lamer.json").write_text(json.dumps(card))
    small = ("--policy", folder, "--env", ENV, "--tasks", 1, "--max-turns", 2, "--max-tokens", 2, "--episodes", 1)
    config = cli("collect", *small, "--out", "a", "--json").document["config"]
    assert (config["actions"], config["texts"]) == ("never", TEXTS)
    [trial] = read_trials(tmp_path / "a")
    assert any(text.endswith("Turn 1: what now?") for text in trial["texts"])
    config = cli("collect", *small, "--out", "b", "--actions", "always", "--json").document["config"]
    assert (config["actions"], config["texts"]) == ("always", TEXTS)
    assert "texts" not in cli("collect", *small, "--out", "c", "--prompt-style", "compact", "--json").document["config"]
    (folder / "lamer.json").write_text(json.dumps({**card, "texts": {"act": "{x}"}}))
    outcome = cli("collect", *small, "--out", "d")
    assert outcome.code == 2
    assert "texts.act has no field {x}" in outcome.error_line


def test_a_policy_is_asked_by_the_strategy_of_its_card_unless_something_else_is_asked_for(
    cli: Cli, tiny_model_dir: Path, tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(tiny_model_dir, tmp_path / "taught")
    card = {"env": ENV, "prompt_style": "standard", "strategy": "plan", "thoughts": "shown"}
    (folder / "lamer.json").write_text(json.dumps(card))
    small = ("--policy", folder, "--env", ENV, "--tasks", 1, "--max-turns", 2, "--max-tokens", 2, "--episodes", 2)

    def asked(out: str, *more: object) -> tuple[object, ...]:
        config = cli("eval", *small, "--out", out, "--json", *more).document["config"]
        return config["strategy"], config.get("thoughts", "hidden"), config["contents"]

    assert asked("a") == ("plan", "shown", "reflection")
    assert any("First write a plan" in text for trial in read_trials(tmp_path / "a") for text in trial["texts"])
    assert asked("b", "--strategy", "zero_shot", "--thoughts", "hidden") == ("zero_shot", "hidden", "none")
    assert asked("c", "--strategy", "reflexion") == ("reflexion", "shown", "reflection")
    assert asked("d", "--prompt-style", "compact") == ("lamer", "hidden", "reflection")
    agent = create_lamer_agent(LocalPolicy(folder), ENV, max_turns=1, max_episodes=1, sampling=Sampling(max_tokens=2))
    assert "plan" not in agent.invoke({"task": {"seed": 1}})["episodes"][0]["turns"][0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--strategy", "zero_shot", "--memory", "both"), "strategy 'zero_shot' and memory 'both' exclude each other"),
        (("--strategy", "reflexion", "--memory", "none"), "strategy 'reflexion' and memory 'none' exclude each other"),
        (("--strategy", "plan"), "strategy 'plan' and prompt style 'compact' exclude each other"),
        (("--strategy", "react"), "strategy 'react' and prompt style 'compact' exclude each other"),
        (("--thoughts", "shown"), "thoughts 'shown' and prompt style 'compact' exclude each other"),
        (("--strategy", "zero_shot", "--backend", "chroma"), "--memory none and --backend chroma exclude each other"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "collect"])
def test_a_strategy_that_contradicts_the_rest_is_one_line_before_there_is_a_folder(
    cli: Cli, tmp_path: Path, command: str, options: tuple[str, ...], says: str
) -> None:
    outcome = cli(command, "--out", "r", "--tasks", 1, *options)
    assert outcome.code == 2
    assert says in outcome.error_line
    assert list(tmp_path.iterdir()) == []


def test_listing_actions_in_compact_prompts_is_refused_in_one_line(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("collect", "--out", "r", "--actions", "always")
    assert outcome.code == 2
    assert "actions 'always' and prompt style 'compact' exclude each other" in outcome.error_line
    assert list(tmp_path.iterdir()) == []
