"""The policy protocol: what wraps a policy hands on whatever a policy can be asked."""

from __future__ import annotations

from collections.abc import Sequence

from lamer_graph.policies.base import Policy, Watched, Wrapped
from lamer_graph.types import Completion, Message, Sampling
from scripted import ScriptedPolicy, random_player

ASKED: list[Message] = [{"role": "user", "content": "Act"}]


class Short(Wrapped):
    """Answers with one token."""

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        done = await super().generate(messages, sampling)
        return Completion(done.text[:1], [1], done.token_ids[:1], done.logprobs[:1], "short", "length")


def test_a_wrapper_hands_on_everything_also_what_is_learnt_later() -> None:
    policy = ScriptedPolicy(random_player)
    wrapped = Short(Watched(policy, lambda: None))
    policy.context_window = 77
    policy.control_tokens = frozenset({"<|odd|>"})
    policy.template_args = {"enable_thinking": False}
    policy.folds_system = True
    for name in vars(Policy).keys() - {"generate", "generate_sync"}:
        if not name.startswith("_"):
            assert getattr(wrapped, name) == getattr(policy, name), name


async def test_every_door_goes_through_the_wrapper() -> None:
    heard: list[str] = []
    wrapped = Short(Watched(ScriptedPolicy(random_player), lambda: heard.append("call")))
    done = await wrapped.generate(ASKED, Sampling(seed=1))
    assert done == wrapped.generate_sync(ASKED, Sampling(seed=1))
    assert (done.text, done.policy_version, heard) == ("<", "short", ["call", "call"])
