"""A policy that hardly ever names an action is noticed while it plays, and once."""

from __future__ import annotations

from typing import Any

from command_line import Cli
from fake_server import FakeServer
from lamer_graph.cli.nonsense import SHARE, TURNS, Nonsense
from lamer_graph.collection.config import CollectConfig

CONFIG = CollectConfig(env="minesweeper:4x4-3", tasks=1, max_tokens=8)


def trial(valid: int, invalid: int, reason: str = "stop") -> dict[str, Any]:
    call = {"finish_reason": reason}
    turns = [{"valid": True, "call": call}] * valid + [{"valid": False, "call": call}] * invalid
    return {"episodes": [{"turns": turns}]}


def test_it_is_said_once_and_only_of_enough_turns() -> None:
    watch = Nonsense(CONFIG)
    assert watch.seen(trial(0, TURNS - 1)) is None
    said = watch.seen(trial(0, 1))
    assert said is not None
    assert f"100% of the first {TURNS} answers" in said
    assert "--prompt-style compact" in said
    assert "max-tokens" not in said
    assert watch.seen(trial(0, TURNS)) is None


def test_a_policy_that_plays_is_left_alone() -> None:
    few = int(SHARE * 100) - 1
    assert Nonsense(CONFIG).seen(trial(100 - few, few)) is None


def test_answers_that_were_cut_are_told_so() -> None:
    said = Nonsense(CONFIG).seen(trial(0, TURNS, "length"))
    assert said is not None
    assert "cut at --max-tokens 8" in said


def test_a_run_of_nonsense_says_so_beside_its_numbers_and_not_to_machines(cli: Cli, server: FakeServer) -> None:
    server.answer = "I would rather talk about the weather."
    run = ("eval", "--base-url", server.url, "--tasks", "4")
    outcome = cli(*run)
    assert outcome.code == 0
    assert "name no possible action; was the policy taught" in outcome.err
    assert "100.0%" in outcome.out
    assert cli(*run, "--json").err == ""
