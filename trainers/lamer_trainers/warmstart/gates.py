"""What a warm start must be before it is worth training: measured on tasks it has never seen, through the real driver.

What must stay true: trials are played by `trial.driver` with the policy that will be trained and served, on the
validation split, at temperature 1; the probability of a forbidden answer is computed from logits, not estimated from
samples.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from lamer_envs.base import Env
from lamer_graph.errors import PolicyError
from lamer_graph.evaluation.stats import Estimate, pass_at_k
from lamer_graph.policies.base import Policy
from lamer_graph.trial.answers import ACTION_TAG, extract
from lamer_graph.trial.driver import play_trial
from lamer_graph.trial.harness import make_harness
from lamer_graph.trial.prompts import PromptStyle
from lamer_graph.trial.states import TrialState
from lamer_graph.types import Sampling, stable_seed
from lamer_memory import Contents
from lamer_memory.recall import kinds
from lamer_trainers.warmstart.fitting import LeftCollator, Progress, answer_logprobs, encode
from lamer_trainers.warmstart.teachers import Row, Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

SPLIT = "val"
CONTENTS: tuple[Contents, ...] = ("none", "trajectory", "reflection", "both")
CONCURRENCY = 128
MAX_TOKENS: dict[PromptStyle, int] = {"compact": 32, "standard": 64}
"""Of an answer; reflections in sentences take more than notes."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One reading and the closed interval it must lie in."""

    name: str
    value: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        return self.low <= self.value <= self.high

    @property
    def target(self) -> str:
        """The interval in words."""
        if self.low <= 0:
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high >= 1 else f"{self.low:g} to {self.high:g}"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "low": self.low, "high": self.high, "passed": self.passed}


@dataclass(frozen=True)
class Reading:
    """What was measured. `pass_at[contents][k - 1]` is pass@k with its 95 % interval over tasks."""

    valid_actions: float
    well_formed: float
    forbidden: float
    true_remarks: float
    same_end: dict[str, float] = field(default_factory=dict)
    """By contents: how often the second episode ends the way the first did (on the same mine, in the same spot)."""
    pass_at: dict[str, list[Estimate]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "valid_actions": self.valid_actions,
            "well_formed": self.well_formed,
            "forbidden": self.forbidden,
            "true_remarks": self.true_remarks,
            "same_end": self.same_end,
            "pass_at": {name: [estimate._asdict() for estimate in row] for name, row in self.pass_at.items()},
        }


async def measure(
    teacher: Teacher,
    policy: Policy,
    *,
    tasks: int,
    seed: int,
    forbidden: float,
    contents: Sequence[Contents] = CONTENTS,
    progress: Progress = print,
) -> Reading:
    """Play `tasks` held-out tasks under each of the memories and take all readings.

    `forbidden` is the reading that play does not give: the probability of forbidden answers.
    """
    finished: dict[Contents, list[TrialState]] = {}
    for number, kind in enumerate(contents, start=1):
        progress(f"measuring on {tasks} held-out tasks: memory {kind}, {number} of {len(contents)}")
        finished[kind] = await trials(teacher.env, policy, kind, tasks, seed, teacher.prompts.style)
    turns = [turn for states in finished.values() for s in states for e in s["episodes"] for turn in e["turns"]]
    remembered = [s for kind, states in finished.items() if "reflection" in kinds(kind) for s in states]
    return Reading(
        valid_actions=_share([turn["valid"] for turn in turns]),
        well_formed=_share([extract(turn["text"], ACTION_TAG).failure is None for turn in turns]),
        forbidden=forbidden,
        true_remarks=_share([found for s in remembered for found in judged_remarks(teacher, s)]),
        same_end={
            kind: _share([same for s in states if (same := _same_end(s)) is not None])
            for kind, states in finished.items()
        },
        pass_at={
            kind: pass_at_k([_first_success(s) for s in states], teacher.prompts.max_episodes)
            for kind, states in finished.items()
        },
    )


async def trials(
    env: Env, policy: Policy, contents: Contents, tasks: int, seed: int, style: PromptStyle = "compact"
) -> list[TrialState]:
    """One trial of each of the first `tasks` validation tasks. Raises PolicyError for the first that failed."""
    h = make_harness(
        policy,
        env,
        contents,
        prompt_style=style,
        sampling=Sampling(temperature=1.0, max_tokens=MAX_TOKENS[style], seed=stable_seed("gates", seed)),
    )
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one(task: int) -> TrialState:
        async with gate:
            played = await play_trial(h, {"seed": task}, record=False)
        if played.error is not None:
            raise PolicyError(f"trial of task {task} failed: {played.error}")
        return played.state

    return list(await asyncio.gather(*(one(task) for task in islice(env.seeds(SPLIT), tasks))))


def judged_remarks(teacher: Teacher, state: TrialState) -> list[bool]:
    """Whether each reflection of a trial that could have been true was: failed episodes are replayed to find out."""
    judged = []
    for episode, text in zip(state["episodes"], state["reflections"], strict=False):
        attempt = teacher.begin(state["start"], (), random.Random(0))
        for turn in episode["turns"]:
            teacher.play(attempt, turn["action"])
        if teacher.instructive(attempt):
            judged.append(teacher.true_remark(attempt, text))
    return judged


def held_out_drills(teacher: Teacher, count: int, seed: int) -> list[Row]:
    """`count` choices under made-up memories on validation tasks, each with something forbidden."""
    rng = random.Random(stable_seed("held-out drills", seed))
    found: list[Row] = []
    for task in teacher.env.seeds(SPLIT):
        found += [row for row in teacher.drills(teacher.env.reset(task), rng) if row.forbidden]
        if len(found) >= count:
            break
    return found[:count]


def forbidden_probability(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], batch: int = 128
) -> float:
    """Mean probability that the answer turns into a forbidden one, exact, where it begins as the teacher's does."""
    import torch

    collate = LeftCollator(tokenizer.pad_token_id, len(tokenizer))
    data = encode(tokenizer, rows)
    total = 0.0
    with torch.inference_mode():
        for at in range(0, len(data), batch):
            inputs = collate([data[i] for i in range(at, min(at + batch, len(data)))])
            logprobs = answer_logprobs(model, inputs)
            total += float((logprobs.exp() * inputs["forbidden"]).sum())
    return total / len(data)


def _first_success(state: TrialState) -> tuple[str, int | None]:
    return state["task_id"], len(state["episodes"]) - 1 if state["success"] else None


def _same_end(state: TrialState) -> bool | None:
    """Whether episode 2 ended with episode 1's last action, failing again; None if there was no episode 2."""
    if len(state["episodes"]) < 2:
        return None
    first, second = state["episodes"][:2]
    ended_alike = not second["success"] and not first["truncated"] and not second["truncated"]
    return ended_alike and first["turns"][-1]["action"] == second["turns"][-1]["action"]


def _share(cases: Sequence[bool]) -> float:
    return sum(cases) / len(cases) if cases else 0.0
