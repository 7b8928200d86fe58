"""A parameter of the agent does what it says, or is refused when the agent is made."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from typing_extensions import TypedDict

from lamer_envs import make
from lamer_graph import (
    ChatModelPolicy,
    CollectConfig,
    LocalPolicy,
    MemoryConfig,
    RunLog,
    Sampling,
    TrialRecorder,
    VllmServer,
    collect,
    create_lamer_agent,
)
from lamer_graph.agent.choosing import taught_style
from lamer_graph.collection.run_memory import Heritage
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import Watched
from lamer_graph.runlog import read_trials
from lamer_graph.trial.harness import make_harness
from lamer_memory import InContextMemory, MemoryConfigError, StoreMemory
from sampled_model import Sampled
from scripted import ScriptedPolicy, random_player

ENV = make("minesweeper", size=4, mines=3)
LOSING = 1
ANN: Any = {"configurable": {"user_id": "ann"}}


class AppState(TypedDict, total=False):
    task: dict[str, Any]
    success: bool


def items(store: BaseStore) -> list[Any]:
    return store.search((), limit=1_000)


# -- store= -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "memory", ["reflection", MemoryConfig("reflection", scope="tasks"), MemoryConfig("reflection", "store", "tasks")]
)
def test_a_store_given_to_the_agent_keeps_what_it_remembers_from_trial_to_trial(memory: Any) -> None:
    store = InMemoryStore()
    agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, memory, store=store)
    results = [agent.invoke({"task": {"seed": seed}}, ANN) for seed in range(3)]
    results.append(asyncio.run(agent.ainvoke({"task": {"seed": 3}}, ANN)))
    written = sorted(text for result in results for text in result["reflections"])
    assert written
    assert sorted(item.value["text"] for item in items(store)) == written
    agent.invoke({"task": {"seed": 1}}, {"configurable": {"user_id": "bob"}})
    kept, bobs = (StoreMemory(store).search((name,), limit=100) for name in ("ann", "bob"))
    assert sorted(entry.record.text for entry in kept) == written
    assert bobs
    assert agent.store is store


def test_another_process_with_the_same_store_remembers(tmp_path: Any) -> None:
    store = InMemoryStore()
    first = create_lamer_agent(ScriptedPolicy(lambda m, s: "<remark>mind the corner</remark>"), ENV, store=store)
    first.invoke({"task": {"seed": LOSING}}, ANN)
    policy = ScriptedPolicy(random_player)
    create_lamer_agent(policy, ENV, store=store).invoke({"task": {"seed": 2}}, ANN)
    assert "mind the corner" in policy.seen[0][-1]["content"]


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        ("none", "keeps nothing"),
        (MemoryConfig("reflection"), "scope 'trial'"),
        (MemoryConfig("reflection", backend=InContextMemory(), scope="tasks"), "exclude each other"),
        (MemoryConfig("reflection", backend=StoreMemory(InMemoryStore()), scope="tasks"), "exclude each other"),
        (MemoryConfig("reflection", backend="chroma", scope="tasks"), "exclude each other"),
    ],
)
def test_a_store_that_would_hold_nothing_is_refused(memory: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        create_lamer_agent(ScriptedPolicy(random_player), ENV, memory, store=InMemoryStore())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_agents_store_with_an_index_recalls_the_task_that_looks_alike_and_not_the_newest(
    asynchronous: bool, caplog: Any
) -> None:
    boards = {seed: ENV.observe(ENV.reset(seed)) for seed in (1, 2, 4, 5)}
    alike = {boards[1], boards[5]}

    def embed(texts: list[str]) -> list[list[float]]:
        return [[1.0, 0.0] if text in alike else [0.0, 1.0] for text in texts]

    def answer(messages: Any, sampling: Any) -> str:
        return f"<remark>the lesson of {playing}</remark>"

    policy = ScriptedPolicy(answer)
    memory = MemoryConfig("reflection", scope="tasks", k=1)
    store = InMemoryStore(index={"dims": 2, "embed": embed})
    agent = create_lamer_agent(policy, ENV, memory, store=store, max_episodes=2)
    for playing in boards:
        policy.seen.clear()
        task = {"task": {"seed": playing}}
        asyncio.run(agent.ainvoke(task, ANN)) if asynchronous else agent.invoke(task, ANN)
    assert "the lesson of 1" in policy.seen[0][-1]["content"]
    assert "the lesson of 4" not in policy.seen[0][-1]["content"]
    assert caplog.records == []


def test_a_store_that_cannot_rank_is_said_so_when_the_agent_is_made(caplog: Any) -> None:
    store = InMemoryStore()
    for _ in range(2):
        create_lamer_agent(ScriptedPolicy(random_player), ENV, store=store).invoke({"task": {"seed": LOSING}}, ANN)
        (said,) = caplog.records
        assert said.getMessage().startswith("InMemoryStore has no index")


def test_a_stores_memory_is_that_of_a_user_who_is_named_in_the_configuration_or_the_context() -> None:
    store, policy = InMemoryStore(), ScriptedPolicy(random_player)
    agent = create_lamer_agent(policy, ENV, store=store)
    for play in (
        lambda: agent.invoke({"task": {"seed": 1}}),
        lambda: asyncio.run(agent.ainvoke({"task": {"seed": 1}})),
    ):
        with pytest.raises(ConfigError, match="nobody has said whose it is"):
            play()
    assert (policy.seen, items(store)) == ([], [])
    agent.invoke({"task": {"seed": LOSING}}, ANN)
    agent.invoke({"task": {"seed": LOSING}}, context={"user_id": "bob"})
    assert StoreMemory(store).namespaces() == [("ann",), ("bob",)]


def test_a_graph_around_the_agent_with_a_store_of_its_own_does_not_move_the_agents_memory() -> None:
    own, around = InMemoryStore(), InMemoryStore()
    agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, store=own)
    parent: Any = StateGraph(AppState).add_node("play", agent).add_edge(START, "play").compile(store=around)
    parent.invoke({"task": {"seed": LOSING}}, ANN)
    assert items(own)
    assert items(around) == []


# -- sampling= --------------------------------------------------------------------------------------------------------


def test_the_sampling_of_an_agent_reaches_a_chat_model_that_takes_it() -> None:
    model = Sampled()
    sampling = Sampling(temperature=0.2, top_p=0.5, max_tokens=33, seed=5)
    create_lamer_agent(model, ENV, "none", max_episodes=1, max_turns=2, sampling=sampling).invoke({"task": {"seed": 3}})
    assert [{**given, "seed": None} for given in model.given] == [
        {"temperature": 0.2, "top_p": 0.5, "max_tokens": 33, "seed": None}
    ] * 2
    assert len({given["seed"] for given in model.given}) == 2


def test_without_a_sampling_a_chat_model_keeps_its_own_settings() -> None:
    model = Sampled()
    create_lamer_agent(model, ENV, "none", max_episodes=1, max_turns=1).invoke({"task": {"seed": 1}})
    assert model.given == [{}]


def test_what_cuts_nothing_is_passed_only_to_a_model_that_cuts() -> None:
    for own, expected in ((None, None), (1.0, None), (0.5, 1.0)):
        model = Sampled(top_p=own)
        agent = create_lamer_agent(model, ENV, "none", max_episodes=1, max_turns=1, sampling=Sampling())
        agent.invoke({"task": {"seed": 1}})
        assert model.given[0].get("top_p") == expected


@pytest.mark.parametrize(
    ("model", "sampling", "says"),
    [
        (Sampled(), Sampling(top_k=20), "top_k 20"),
        (GenericFakeChatModel(messages=iter([])), Sampling(temperature=0.7, seed=3), "temperature 0.7, seed 3"),
        (ChatModelPolicy(Sampled()), Sampling(temperature=0.7), "sample=True"),
        (Sampled().with_fallbacks([GenericFakeChatModel(messages=iter([]))]), Sampling(temperature=0.7), "temperature"),
    ],
)
def test_a_sampling_that_a_chat_model_would_not_follow_is_refused(model: Any, sampling: Sampling, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        create_lamer_agent(model, ENV, sampling=sampling)


def test_a_seed_of_the_context_that_would_seed_nothing_is_refused() -> None:
    for model, sampling in ((Sampled(), None), (GenericFakeChatModel(messages=iter([])), Sampling())):
        with pytest.raises(ConfigError, match="context's seed 5 would do nothing"):
            create_lamer_agent(model, ENV, sampling=sampling).invoke({"task": {"seed": 1}}, context={"seed": 5})
    seeded = create_lamer_agent(Sampled(), ENV, "none", max_episodes=1, max_turns=1, sampling=Sampling())
    assert seeded.invoke({"task": {"seed": 3}}, context={"seed": 5})


async def test_a_collection_refuses_it_too_before_there_is_a_folder(tmp_path: Any) -> None:
    config = CollectConfig(env=ENV.spec, tasks=1, temperature=0.3)
    with pytest.raises(ConfigError, match=r"temperature 0\.3"):
        await collect(config, ChatModelPolicy(Sampled()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- what would do nothing --------------------------------------------------------------------------------------------


def test_a_strategy_that_the_prompts_do_not_ask_for_is_refused(tmp_path: Any) -> None:
    policy = ScriptedPolicy(random_player)
    with pytest.raises(ConfigError, match="'react' and prompt style 'compact'"):
        create_lamer_agent(policy, ENV, prompt_style="compact", strategy="react")
    config = CollectConfig(env=ENV.spec, tasks=1, prompt_style="compact", strategy="react")
    with pytest.raises(ConfigError, match="'react' and prompt style 'compact'"):
        asyncio.run(collect(config, policy, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_number_of_other_tasks_records_is_refused_where_none_are_seen(tmp_path: Any) -> None:
    with pytest.raises(MemoryConfigError, match="k 5 and scope 'trial'"):
        MemoryConfig("reflection", k=5)
    config = CollectConfig(env=ENV.spec, tasks=1, k=5)
    with pytest.raises(ConfigError, match="k 5 and scope 'trial'"):
        asyncio.run(collect(config, ScriptedPolicy(random_player), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    # A run of before the refusal goes on.
    with RunLog.create(tmp_path / "old", config.model_dump(mode="json")):
        pass
    assert asyncio.run(collect(config, ScriptedPolicy(random_player), tmp_path / "old", resume=True)).finished == 1


def test_a_heritage_is_refused_where_other_tasks_are_not_seen(tmp_path: Any) -> None:
    config = CollectConfig(env=ENV.spec, tasks=1)
    with pytest.raises(ConfigError, match="heritage"):
        asyncio.run(collect(config, ScriptedPolicy(random_player), tmp_path / "run", heritage=Heritage(5, None)))
    assert not (tmp_path / "run").exists()


def test_a_chat_model_that_declares_nothing_cannot_be_told_to_sample() -> None:
    with pytest.raises(ConfigError, match="declares none of temperature"):
        ChatModelPolicy(GenericFakeChatModel(messages=iter([])), sample=True)
    with pytest.raises(ConfigError, match="timeout must be > 0"):
        ChatModelPolicy(Sampled(), timeout=0)


def test_options_of_adapters_are_refused_where_adapters_are_off(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="max_lora_rank is for adapters"):
        VllmServer("org/name", max_adapters=0, max_lora_rank=8)


# -- what is nearly right ---------------------------------------------------------------------------------------------


def test_a_sampling_that_is_none_is_refused_when_the_agent_is_made() -> None:
    given: Any = {"seed": 1}
    for model in (ScriptedPolicy(random_player), Sampled()):
        with pytest.raises(ConfigError, match=r"such as Sampling\(seed=1\), not a dict"):
            create_lamer_agent(model, ENV, sampling=given)
    with pytest.raises(ConfigError, match="not a dict"):
        make_harness(ScriptedPolicy(random_player), ENV, sampling=given)


def test_a_log_in_place_of_a_recorder_is_told_the_fix_and_where_it_was_given(tmp_path: Any) -> None:
    with RunLog.create(tmp_path, {}) as log:
        given: Any = log
        with pytest.raises(ConfigError, match=r"^recorder must be .*: TrialRecorder\(log\)$"):
            create_lamer_agent(ScriptedPolicy(random_player), ENV, recorder=given)
        with pytest.raises(ConfigError, match=r"^context's recorder must be .*: TrialRecorder\(log\)"):
            create_lamer_agent(ScriptedPolicy(random_player), ENV).invoke(
                {"task": {"seed": 1}}, context={"recorder": given}
            )


def test_a_contexts_key_that_is_nearly_ours_is_refused_and_others_are_the_applications() -> None:
    agent = create_lamer_agent(ScriptedPolicy(random_player), ENV, namespace="own")
    for typo, meant in (
        ("namespce", "namespace"),
        ("user_idd", "user_id"),
        ("recoder", "recorder"),
        ("uniqe", "unique"),
    ):
        given: Any = {typo: "x"}
        with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
            agent.invoke({"task": {"seed": 1}}, context=given)
    theirs: Any = {"tenant": 3, "user": "ann", "seed": 1, "seeds": [1], 5: 6}
    assert agent.invoke({"task": {"seed": 1}}, context=theirs)


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_unique_that_says_nothing_is_refused(blank: str) -> None:
    with pytest.raises(ConfigError, match="unique must be a text that is not empty"):
        create_lamer_agent(ScriptedPolicy(random_player), ENV).invoke({"task": {"seed": 1}}, context={"unique": blank})


def test_a_namespace_tells_trials_apart_also_where_nothing_outlives_them(tmp_path: Any) -> None:
    with RunLog.create(tmp_path, {}) as log:
        for namespace in ("ann", "bob"):
            agent = create_lamer_agent(
                ScriptedPolicy(random_player), ENV, namespace=namespace, recorder=TrialRecorder(log)
            )
            agent.invoke({"task": {"seed": 1}}, context={"unique": "x"})
    assert len({trial["trial_id"] for trial in read_trials(tmp_path)}) == 2


def test_the_policys_card_says_how_it_is_asked(tiny_model_dir: Any, tmp_path: Any) -> None:
    taught = tmp_path / "taught"
    shutil.copytree(tiny_model_dir, taught)
    (taught / "lamer.json").write_text('{"env": "minesweeper:4x4-3", "prompt_style": "compact"}')
    for folder, style in ((taught, "compact"), (tiny_model_dir, "standard")):
        policy = LocalPolicy(folder)
        assert taught_style(policy) == style
        assert taught_style(Watched(policy, lambda: None)) == style
        policy.close()
    assert taught_style(ScriptedPolicy(random_player)) == "standard"


def test_events_tell_nothing_that_the_policy_cannot_see() -> None:
    agent = create_lamer_agent(ScriptedPolicy(random_player), make("minesweeper:4x4-3"))
    events = list(agent.stream({"task": {"seed": 1}}, stream_mode="custom"))
    assert {event["event"] for event in events} == {"turn", "reflection", "episode"}
    assert "mines" not in json.dumps(events)
