"""LangChain chat models as policies: text without tokens, typed errors, the caller's callbacks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from lamer_envs import make
from lamer_graph import ChatModelPolicy, Sampling, create_lamer_agent
from lamer_graph.cli.render import conditions
from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import PolicyConnectionError, PolicyError
from lamer_graph.evaluation.evaluate import evaluate
from lamer_graph.trial import steps
from lamer_graph.trial.harness import make_harness
from lamer_graph.types import Message
from scripted import ScriptedPolicy

MESSAGES: list[Message] = [{"role": "system", "content": "rules"}, {"role": "user", "content": "board"}]


class Recorder(BaseChatModel):
    """Remembers what it was given; `behave` decides what happens."""

    model_name: str = "recorder-1"
    temperature: float = 0.3
    seen: list[Any] = Field(default_factory=list)
    behave: Any = None

    @property
    def _llm_type(self) -> str:
        return "recorder"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.seen.append((messages, kwargs))
        if self.behave is not None:
            self.behave()
        return ChatResult(generations=[ChatGeneration(message=AIMessage("<action>(1, 1)</action>"))])


def test_a_completion_has_text_version_and_no_tokens() -> None:
    model = Recorder(seen=[])
    done = ChatModelPolicy(model).generate_sync(MESSAGES, Sampling(seed=3))
    assert (done.text, done.policy_version) == ("<action>(1, 1)</action>", "recorder-1")
    assert not done.trainable
    [(messages, kwargs)] = model.seen
    assert isinstance(messages[0], SystemMessage)
    assert [m.content for m in messages] == ["rules", "board"]
    assert kwargs == {}


def test_sampling_reaches_only_the_fields_that_a_model_declares() -> None:
    model = Recorder(seen=[])
    ChatModelPolicy(model, sample=True).generate_sync(MESSAGES, Sampling(temperature=0.7, top_p=0.8, seed=3))
    assert model.seen[0][1] == {"temperature": 0.7}


async def test_a_report_says_unknown_for_what_a_chat_model_was_not_told(tmp_path: Path) -> None:
    config = CollectConfig(env="minesweeper:4x4-3", tasks=2, max_turns=2, max_episodes=1)
    for sample, told in ((True, {"temperature": 1.0}), (False, {})):
        evaluation, _ = await evaluate(config, ChatModelPolicy(Recorder(), sample=sample), tmp_path / str(sample))
        unknown = dict.fromkeys(("temperature", "top_p", "top_k", "max_tokens", "seed"))
        assert evaluation.sampling == {**unknown, **told}
        assert f"temperature {'1' if sample else 'unknown'}, top-p unknown, " in conditions(evaluation)


@pytest.mark.parametrize(
    ("block", "beside"),
    [
        ({"type": "thinking", "thinking": "hm"}, {}),
        ({"type": "reasoning", "reasoning": "hm"}, {}),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, {}),
        ({"type": "text", "text": ""}, {"reasoning_content": "hm"}),
    ],
)
def test_content_blocks_are_joined_and_thoughts_told_apart(block: Any, beside: Any) -> None:
    content: Any = [block, {"type": "text", "text": "<action>"}, "(1, 1)</action>"]
    model = GenericFakeChatModel(messages=iter([AIMessage(content=content, additional_kwargs=beside)]))
    done = ChatModelPolicy(model).generate_sync(MESSAGES, Sampling())
    assert done.text == "<action>(1, 1)</action>"
    assert done.thoughts == "hm"


def test_a_chat_models_thoughts_are_logged_and_in_no_later_prompt_unless_asked() -> None:
    def play(**asked: Any) -> Any:
        content: Any = [{"type": "thinking", "thinking": "I wonder"}, "<action>(9, 9)</action>"]
        model = GenericFakeChatModel(messages=iter([AIMessage(content=content)] * 3))
        agent = create_lamer_agent(model, "minesweeper:4x4-3", "trajectory", max_turns=3, max_episodes=1, **asked)
        return agent.invoke({"task": {"seed": 1}})["episodes"][0]["turns"]

    for turn in play():
        assert turn["text"] == "<think>\nI wonder\n</think>\n\n<action>(9, 9)</action>"
        assert turn["action"] == "(9, 9)"
    h = make_harness(ScriptedPolicy(lambda m, s: ""), make("minesweeper:4x4-3"), thoughts="shown")
    state = {**steps.begin(steps.open_trial(h, {"seed": 1})), "turns": play(), "outcomes": ["invalid"] * 3}
    assert "You thought:\n> I wonder\n" in steps.ask_action(h, state).build(0)[1]["content"]  # type: ignore[arg-type]


def test_a_failing_model_is_a_policy_error_in_one_line() -> None:
    def fail() -> None:
        raise RuntimeError("no quota")

    with pytest.raises(PolicyError, match="recorder-1 failed: RuntimeError: no quota"):
        ChatModelPolicy(Recorder(seen=[], behave=fail)).generate_sync(MESSAGES, Sampling())


def test_a_hanging_model_is_given_up_after_the_timeout() -> None:
    policy = ChatModelPolicy(Recorder(seen=[], behave=lambda: time.sleep(2)), timeout=0.2)
    started = time.monotonic()
    with pytest.raises(PolicyConnectionError, match=r"0\.2 s"):
        policy.generate_sync(MESSAGES, Sampling())
    assert 0.2 <= time.monotonic() - started < 1.5


class Watcher(BaseCallbackHandler):
    def __init__(self) -> None:
        self.starts = 0

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.starts += 1


def test_callbacks_of_the_invocation_see_every_call_sync_and_async() -> None:
    agent = create_lamer_agent(ChatModelPolicy(Recorder(seen=[])), "minesweeper:4x4-3", "none", max_episodes=1)
    for run in (agent.invoke, lambda *a: asyncio.run(agent.ainvoke(*a))):
        watcher = Watcher()
        result = run({"task": {"seed": 3}}, {"callbacks": [watcher]})
        assert watcher.starts == len(result["episodes"][0]["turns"]) > 0


def test_prompts_are_trimmed_to_the_stated_context() -> None:
    model = Recorder(seen=[])
    agent = create_lamer_agent(
        ChatModelPolicy(model, context_window=1_000), "minesweeper:4x4-3", "none", max_episodes=1, max_turns=60
    )
    agent.invoke({"task": {"seed": 3}})
    assert "earlier turns left out" in model.seen[-1][0][-1].content
    assert sum(len(m.content) for m in model.seen[-1][0]) < 4_000
