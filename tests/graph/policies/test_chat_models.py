"""Runnables around chat models play as the models do: retried, bound, with fallbacks, configured at the call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import ConfigurableField, RunnableConfig, RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph

from lamer_envs import make
from lamer_graph import ChatModelPolicy, Sampling, create_lamer_agent
from lamer_graph.errors import ConfigError, PolicyError, PolicyResponseError
from lamer_graph.types import Message
from sampled_model import Sampled

ENV = make("minesweeper", size=4, mines=3)
TASK: Any = {"task": {"seed": 3}}
MESSAGES: list[Message] = [{"role": "user", "content": "board"}]


def play(model: Any, asynchronous: bool = False, config: Any = None) -> Any:
    agent = create_lamer_agent(model, ENV, "none", max_episodes=1, max_turns=2)
    return asyncio.run(agent.ainvoke(TASK, config)) if asynchronous else agent.invoke(TASK, config)


class Broken(BaseChatModel):
    """Fails `failures` times, then answers."""

    failures: int = 1_000_000

    @property
    def _llm_type(self) -> str:
        return "broken"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no line")
        return ChatResult(generations=[ChatGeneration(message=AIMessage("<action>(1, 1)</action>"))])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_runnables_around_a_chat_model_play(asynchronous: bool) -> None:
    model = Sampled()
    expected = play(Sampled())
    for wrapped in (
        model.with_retry(),
        model.bind(stop=["x"]),
        model.with_config(tags=["a"]),
        model.with_fallbacks([Sampled()]),
        model.with_retry().with_fallbacks([model.bind(stop=["x"])]),
        model.configurable_fields(temperature=ConfigurableField(id="temperature")),
        model.configurable_alternatives(ConfigurableField(id="llm"), other=Sampled()),
        RunnableLambda(lambda messages: AIMessage("<action>(1, 1)</action>")),
        model | RunnableLambda(lambda message: message),
    ):
        assert play(wrapped, asynchronous) == expected


def test_a_model_of_langchains_own_factory_plays() -> None:
    chat_models = pytest.importorskip("langchain.chat_models")
    assert create_lamer_agent(chat_models.init_chat_model(configurable_fields="any"), ENV)


def test_what_is_bound_reaches_the_model_and_a_retry_mends_what_it_can() -> None:
    model = Sampled()
    play(model.bind(stop=["</action>"], temperature=0.1))
    assert model.stops == [["</action>"]] * 2
    assert [given["temperature"] for given in model.given] == [0.1, 0.1]
    assert play(Broken(failures=1).with_retry(wait_exponential_jitter=False)) == play(Sampled())


def test_a_fallback_answers_and_is_named_as_the_one_who_did() -> None:
    policy = ChatModelPolicy(Broken().with_fallbacks([Sampled(says="other-2")]))
    done = policy.generate_sync(MESSAGES, Sampling())
    assert done.text == "<action>(1, 1)</action>"
    assert done.policy_version == "other-2"


def test_a_fallback_that_does_not_say_its_name_is_not_taken_for_the_first_choice() -> None:
    policy = ChatModelPolicy(Broken().with_fallbacks([Sampled()]))
    assert policy.generate_sync(MESSAGES, Sampling()).policy_version == "Broken or sampled-1"
    one = ChatModelPolicy(Sampled().with_fallbacks([Sampled()]))
    assert one.generate_sync(MESSAGES, Sampling()).policy_version == "sampled-1"


def test_an_error_without_words_has_a_whole_sentence() -> None:
    def fail(_: Any) -> Any:
        raise RuntimeError

    with pytest.raises(PolicyError, match=r"failed: RuntimeError, and gave no reason$"):
        ChatModelPolicy(RunnableLambda(fail)).generate_sync(MESSAGES, Sampling())


def test_a_policys_name_is_the_models_whatever_is_around_it() -> None:
    model = Sampled()
    for wrapped in (model, model.bind(stop=["x"]), model.with_retry(), model.with_fallbacks([Broken()])):
        assert ChatModelPolicy(wrapped).version == "sampled-1"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_configuration_of_the_invocation_reaches_the_model(asynchronous: bool) -> None:
    seen: list[RunnableConfig] = []

    def answer(messages: Any, config: RunnableConfig) -> AIMessage:
        seen.append(config)
        return AIMessage("<action>(1, 1)</action>")

    play(
        RunnableLambda(answer), asynchronous, {"tags": ["mine"], "metadata": {"a": 1}, "configurable": {"tone": "dry"}}
    )
    assert seen
    for config in seen:
        assert "mine" in config["tags"]
        assert config["metadata"]["a"] == 1
        assert config["configurable"]["tone"] == "dry"


class Watcher(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tags: list[list[str]] = []

    def on_chat_model_start(self, *args: Any, tags: Any = None, **kwargs: Any) -> None:
        self.tags.append(list(tags or ()))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_callbacks_tags_and_configurable_fields_reach_a_model_inside_runnables(asynchronous: bool) -> None:
    model, other = Sampled(), Sampled()
    wrapped = model.configurable_fields(says=ConfigurableField(id="says")).with_retry()
    watcher = Watcher()
    play(wrapped, asynchronous, {"callbacks": [watcher], "tags": ["mine"]})
    assert len(watcher.tags) == 2
    assert all("mine" in tags for tags in watcher.tags)
    chosen = model.configurable_alternatives(ConfigurableField(id="llm"), other=other)
    model.given.clear()
    play(chosen, asynchronous, {"configurable": {"llm": "other"}})
    assert (len(model.given), len(other.given)) == (0, 2)


def test_what_answers_no_message_is_an_error_that_says_so() -> None:
    policy = ChatModelPolicy(RunnableLambda(lambda messages: {"text": "hm"}))
    with pytest.raises(PolicyResponseError, match="answered with a dict and not with a message"):
        policy.generate_sync(MESSAGES, Sampling())


def test_a_graph_is_no_model() -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("say", lambda state: {"messages": [AIMessage("hm")]})
    graph.add_edge(START, "say")
    with pytest.raises(ConfigError, match="not CompiledStateGraph"):
        create_lamer_agent(graph.compile(), ENV)
