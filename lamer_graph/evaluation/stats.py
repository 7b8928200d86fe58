"""Statistics over trials: pass@k, turns, invalid actions, trajectory diversity, paired differences, with intervals.

What must stay true: the unit of uncertainty is the instance behind a task, never the trial or the turn (trials on one
task are alike, and so are tasks that differ only in how they begin), and a result depends on the trials alone: not on
their order, not on a global random state. `instances` maps task ids to instances; a task that it does not know is one.
Intervals are 95 %. One trial per instance: Wilson's score interval (Wilson 1927, JASA 22, eq. 3) for a proportion;
otherwise the percentile bootstrap that draws whole instances with replacement (Efron and Tibshirani 1993, ch. 13).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from types import MappingProxyType
from typing import Any, NamedTuple

from lamer_graph.errors import ConfigError

Z95 = 1.959963984540054
"""0.975 quantile of the standard normal distribution."""
RESAMPLES = 2000

FirstSuccess = tuple[str, int | None]
"""(task id, index from 0 of the episode that succeeded, None if none did)."""


Instances = Mapping[str, str]
"""The instance behind each task id."""
_EACH_ITS_OWN: Instances = MappingProxyType({})


class Estimate(NamedTuple):
    """A value with its 95 % interval, from `tasks` tasks."""

    value: float
    low: float
    high: float
    tasks: int


@dataclass(frozen=True)
class Summary:
    """What `summarise` says about the trials of one run. `pass_at[k-1]` is pass@k; `diversity` is in nats."""

    trials: int
    tasks: int
    instances: int
    """Different instances behind the tasks; intervals are over these."""
    failed_trials: int
    """Trials that ended in an error (a lost server, say); they are in none of the numbers below."""
    pass_at: list[Estimate]
    turns_per_episode: Estimate
    invalid_rate: Estimate
    diversity: Estimate

    def to_json(self) -> dict[str, Any]:
        named = ("turns_per_episode", "invalid_rate", "diversity")
        pass_at = [estimate._asdict() for estimate in self.pass_at]
        return {**vars(self), "pass_at": pass_at, **{name: getattr(self, name)._asdict() for name in named}}


def summarise(trials: Iterable[Mapping[str, Any]], n: int, instances: Instances = _EACH_ITS_OWN) -> Summary:
    """All statistics of run log trials of up to `n` episodes. Raises ConfigError if no trial finished.

    `instances` may still be filled while the trials are read.
    """
    finished: list[Mapping[str, Any]] = []
    failed: set[tuple[str, int]] = set()
    for trial in trials:
        key = (trial["task"]["id"], trial.get("trial", 0))
        if trial.get("error") is None:
            # Statistics need a sliver of a trial: tokens and texts of a whole run need not be in memory at once.
            finished.append(_sliver(trial))
            failed.discard(key)  # a resume has played it again
        else:
            failed.add(key)
    if not finished:
        raise ConfigError(f"there are no finished trials to take statistics of; {len(failed)} ended in an error")
    tasks = {trial["task"]["id"] for trial in finished}
    return Summary(
        trials=len(finished),
        tasks=len(tasks),
        instances=len({instances.get(task, task) for task in tasks}),
        failed_trials=len(failed),
        pass_at=pass_at_k(finished, n, instances),
        turns_per_episode=turns_per_episode(finished, instances),
        invalid_rate=invalid_rate(finished, instances),
        diversity=trajectory_diversity(finished, instances),
    )


def first_success(trial: Mapping[str, Any]) -> FirstSuccess:
    """(task id, index of the first successful episode or None) of a run log trial."""
    episodes = trial["episodes"]
    return trial["task"]["id"], next((i for i, episode in enumerate(episodes) if episode["success"]), None)


def pass_at_k(
    trials: Iterable[Mapping[str, Any] | FirstSuccess], n: int, instances: Instances = _EACH_ITS_OWN
) -> list[Estimate]:
    """pass@1..n: the probability that a trial succeeds within its first k episodes, as a mean over tasks.

    Takes run log trials or (task id, first successful episode) pairs. Every trial counts, one that an error ended too:
    leave those out first if they should not. Raises ConfigError without trials or with n < 1.
    """
    if n < 1:
        raise ConfigError(f"pass@k needs at least one episode, not n={n}")
    firsts = _firsts(trials)
    return [
        _proportion({task: [_within(first, k) for first in group] for task, group in firsts.items()}, instances)
        for k in range(1, n + 1)
    ]


def task_success(trials: Iterable[Mapping[str, Any] | FirstSuccess], k: int) -> dict[str, float]:
    """Per task, the share of its trials that succeed within their first k episodes."""
    return {task: sum(_within(first, k) for first in group) / len(group) for task, group in _firsts(trials).items()}


def turns_per_episode(trials: Iterable[Mapping[str, Any]], instances: Instances = _EACH_ITS_OWN) -> Estimate:
    """Mean number of turns of an episode."""
    return ratio(
        (
            (trial["task"]["id"], sum(len(episode["turns"]) for episode in trial["episodes"]), len(trial["episodes"]))
            for trial in trials
        ),
        instances,
    )


def invalid_rate(trials: Iterable[Mapping[str, Any]], instances: Instances = _EACH_ITS_OWN) -> Estimate:
    """Share of turns whose action was malformed or inadmissible."""
    return ratio(
        (
            (
                trial["task"]["id"],
                sum(not turn["valid"] for episode in trial["episodes"] for turn in episode["turns"]),
                sum(len(episode["turns"]) for episode in trial["episodes"]),
            )
            for trial in trials
        ),
        instances,
    )


def trajectory_diversity(trials: Iterable[Mapping[str, Any]], instances: Instances = _EACH_ITS_OWN) -> Estimate:
    """Entropy in nats of the empirical distribution of distinct action sequences, as a mean over tasks.

    For each task, its M sampled trials give M action sequences, of the first episode each. H = -sum_j p_j ln p_j, p_j
    the share of sequence j; between 0 (always the same) and ln M (never the same), so compare runs of equal M only.
    Paper: arXiv 2512.16848, figure 3. Actions that could not be read are one symbol. Raises ConfigError without trials.
    """
    return _mean(task_entropy(trials), instances)


def task_entropy(trials: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Per task, what `trajectory_diversity` is the mean of."""
    sequences: dict[str, Counter[object]] = defaultdict(Counter)
    for trial in trials:
        first = trial["episodes"][0]["turns"] if trial["episodes"] else ()
        sequences[trial["task"]["id"]][tuple(turn["action"] for turn in first)] += 1
    return {task: entropy(counts.values()) for task, counts in sequences.items()}


def entropy(counts: Iterable[int]) -> float:
    """Entropy in nats of the distribution with these (positive) counts."""
    counts = list(counts)
    total = sum(counts)
    return sum(count / total * log(total / count) for count in counts)


def paired_difference(
    ours: Mapping[str, float], theirs: Mapping[str, float], instances: Instances = _EACH_ITS_OWN
) -> Estimate:
    """Mean of ours - theirs over the tasks that both have, bootstrapped over their instances.

    The pairing takes the difficulty of a task out of the comparison. Values per task come from `task_success` or any
    other measure. Raises ConfigError where the two share no task.
    """
    common = ours.keys() & theirs.keys()
    if not common:
        raise ConfigError(
            "the two runs have no task in common: evaluate both on the same tasks (environment, split, seed)"
        )
    return _mean({task: ours[task] - theirs[task] for task in common}, instances)


class Difference(NamedTuple):
    """A paired difference with its 95 % interval and two-sided p, from `tasks` tasks."""

    value: float
    low: float
    high: float
    tasks: int
    p: float


def paired_test(
    ours: Mapping[str, float], theirs: Mapping[str, float], instances: Instances = _EACH_ITS_OWN
) -> Difference:
    """`paired_difference` with a test of "no difference" from the same bootstrap.

    p = min(1, 2 (1 + min(#{mean* <= 0}, #{mean* >= 0})) / (1 + B)) over the B resampled means: the smallest level at
    which the two-sided percentile interval leaves out 0 (Efron and Tibshirani 1993, ch. 15.4), never below 2 / (1 + B).
    """
    estimate = paired_difference(ours, theirs, instances)
    both = ours.keys() & theirs.keys()
    means = resampled(_clusters(((task, ours[task] - theirs[task], 1.0) for task in both), instances), RESAMPLES)
    fewer = min(sum(mean <= 0 for mean in means), sum(mean >= 0 for mean in means))
    return Difference(*estimate, p=min(1.0, 2 * (1 + fewer) / (1 + len(means))))


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion `successes / n`."""
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At the ends one bound is exactly 0 or 1; rounding must not push it past the proportion.
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def bootstrap(clusters: Sequence[tuple[float, float]], resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile interval of sum(a) / sum(b) over (a, b) clusters drawn with replacement; seeded.

    The same number of clusters always gives the same draws, so intervals of pass@1, pass@2, .. grow with k as the
    estimates do.
    """
    values = sorted(resampled(clusters, resamples))
    return quantile(values, 0.025), quantile(values, 0.975)


def resampled(clusters: Sequence[tuple[float, float]], resamples: int = RESAMPLES) -> list[float]:
    """sum(a) / sum(b) of every draw of `bootstrap`, in the order drawn."""
    rng = random.Random(len(clusters))
    values = []
    for _ in range(resamples):
        drawn = rng.choices(clusters, k=len(clusters))
        below = sum(b for _, b in drawn)
        if below:  # a draw without a single turn says nothing about a rate per turn
            values.append(sum(a for a, _ in drawn) / below)
    return values


def ratio(parts: Iterable[tuple[str, float, float]], instances: Instances = _EACH_ITS_OWN) -> Estimate:
    """sum(a) / sum(b) over (task, a, b), with an interval over instances. Raises ConfigError where sum(b) is 0."""
    parts = list(parts)
    clusters = _clusters(parts, instances)
    below = sum(b for _, b in clusters)
    if not below:
        raise ConfigError("there are no finished trials to take statistics of")
    tasks = len({task for task, _, _ in parts})
    return Estimate(sum(a for a, _ in clusters) / below, *bootstrap(clusters), tasks)


def quantile(ordered: Sequence[float], q: float) -> float:
    """Quantile `q` of ascending values, by linear interpolation between order statistics."""
    position = q * (len(ordered) - 1)
    index = int(position)
    above = ordered[min(index + 1, len(ordered) - 1)]
    return ordered[index] + (above - ordered[index]) * (position - index)


def _clusters(parts: Iterable[tuple[str, float, float]], instances: Instances) -> list[tuple[float, float]]:
    """(a, b) summed over each instance, in an order that depends on the instances alone."""
    sums: dict[str, tuple[float, float]] = {}
    for task, a, b in parts:
        instance = instances.get(task, task)
        before = sums.get(instance, (0.0, 0.0))
        sums[instance] = (before[0] + a, before[1] + b)
    return [sums[instance] for instance in sorted(sums)]


# -- parts ------------------------------------------------------------------------------------------------------------


def _sliver(trial: Mapping[str, Any]) -> dict[str, Any]:
    episodes = [
        {
            "success": episode["success"],
            "turns": [{"action": turn["action"], "valid": turn["valid"]} for turn in episode["turns"]],
        }
        for episode in trial["episodes"]
    ]
    return {"task": {"id": trial["task"]["id"]}, "episodes": episodes}


def _firsts(trials: Iterable[Mapping[str, Any] | FirstSuccess]) -> dict[str, list[int | None]]:
    firsts: dict[str, list[int | None]] = defaultdict(list)
    for trial in trials:
        task, first = first_success(trial) if isinstance(trial, Mapping) else trial
        firsts[task].append(first)
    return firsts


def _within(first: int | None, k: int) -> bool:
    return first is not None and first < k


def _proportion(outcomes: Mapping[str, Sequence[bool]], instances: Instances) -> Estimate:
    """Mean over tasks of the share of successes."""
    shares = {task: sum(group) / len(group) for task, group in outcomes.items()}
    independent = len({instances.get(task, task) for task in shares})
    single = independent == len(shares) and all(len(group) == 1 for group in outcomes.values())
    # Where all tasks agree every draw is the same; Wilson on the instances still says how little n of them prove.
    if shares and (single or set(shares.values()) in ({0.0}, {1.0})):
        value = sum(shares.values()) / len(shares)
        return Estimate(value, *wilson(value * independent, independent), len(shares))
    return _mean(shares, instances)


def _mean(values: Mapping[str, float], instances: Instances) -> Estimate:
    return ratio(((task, value, 1) for task, value in values.items()), instances)
