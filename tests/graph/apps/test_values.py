"""What an application's trials leave to its other tasks, and what they say of the worth of what they saw."""

from __future__ import annotations

from typing import Any

import pytest

from agents import CODE, QUESTION, agent_of, graded, search
from lamer_graph import MemoryConfig, with_retries
from lamer_memory import InContextMemory, MemoryConfigError, value_of

ANNA: Any = {"configurable": {"user_id": "anna"}}


def of_anna(backend: InContextMemory) -> list[Any]:
    (space,) = [name for name in backend.namespaces() if name[0] == "anna" and len(name) == 2]
    return [entry.record for entry in backend.search(space, limit=100)]


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_won_trial_is_reflected_on_where_that_is_asked_for(how: str) -> None:
    told: list[str] = []

    def reflect(transcript: str, feedback: str) -> str:
        told.append(feedback)
        return f"The code word is {CODE}. ({len(told)})"

    backend = InContextMemory()
    agent, _ = agent_of()
    memory = MemoryConfig("reflection", backend=backend, scope="tasks", lessons="all")
    app = with_retries(agent, grade=graded, reflect=reflect, memory=memory)
    result = await app.ainvoke(QUESTION, ANNA) if how == "async" else app.invoke(QUESTION, ANNA)
    assert result["success"]
    assert len(result["reflections"]) == len(result["attempts"]) == len(told) == 2
    records = of_anna(backend)
    assert {record.text for record in records} == set(result["reflections"])
    assert all(record.success for record in records)


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_in_deployment_values_are_outcomes_against_what_is_usual_and_say_that_they_are_no_comparison(
    how: str,
) -> None:
    backend = InContextMemory()
    agent, _ = agent_of()
    memory = MemoryConfig("reflection", backend=backend, scope="tasks", same_task=True, select="value")
    app = with_retries(agent, grade=graded, reflect=lambda told, why: f"The code word is {CODE}.", memory=memory)
    for _ in range(4):
        result = await app.ainvoke(QUESTION, ANNA) if how == "async" else app.invoke(QUESTION, ANNA)
    assert len(result["attempts"]) == 1, "the lesson of the first trial is seen by the fourth"
    known = [value_of(record) for record in of_anna(backend) if value_of(record).known]
    assert known
    assert all(value.mean > 0 and not value.controlled for value in known)


async def test_a_share_of_an_applications_trials_is_shown_nothing_so_that_there_is_a_comparison() -> None:
    backend = InContextMemory()
    agent, _ = agent_of()
    memory = MemoryConfig("reflection", backend=backend, scope="tasks", same_task=True, control=0.5)
    app = with_retries(agent, grade=graded, reflect=lambda told, why: f"The code word is {CODE}.", memory=memory)
    attempts = [len((await app.ainvoke(QUESTION, ANNA))["attempts"]) for _ in range(16)]
    assert set(attempts[1:]) == {1, 2}, "with the lesson at once, without it at the second attempt"
    values = [value_of(record) for record in of_anna(backend)]
    assert any(value.controlled and value.mean > 0.2 for value in values)


def test_what_makes_no_sense_together_is_refused_by_name() -> None:
    with pytest.raises(MemoryConfigError, match="lessons 'all' and contents 'trajectory' exclude each other"):
        MemoryConfig("trajectory", scope="tasks", lessons="all")
    with pytest.raises(MemoryConfigError, match="must be one of similar, value, ucb, not 'vlaue'; did you mean"):
        MemoryConfig("reflection", scope="tasks", select="vlaue")  # type: ignore[arg-type]


def test_of_an_applications_tasks_as_many_trials_of_each_are_held_back_as_the_control_says(tmp_path: Any) -> None:
    """`collect` plays groups of an application's trials, too: there the halves are exact, as an environment's are."""
    import asyncio

    from lamer_graph import Grade, task_agent
    from lamer_graph.collection.collect import collect
    from lamer_graph.collection.config import CollectConfig
    from lamer_graph.runlog import read_trials
    from scripted import ScriptedPolicy

    async def never(task: Any, result: Any) -> Grade:
        return Grade(False, feedback="no")

    def app(name: str) -> Any:
        tasks = [{"input": f"Question {n} of {name}?", "split": "train"} for n in range(4)]
        return task_agent(tools=[search], tasks=tasks, grade=never, name=name)

    def settings(name: str, **changes: Any) -> CollectConfig:
        return CollectConfig(
            env=app(name).spec, tasks=4, trials=4, max_episodes=1, backend="chroma", scope="tasks", **changes
        )

    policy = ScriptedPolicy(lambda messages, sampling: "I do not know.")
    filling = settings("filling").model_copy(update={"max_episodes": 2, "contents": "reflection"})
    asyncio.run(collect(filling, policy, tmp_path / "filled"))
    asyncio.run(collect(settings("asking", control=0.5, store=str(tmp_path / "filled")), policy, tmp_path / "run"))
    held: dict[str, list[bool]] = {}
    for trial in read_trials(tmp_path / "run"):
        held.setdefault(trial["task"]["id"], []).append(bool(trial["memory_reads"][0].get("held")))
    assert sorted(map(sum, held.values())) == [2, 2, 2, 2]
