"""One update's batch: trials read, checked, credited, and what they say about the policy that played them.

What must stay true: everything that could make an update wrong is found here, before the model is touched.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lamer_trainers.errors import TrainingDataError
from lamer_trainers.learning.charges import penalty_of
from lamer_trainers.learning.collapse import collapse_metrics, telling_groups
from lamer_trainers.learning.config import LamerConfig
from lamer_trainers.learning.critic import Judged
from lamer_trainers.learning.distil import Distiller
from lamer_trainers.learning.invalid import invalid_metrics
from lamer_trainers.learning.samples import (
    Credit,
    Estimator,
    Limits,
    Sample,
    Trial,
    advantages_of,
    anchors_of,
    samples_of,
    staleness,
)

NOTHING = 1e-8
"""Advantages up to this size are rounding: equal returns minus their mean are seldom exactly 0."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples, one advantage for each, numbers for the log, and warnings for a person."""

    samples: list[Sample]
    advantages: list[float]
    metrics: dict[str, float]
    warnings: list[str] = field(default_factory=list)


Judge = Callable[[Sequence[Sample], int], Judged]
"""Advantages from a critic, see `critic.Critic.judge`."""


def read_batch(
    trials: Sequence[Trial],
    config: LamerConfig,
    limits: Limits,
    update: int,
    judge: Judge | None = None,
    distiller: Distiller | None = None,
) -> Batch:
    """The batch of update number `update`; advantages are `judge`'s where there is one, and behind the samples come
    those of a `distiller`. Raises TrainingDataError."""
    finished = [trial for trial in trials if trial.get("error") is None]
    check_sampling(finished, config.temperature)
    samples = samples_of(finished, config.credit_rule, limits)
    if not samples:
        raise TrainingDataError(
            f"update {update} has no trainable sample ({len(trials)} trials, {len(finished)} of them finished; calls "
            "without tokens are none)"
        )
    metrics = batch_metrics(finished, samples, config.estimator) | penalties(finished, samples, config.credit_rule)
    metrics |= invalid_metrics(samples) | collapse_metrics(samples)
    samples, noted = telling_groups(samples, config.drop_groups)
    metrics |= noted
    if config.max_staleness is not None:
        metrics |= _check_staleness(samples, config.max_staleness, update)
    if judge is None:
        advantages = advantages_of(samples, config.estimator)
    else:
        advantages, judged = judge(samples, update)
        metrics |= judged
    # A critic's advantages vary though nothing was earned: there the returns say whether anything was.
    returns = [sample.step_return for sample in samples]
    telling = advantages if judge is None else [value - returns[0] for value in returns]
    silent = all(abs(value) <= NOTHING for value in telling)
    warnings = []
    if silent:
        warnings.append(
            f"update {update} has no signal: within every group all {len(samples)} calls earned the same; use "
            "harder or easier tasks, or more trials per task"
        )
    metrics["advantage/zero"] = 1.0 if silent else sum(abs(a) <= NOTHING for a in advantages) / len(advantages)
    metrics["advantage/mean_size"] = sum(abs(value) for value in advantages) / len(advantages)
    if distiller is not None:
        more, earned = distiller.samples(finished, samples, advantages, update, limits.tokens)
        metrics["distil/calls"] = float(len(more))
        samples, advantages = [*samples, *more], [*advantages, *earned]
    return Batch(samples, advantages, metrics, warnings)


def check_sampling(trials: Sequence[Trial], temperature: float) -> None:
    """Raises TrainingDataError for trials drawn from another distribution than the one that is trained."""
    for trial in trials:
        drawn = trial["sampling"]
        if unknown := [name for name in ("temperature", "top_p", "top_k") if drawn.get(name) is None]:
            raise TrainingDataError(
                f"trial {trial['task']['id']}#{trial['trial']} was sampled with the {', '.join(unknown)} of a chat "
                "model or server, which nobody knows here, or not all its calls alike; collect with what gives exact "
                "tokens (LocalPolicy, OpenAIPolicy with training=True and vLLM, LamerChat, the gateway)"
            )
        if drawn["top_p"] != 1.0 or drawn["top_k"] != 0 or drawn["temperature"] != temperature:
            raise TrainingDataError(
                f"trial {trial['task']['id']}#{trial['trial']} was sampled at temperature {drawn['temperature']}, "
                f"top_p {drawn['top_p']}, top_k {drawn['top_k']}; training needs {temperature}, 1 and 0"
            )


def batch_metrics(trials: Sequence[Trial], samples: Sequence[Sample], estimator: Estimator) -> dict[str, float]:
    """Counts and rates of a batch: pass@k over its trials, the reward of a trial, invalid turns.

    `batch/calls` and `batch/tokens` are of all that was played, so that runs can be compared at equal calls;
    `batch/trials`, the reward and pass@k are of trials from their start. Re-rolls, which began where one had failed
    already, have numbers of their own: of them, of their calls, and the share that succeeded after all.

    `batch/anchor_group` is the mean size of the groups whose turns share a step-level baseline, `batch/anchor_alone`
    the share of turns that share theirs with no other.
    """
    every, trials = trials, [trial for trial in trials if trial.get("branch") is None]
    if not trials:
        raise TrainingDataError("the batch holds re-rolls alone: give them with the trials that they were begun from")
    rerolls = [trial for trial in every if trial.get("branch") is not None]
    turns = [sample for sample in samples if sample.kind == "turn"]
    anchors = Counter(zip((turn.group for turn in turns), anchors_of(turns, estimator.anchor), strict=True))
    metrics = {
        "batch/trials": float(len(trials)),
        "batch/episodes": float(sum(len(trial["episodes"]) for trial in trials)),
        "batch/calls": float(len(samples)),
        "batch/prompt_tokens": float(sum(len(sample.prompt_token_ids) for sample in samples)),
        "batch/tokens": float(sum(len(sample.token_ids) for sample in samples)),
        "batch/reward": sum(e["reward"] for t in trials for e in t["episodes"]) / len(trials),
        "batch/invalid": sum(not sample.valid for sample in turns) / len(turns),
        "batch/anchor_group": len(turns) / len(anchors),
        "batch/anchor_alone": sum(size == 1 for size in anchors.values()) / len(turns),
    }
    if rerolls:
        metrics |= {
            "rerolls/trials": float(len(rerolls)),
            "rerolls/calls": float(sum(sample.rerolled for sample in samples)),
            "rerolls/success": sum(trial["success"] for trial in rerolls) / len(rerolls),
        }
    solved = [next((n for n, e in enumerate(t["episodes"]) if e["success"]), None) for t in trials]
    for k in range(1, max(len(trial["episodes"]) for trial in trials) + 1):
        metrics[f"batch/pass@{k}"] = sum(n is not None and n < k for n in solved) / len(trials)
    return metrics | _worth(trials, solved)


def _worth(trials: Sequence[Trial], solved: Sequence[int | None]) -> dict[str, float]:
    """What other tasks' records did for trials that saw them, of the same tasks as those that they were held back from:
    success at the first attempt and at any, with them minus without."""
    won: dict[bool, list[int | None]] = {True: [], False: []}
    for trial, first in zip(trials, solved, strict=True):
        reads = trial.get("memory_reads", ())
        held = any(read.get("held") for read in reads)
        if held or any(not key.startswith(f"{trial['trial_id']}/") for read in reads for key in read["keys"]):
            won[held].append(first)
    if not (won[True] and won[False]):
        return {}

    def share(held: bool, most: float) -> float:
        return sum(n is not None and n <= most for n in won[held]) / len(won[held])

    return {
        "memory/effect@1": share(False, 0) - share(True, 0),
        "memory/effect": share(False, math.inf) - share(True, math.inf),
    }


def penalties(trials: Sequence[Trial], samples: Sequence[Sample], credit: Credit) -> dict[str, float]:
    """What invalid actions were charged: the charge (0 where the environment has one of its own), and how often."""
    charges = {str(trial["trial_id"]): penalty_of(trial["task"]["env"], credit.invalid_penalty) for trial in trials}
    charged = sum(not sample.valid and sample.kind == "turn" and charges[sample.trial] > 0 for sample in samples)
    return {"credit/invalid_penalty": max(charges.values()), "credit/penalised_calls": float(charged)}


def _check_staleness(samples: Sequence[Sample], limit: int, update: int) -> dict[str, float]:
    ages = staleness(samples, update)
    oldest = max(range(len(ages)), key=ages.__getitem__)
    if ages[oldest] > limit or min(ages) < 0:
        wrong = oldest if ages[oldest] > limit else min(range(len(ages)), key=ages.__getitem__)
        raise TrainingDataError(
            f"{samples[wrong].place} was drawn by {samples[wrong].policy_version}, {ages[wrong]} versions before "
            f"update {update}; max_staleness is {limit}"
        )
    return {"sampling/staleness_mean": sum(ages) / len(ages), "sampling/staleness_max": float(ages[oldest])}
