"""Credit across episodes: what every turn and every reflection of a trial is worth.

What must stay true: pure functions of the rewards. For reward r_l(n) at turn l of episode n (LaMer, arXiv 2512.16848,
eq. 3 and 4):

    g_t(n) = sum_{l >= t} gamma_step^(l - t) r_l(n)
    G_t(n) = g_t(n) + sum_{m > n} gamma_traj^(m - n) g_0(m)  =  g_t(n) + gamma_traj G_0(n + 1)

and the reflection after episode n is credited with G_0(n + 1), which it can still change. The authors' code differs:
it adds gamma_traj G_0(n + 1) to the reward of the *last* turn of episode n, so that gamma_step discounts it on the way
back to turn t. `variant="paper"` is the equation, `variant="reference"` is that code.

`counted` and `with_progress` change what the rewards are before that: only the last episode's (MAGE), and what an
attempt gained over those before it as well (RetroAgent).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Variant = Literal["paper", "reference"]
Objective = Literal["all", "final"]


class Returns(NamedTuple):
    """`turns[n][t]` is G_t(n); `reflections[n]` is G_0(n + 1), one fewer than there are episodes."""

    turns: list[list[float]]
    reflections: list[float]


def cross_episode_returns(
    rewards: Sequence[Sequence[float]], *, gamma_step: float, gamma_traj: float, variant: Variant = "paper"
) -> Returns:
    """Returns of one trial from `rewards[n][t]`, in the units of the rewards.

    Raises ValueError for a trial without episodes, an episode without turns, a discount outside [0, 1] or an unknown
    variant.
    """
    if variant not in ("paper", "reference"):
        raise ValueError(f"variant must be 'paper' or 'reference', not {variant!r}")
    if not (0 <= gamma_step <= 1 and 0 <= gamma_traj <= 1):
        raise ValueError(f"discounts lie in [0, 1], not gamma_step={gamma_step}, gamma_traj={gamma_traj}")
    if not rewards or not all(rewards):
        raise ValueError("a trial has at least one episode and every episode at least one turn")
    turns: list[list[float]] = []
    later = 0.0  # gamma_traj * G_0(n + 1)
    for episode in reversed(rewards):
        carried = later if variant == "reference" else 0.0
        added = later if variant == "paper" else 0.0
        returns: list[float] = []
        for reward in reversed(episode):
            carried = reward + (gamma_step * carried if returns else carried)
            returns.append(carried + added)
        turns.append(returns[::-1])
        later = gamma_traj * turns[-1][0]
    turns.reverse()
    return Returns(turns, [episode[0] for episode in turns[1:]])


def counted(rewards: Sequence[Sequence[float]], objective: Objective) -> list[list[float]]:
    """The rewards that count: all of them, or with "final" those of the last episode alone, all else 0.

    "final" is the objective of MAGE (arXiv 2603.03680): an attempt is worth what it does for the last one, and with
    `cross_episode_returns` a turn of an earlier episode is credited with gamma_traj^(episodes to go) g_0(last). Differs
    from the source in what is last: there every trial has all its episodes, here one ends at its first success, so the
    last episode is the last that was played, and gamma_traj alone says that an early success is better than a late one.
    Raises ValueError for an unknown objective.
    """
    if objective not in ("all", "final"):
        raise ValueError(f"objective must be 'all' or 'final', not {objective!r}")
    last = len(rewards) - 1
    return [
        list(episode) if objective == "all" or number == last else [0.0] * len(episode)
        for number, episode in enumerate(rewards)
    ]


def with_progress(
    rewards: Sequence[Sequence[float]], start: float, ends: Sequence[float], weight: float
) -> list[list[float]]:
    """The rewards with an intrinsic one at each episode's last turn: `weight` times its gain over the best before it.

    `ends[n]` is the progress (`Env.progress`, in [0, 1]) that episode n ended with, `start` that of its first state:

        b_n = max(start, ends[0], .., ends[n - 1]),   r_{T_n}(n) += weight max(0, ends[n] - b_n)

    After RetroAgent's intrinsic numerical feedback (arXiv 2603.08561), which rewards subtasks completed beyond those of
    prior attempts. Ours differs in who says so and what it is measured against: the environment states the progress,
    not the model's own reflection, and prior attempts are those of the trial. A first attempt is measured against the
    first state: the sum over a trial is then `weight` (best - start), whatever the order, so that a first attempt which
    holds back to let a later one shine gains nothing.
    Raises ValueError where there is not one number for each episode.
    """
    if len(ends) != len(rewards):
        raise ValueError(f"{len(rewards)} episodes, but the progress of {len(ends)}")
    shaped, best = [], start
    for episode, end in zip(rewards, ends, strict=True):
        shaped.append([*episode[:-1], episode[-1] + weight * max(0.0, end - best)])
        best = max(best, end)
    return shaped


def call_discounts(
    lengths: Sequence[int], reflected: Sequence[bool], *, gamma_step: float, gamma_traj: float
) -> list[float]:
    """How much of the next call's value counts at each call of a trial, in time order; for `advantages.gae`.

    Episode n has `lengths[n]` turns, and `reflected[n]` says that a trained reflection follows it (the last one's is
    ignored). gamma_step within an episode, gamma_traj from its last turn on, 1 from a reflection to the episode that it
    prepares, 0 at the end. The sum of rewards under these discounts is `cross_episode_returns(variant="reference")`.
    """
    discounts: list[float] = []
    for number, turns in enumerate(lengths):
        last = number + 1 == len(lengths)
        discounts += [gamma_step] * (turns - 1) + [0.0 if last else gamma_traj]
        if not last and reflected[number]:
            discounts.append(1.0)
    return discounts
