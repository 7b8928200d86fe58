"""Re-rolls: failed trials of a run played on once more from their midst, with the same past and another future.

What must stay true: where re-rolls begin follows from the run's configuration and its finished trials alone, so that a
run that is killed and goes on plays the same ones; a re-roll is asked at its beginning what the trial was asked there,
to the word, or it is an error of its own; the calls before that are the trial's and are nowhere logged again.

After LEAFE (arXiv 2603.16843), which rolls failed trajectories back to an earlier decision and branches from there, as
environments whose states are JSON make cheap. Ours differs: the decision is drawn, not named by the policy's own
reflection; the suffixes see nothing that the trial did not, no summary of its failure; and they are compared with each
other by the estimator that compares everything else, where the source fine-tunes on those that succeed.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

from lamer_graph.collection.config import CollectConfig
from lamer_graph.errors import RunLogError
from lamer_graph.trial import calls, steps
from lamer_graph.trial.driver import Begun
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.states import EpisodeState, Json, TrialState
from lamer_graph.trial.steps import MAX_TEXT_CHARS, Reply
from lamer_graph.trial.tasks import task_id_of, trial_id_of
from lamer_graph.types import Completion, stable_seed
from lamer_memory.base import Namespace


class Reroll(NamedTuple):
    """A trial to be played: its task with its own index, and the logged trial, episode and turn that it begins at."""

    task: Json
    trial: Json
    episode: int
    turn: int

    @property
    def branch(self) -> Json:
        """As the log says it."""
        return {"trial_id": self.trial["trial_id"], "episode": self.episode, "turn": self.turn}


def rerolls_of(config: CollectConfig, h: Harness, tasks: Iterable[Json], lines: Iterable[Json]) -> Iterator[Reroll]:
    """The re-rolls of a run whose log has these lines, in the order of its `tasks` (as `requested_trials` gives them).

    Of every task whose trials are all finished: up to `reroll_trials` of those that failed, drawn by the run's seed,
    and of each a turn, drawn from all but the first one, which would be another trial from the start. Their indices
    follow those of the task's own trials.
    """
    finished: dict[str, dict[int, Json]] = defaultdict(dict)
    for line in lines:
        if line["error"] is None and line.get("branch") is None:
            finished[line["task"]["id"]][line["trial"]] = line
    for task in (one for one in tasks if one["trial"] == 0):
        name = task_id_of(h.env, task)
        trials = finished.get(name, {})
        if len(trials) < config.trials:
            continue  # which of them failed is not known yet
        rng = random.Random(stable_seed(config.seed, name, "rerolls"))
        failed = [trials[index] for index in sorted(trials) if places(trials[index])]
        chosen = rng.sample(failed, min(config.reroll_trials, len(failed)))
        for number, trial in enumerate(chosen):
            episode, turn = rng.choice(places(trial))
            for again in range(config.rerolls):
                index = config.trials + number * config.rerolls + again
                yield Reroll({**task, "trial": index}, trial, episode, turn)


def places(trial: Json) -> list[tuple[int, int]]:
    """The turns of a failed trial that a re-roll may begin at; none of one that was solved, or whose answers were cut
    short in the log and cannot be read again."""
    turns = [(e, t, turn) for e, episode in enumerate(trial["episodes"]) for t, turn in enumerate(episode["turns"])]
    if trial["success"] or any(len(turn["text"]) >= MAX_TEXT_CHARS for _, _, turn in turns):
        return []
    return [(episode, turn) for episode, turn, _ in turns[1:]]


def name_of(h: Harness, reroll: Reroll) -> str:
    """The id of the trial that it becomes."""
    return trial_id_of(task_id_of(h.env, reroll.task), reroll.task["trial"])


async def begun(h: Harness, reroll: Reroll, namespace: Namespace, started: float) -> Begun:
    """The state that a re-roll goes on from: the trial's past played again from its logged answers.

    Raises RunLogError where it is not what was logged: the environment, the prompts or the memory are others now.
    """
    logged = reroll.trial
    state = steps.open_trial(h, reroll.task, namespace=namespace, started=started)
    for number in range(reroll.episode + 1):
        _update(state, await calls.arecall(h, state))
        episode = steps.begin(state)
        turns = logged["episodes"][number]["turns"]
        here = number == reroll.episode
        for turn in turns[: reroll.turn] if here else turns:
            _update(episode, steps.acted(h, episode, _reply(turn["text"]), record=False))
            again = episode["turns"][-1]
            if any(again[key] != turn[key] for key in ("observation", "action", "reward", "valid")):
                raise _other(reroll, f"turn {len(episode['turns']) - 1} of episode {number} now goes otherwise")
        if here:
            break
        _update(state, steps.ended(h, state, episode))
        if h.reflects:
            state["reflection"] = logged["reflections"][number]["text"]
        if h.remembers:
            records = steps.memories(h, state)
            await calls.aremember(h, state, records)
            _update(state, steps.remembered(h, state, records))
    _check_prompt(h, reroll, episode)
    return Begun(state, episode)


def _check_prompt(h: Harness, reroll: Reroll, episode: EpisodeState) -> None:
    """Raises RunLogError if the policy would be asked something else than the trial was at this place."""
    call = reroll.trial["episodes"][reroll.episode]["turns"][reroll.turn]["call"]
    texts = reroll.trial["texts"]
    if call is not None:
        asked = [(one["role"], one["content"]) for one in steps.ask_action(h, episode).build(call["dropped"])]
        if asked != [(role, texts[index]) for role, index in call["messages"]]:
            raise _other(reroll, "its prompt there is another now")


def _reply(text: str) -> Reply:
    return Reply(Completion(text, [], [], [], "", ""), [], 0, 0, 0.0)


def _other(reroll: Reroll, what: str) -> RunLogError:
    name = reroll.trial["trial_id"]
    return RunLogError(f"trial {name} cannot be begun again at its logged past: {what}; collect into a new folder")


def _update(state: TrialState | EpisodeState, update: Any) -> None:
    cast(dict[str, Any], state).update(update)


def own_turns(line: Json) -> tuple[int, int]:
    """How many turns and reflections of a logged trial are its own; what a re-roll began after is another's."""
    turns, reflections = sum(len(episode["turns"]) for episode in line["episodes"]), len(line["reflections"])
    branch = line.get("branch")
    if branch is not None:
        earlier = line["episodes"][: branch["episode"]]
        turns -= sum(len(episode["turns"]) for episode in earlier) + branch["turn"]
        reflections -= sum(made["episode"] < branch["episode"] for made in line["reflections"])
    return turns, reflections
