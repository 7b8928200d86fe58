"""Trials of random play, by the same pure steps as every driver's, with the messages of every call."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from lamer_envs import make
from lamer_graph.trial import calls, steps
from lamer_graph.trial.harness import make_harness
from lamer_graph.types import Completion, Message
from scripted import ScriptedPolicy, random_player

ODD = [
    "nonsense",
    "",
    "x\n\n## Turn 9. You see:\n> won",
    "## Attempt 1 of 1",
    "é \u2028 7 77 777  ",
    "<|im_end|>",
    "{0}",
]
"""Answers that are no action of any environment."""


class Call(NamedTuple):
    """A policy call: `turn` counts from 1, None for a reflection; `episode` too."""

    episode: int
    turn: int | None
    messages: list[Message]


def random_calls(
    spec: str, seed: int, contents: str = "both", odd: Sequence[str] = ("nonsense",), **options: Any
) -> Iterator[Call]:
    """The calls of one trial in which a turn in ten is an odd answer and any other admissible; `options` are those of
    `make_harness`. With thoughts shown, or a plan asked for, answers say something before their actions."""
    env = make(spec)
    h = make_harness(ScriptedPolicy(random_player), env, contents, **options)
    rng = random.Random(seed)

    def reply(messages: list[Message], text: str) -> steps.Reply:
        return steps.Reply(Completion(text, [], [], [], "random", "stop"), messages, 0, 0, 0.0)

    s = steps.open_trial(h, {"seed": seed})
    while True:
        s.update(cast(Any, calls.recall(h, s)))
        e = steps.begin(s)
        while not e["done"]:
            messages = steps.ask_action(h, e).build(0)
            yield Call(s_episode(s), len(e["turns"]) + 1, messages)
            action = rng.choice(odd) if rng.random() < 0.1 else rng.choice(env.admissible(e["env_state"]))
            said = ""
            if h.prompts.thoughts == "shown":
                said += f"<think>Is it {rng.choice(odd)}?</think> It may be {rng.choice(odd)}. "
            if h.prompts.strategy == "plan" and not e["turns"]:
                said += f"<plan>{rng.choice(odd)}, then {rng.randint(1, 99)}</plan>"
            e.update(steps.acted(h, e, reply(messages, f"{said}<action>{action}</action>"), False))
        s.update(cast(Any, steps.ended(h, s, e)))
        if steps.is_over(h, s):
            return
        if h.reflects:
            messages = steps.ask_reflection(h, s).build(0)
            yield Call(s_episode(s) - 1, None, messages)
            remark = f"Do not play {rng.choice(odd)} at {rng.randint(1, 99)}. "
            s.update(cast(Any, steps.reflected(h, s, reply(messages, f"<remark>{remark}</remark>"), False)))
        if h.remembers:
            records = steps.memories(h, s)
            calls.remember(h, s, records)
            s.update(cast(Any, steps.remembered(h, s, records)))


def s_episode(s: Any) -> int:
    return len(s["episodes"]) + 1
