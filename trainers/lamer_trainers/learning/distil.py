"""What a memory taught, trained into a policy that plays without it: successful episodes, with the memory left out.

What must stay true: an episode is asked again exactly as it was, but for its memory and its number, from its task and
its logged actions alone (environments are pure); its answers are the logged ones, to the token. They were drawn with
the memory, so each token weighs min(pi(without) / pi(logged), `importance_cap`), and one that is less probable than
`floor` without the memory is not trained: it was copied from there, and nothing in the prompt would say it. That is
EMPO2's off-policy update (arXiv 2602.23008), for the episodes of a trial as ERL (arXiv 2602.13949) distils them.

Where nothing can be known before the first attempt, there is nothing to be learnt this way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lamer_envs.base import Env
from lamer_graph.errors import LamerError
from lamer_graph.text import plain
from lamer_graph.trial.answers import reasoning
from lamer_graph.trial.prompts import PromptBuilder, Turn
from lamer_graph.trial.tasks import start_of
from lamer_graph.types import Message
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.samples import Sample, Trial

Render = Callable[[Sequence[Message]], Sequence[int]]
"""Messages to a prompt's token ids."""


@dataclass(frozen=True, slots=True)
class Distiller:
    """Makes samples without memory of a batch's, at most `ratio` times as many as the batch has."""

    prompts: PromptBuilder
    render: Render
    ratio: float

    def samples(
        self,
        trials: Sequence[Trial],
        samples: Sequence[Sample],
        advantages: Sequence[float],
        seed: int,
        most: int | None = None,
    ) -> tuple[list[Sample], list[float]]:
        """The samples of episodes that succeeded with a memory, asked without it, and their advantages.

        Those of the batch that earned more than was expected, with what they earned; which of them, where there are
        more than `ratio` allows, is drawn from `seed`. Left out is what has more than `most` tokens: its prompt was
        trimmed when it was played. Raises TrainingDataError for a trial that cannot be replayed.
        """
        by_trial = {str(trial["trial_id"]): trial for trial in trials}
        taught = {(name, number) for name, trial in by_trial.items() for number in taught_episodes(trial)}
        found = [
            (sample, advantage)
            for sample, advantage in zip(samples, advantages, strict=True)
            if sample.kind == "turn" and advantage > 0 and (sample.trial, sample.episode) in taught
        ]
        random.Random(seed).shuffle(found)
        found = found[: int(self.ratio * len(samples))]
        asked: dict[tuple[str, int], list[Sequence[int]]] = {}
        made, earned = [], []
        for sample, advantage in found:
            place = sample.trial, sample.episode
            if place not in asked:
                asked[place] = list(self._asked(by_trial[sample.trial], sample.episode))
            again = replace(sample, prompt_token_ids=asked[place][sample.turn], remembered=True)
            if most is None or again.length <= most:
                made.append(again)
                earned.append(advantage)
        return made, earned

    def _asked(self, trial: Trial, number: int) -> Iterator[Sequence[int]]:
        """The prompts of an episode's turns as they are in a first attempt without memory."""
        env: Env = self.prompts.env
        turns = trial["episodes"][number]["turns"]
        try:
            state, played = start_of(env, trial["task"]), list[Turn]()
            for turn in turns:
                shown = played if self.prompts.shows_turns else ()
                plan = turns[0].get("plan", "") if played else ""
                yield self.render(self.prompts.act(replace(self.prompts.view(state, 1, shown), plan=plan)))
                step = env.step(state, turn["action"])
                if step.reward != turn["reward"]:
                    raise TrainingDataError(f"its action {turn['action']!r} now earns {step.reward:g}")
                outcome = plain(env.outcome(state, turn["action"], step))
                thought = reasoning(turn["text"]) if self.prompts.thoughts == "shown" else ""
                played.append(Turn(turn["observation"], turn["action"], outcome, thought))
                state = step.state
        except (LamerError, KeyError, TypeError) as error:
            raise TrainingDataError(
                f"episode {number} of trial {trial['trial_id']} cannot be played again without its memory: {error}"
            ) from None


def taught_episodes(trial: Mapping[str, Any]) -> list[int]:
    """The episodes (from 0) of a trial that succeeded and saw a memory: what it reads before each says so."""
    if not trial["success"]:
        return []
    last = len(trial["episodes"]) - 1
    return [last] if any(read["episode"] == last and read["keys"] for read in trial["memory_reads"]) else []
