"""Advantages: from the returns of a batch of calls to one number for each call, six ways.

What must stay true: pure functions of flat arrays with one entry per policy call (turns and reflections alike); the
order of the calls does not matter (except in `gae`: time order within a trial), and no call sees more of another than
its number. Statistics are over *calls*, so a long trial weighs more than a short one, as in the methods' own code.

`groups[i]` names what call i is compared with: the task, of which G trials were sampled.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Normalise = Literal["mean", "std"]


def gigpo(
    *,
    groups: Sequence[Hashable],
    trials: Sequence[Hashable],
    anchors: Sequence[Hashable],
    episode_rewards: Sequence[float],
    step_returns: Sequence[float],
    step_weight: float = 1.0,
    normalise: Normalise = "mean",
    eps: float = 1e-6,
) -> list[float]:
    """GiGPO (arXiv 2505.10978, eq. 3, 7 and 8): an episode-level advantage plus `step_weight` times a step-level one.

    Episode level: the call's `episode_rewards` minus their mean over the group's calls; step level: its `step_returns`
    minus their mean over the group's calls that share its anchor. `normalise="std"` divides each by the sample standard
    deviation plus eps. A group of one call keeps its value; an anchor seen once contributes nothing.
    Raises ValueError for arrays of different lengths or a trial that is in two groups.
    """
    _check(groups, trials, anchors, episode_rewards, step_returns)
    owner: dict[Hashable, Hashable] = {}
    for trial, group in zip(trials, groups, strict=True):
        if owner.setdefault(trial, group) != group:
            raise ValueError(f"trial {trial!r} is in two groups, {owner[trial]!r} and {group!r}")
    shared = [(group, anchor) for group, anchor in zip(groups, anchors, strict=True)]
    episode = _relative(groups, episode_rewards, normalise, eps, keep_single=True)
    step = _relative(shared, step_returns, normalise, eps, keep_single=False)
    return _list(episode + step_weight * step)


def anchored(
    *,
    groups: Sequence[Hashable],
    anchors: Sequence[Hashable],
    fallbacks: Sequence[Hashable],
    step_returns: Sequence[float],
    clamp: float = 4.0,
    eps: float = 1e-6,
) -> list[float]:
    """A step-level advantage alone, for small policies: what GiGPO's step level becomes when every call has a baseline.

    A call's return minus the mean over the group's calls that share its anchor, or, if no other does, its fallback
    (typically the same episode and turn); divided by the batch's standard deviation plus eps; clamped to +-`clamp`.
    """
    _check(groups, anchors, fallbacks, step_returns)
    values = _array(step_returns)
    index, sizes = _index([(group, anchor) for group, anchor in zip(groups, anchors, strict=True)])
    wider, wider_sizes = _index([(group, fallback) for group, fallback in zip(groups, fallbacks, strict=True)])
    near, far = _means(index, sizes, values)[index], _means(wider, wider_sizes, values)[wider]
    centred = values - np.where(sizes[index] > 1, near, far)
    return _list(np.clip(centred / (_std(centred) + eps), -clamp, clamp))


def grpo(
    *,
    groups: Sequence[Hashable],
    episode_rewards: Sequence[float],
    normalise: Normalise = "std",
    eps: float = 1e-6,
) -> list[float]:
    """GRPO (arXiv 2402.03300, section 4.1.2): the reward relative to the group's mean, in its standard deviations.

    A group of one call keeps its value. `normalise="mean"` leaves the division out (arXiv 2503.20783).
    """
    _check(groups, episode_rewards)
    return _list(_relative(groups, episode_rewards, normalise, eps, keep_single=True))


def rloo(*, groups: Sequence[Hashable], trials: Sequence[Hashable], episode_rewards: Sequence[float]) -> list[float]:
    """REINFORCE leave-one-out (arXiv 2402.14740, eq. 8): the reward minus the mean over the group's *other* trials.

    The mean is over the calls of the others, so nothing that a trial did enters its own baseline. A call whose group
    holds no other trial gets 0.
    """
    _check(groups, trials, episode_rewards)
    values = _array(episode_rewards)
    group, group_sizes = _index(groups)
    trial, trial_sizes = _index([(g, t) for g, t in zip(groups, trials, strict=True)])
    others = (group_sizes[group] - trial_sizes[trial]).astype(np.float64)
    sums = np.bincount(group, weights=values, minlength=len(group_sizes))[group]
    own = np.bincount(trial, weights=values, minlength=len(trial_sizes))[trial]
    baseline = (sums - own) / np.maximum(others, 1.0)
    return _list(np.where(others > 0, values - baseline, 0.0))


def mr_search(
    *,
    groups: Sequence[Hashable],
    trials: Sequence[Hashable],
    episodes: Sequence[int],
    episode_rewards: Sequence[float],
    gamma: float,
) -> list[float]:
    """MR-Search (arXiv 2603.11327): an episode against the same episode of the group's other trials, then summed up.

    With v_i(n) the mean of `episode_rewards` (undiscounted) over the calls of trial i in episode n, b_i(n) the mean of
    v_j(n) over the other trials j of the group that have an episode n, and R_i(n) = 0 beyond a trial's last:

        R_i(n) = v_i(n) - b_i(n) + gamma R_i(n + 1),   A = (the call's reward) - b_i(n) + gamma R_i(n + 1)

    so advantages are relative first and discounted over episodes afterwards; of equal rewards within an episode all
    its calls get R_i(n). That is the "turn" of the source, whose turns are whole search episodes that end in an answer.
    `episodes` says where a call belongs: a reflection to the episode that it prepares, whose context it opens there.

    Differs from the source where trials end at their first success: a later episode is compared among those that
    reached it, and alone (as there) it counts 0. Calls of one episode may differ (invalid ones are charged).
    Raises ValueError for arrays of different lengths.
    """
    _check(groups, trials, episodes, episode_rewards)
    values = _array(episode_rewards)
    places = list(zip(groups, trials, episodes, strict=True))
    cell, sizes = _index(places)
    own = _means(cell, sizes, values)
    names = list(dict.fromkeys(places))
    peer, peers = _index([(group, episode) for group, _, episode in names])
    sums = np.bincount(peer, weights=own, minlength=len(peers))[peer]
    others = peers[peer] - 1
    known = others > 0
    baseline = np.where(known, (sums - own) / np.maximum(others, 1), own)
    relative: dict[Hashable, float] = {}
    numbers = dict(zip(names, own - baseline, strict=True))
    for group, trial, episode in sorted(names, key=lambda name: -name[2]):
        following = relative.get((group, trial, episode + 1), 0.0)
        relative[group, trial, episode] = float(numbers[group, trial, episode]) + gamma * following
    later = np.array([gamma * relative.get((group, trial, episode + 1), 0.0) for group, trial, episode in places])
    return _list(np.where(known[cell], values - baseline[cell], 0.0) + later) if places else []


def reinforce_plus_plus(*, step_returns: Sequence[float], eps: float = 1e-6) -> list[float]:
    """REINFORCE++ (arXiv 2501.03262, eq. 15): the return, normalised over the whole batch; no groups are needed."""
    values = _array(step_returns)
    return _list((values - values.mean()) / (_std(values) + eps)) if len(values) else []


class Gae(NamedTuple):
    """`advantages` and the critic's targets (`advantages` plus the values they were computed with), one per call."""

    advantages: list[float]
    targets: list[float]


def gae(
    *,
    trials: Sequence[Hashable],
    rewards: Sequence[float],
    values: Sequence[float],
    discounts: Sequence[float],
    lam: float = 0.95,
) -> Gae:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16) over the calls of each trial, in time order.

    delta_i = r_i + discount_i V_{i+1} - V_i and A_i = delta_i + discount_i lam A_{i+1}; beyond a trial's last call both
    are 0. `discounts` are `credit.call_discounts`. Not normalised: see `whiten`.
    """
    _check(trials, rewards, values, discounts)
    advantages = [0.0] * len(trials)
    following: dict[Hashable, tuple[float, float]] = {}
    for i in range(len(trials) - 1, -1, -1):
        value, advantage = following.get(trials[i], (0.0, 0.0))
        advantages[i] = rewards[i] + discounts[i] * (value + lam * advantage) - values[i]
        following[trials[i]] = values[i], advantages[i]
    return Gae(advantages, [a + v for a, v in zip(advantages, values, strict=True)])


def whiten(values: Sequence[float], eps: float = 1e-6) -> list[float]:
    """Zero mean and unit standard deviation over the batch."""
    return reinforce_plus_plus(step_returns=values, eps=eps)


# -- statistics over groups -------------------------------------------------------------------------------------------


def _relative(
    groups: Sequence[Hashable], numbers: Sequence[float], normalise: Normalise, eps: float, *, keep_single: bool
) -> Floats:
    """Values minus their group's mean, for "std" over the sample deviation + eps; alone: the value itself, or 0."""
    if normalise not in ("mean", "std"):
        raise ValueError(f"normalise must be 'mean' or 'std', not {normalise!r}")
    values = _array(numbers)
    index, sizes = _index(groups)
    centred = values - _means(index, sizes, values)[index]
    scale = np.ones(len(sizes))
    if normalise == "std":
        squares = np.bincount(index, weights=centred**2, minlength=len(sizes))
        scale = np.where(sizes > 1, np.sqrt(squares / np.maximum(sizes - 1, 1)) + eps, 1.0)
    alone = sizes[index] == 1
    kept = values if keep_single else np.zeros_like(values)
    return np.where(alone, kept, centred / scale[index])


def _index(keys: Sequence[Hashable]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The number of each call's group, and how many calls each group has."""
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    return index, np.bincount(index, minlength=len(numbers))


def _means(index: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], values: Floats) -> Floats:
    means: Floats = np.bincount(index, weights=values, minlength=len(sizes)) / np.maximum(sizes, 1)
    return means


def _std(values: Floats) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _array(numbers: Sequence[float]) -> Floats:
    values = np.asarray(numbers, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("returns and rewards must be finite numbers")
    return values


def _list(values: Floats) -> list[float]:
    numbers: list[float] = values.tolist()
    return numbers


def _check(first: Sequence[object], *others: Sequence[object]) -> None:
    if any(len(other) != len(first) for other in others):
        raise ValueError(f"one entry per call: the arrays have {[len(first), *(len(o) for o in others)]}")
